"""Names that are imported when they are asked for: what is public, and that the command is fast."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import TINY

ROOT = Path(__file__).parent.parent
LAZY = sorted(
    path.parent.relative_to(ROOT)
    for top in ("ppgen", "inference", "models")
    for path in (ROOT / top).rglob("__init__.py")
    if "_export_lazily(" in path.read_text()
)


def in_python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["fit", "--help"],
        ["resume", "--help"],
        ["arena", "--help"],
        [],
    ]
    + [["fit", name, "--help"] for name in TINY],
    ids=" ".join,
)
def test_what_computes_nothing_does_not_import_jax(words):
    program = """if True:
    import sys
    from ppgen.models.cli import main
    status = main(sys.argv[1:])
    assert not {"jax", "numpyro", "matplotlib"} & set(sys.modules), sorted(sys.modules)
    sys.exit(status)
    """
    ran = in_python(program, *words)
    assert ran.returncode == (0 if words else 2), ran.stderr


@pytest.mark.parametrize("folder", LAZY, ids=str)
def test_a_package_has_every_name_that_it_exports(folder):
    name = "ppgen" if str(folder) == "ppgen" else "ppgen." + ".".join(folder.parts)
    name = name.replace("ppgen.ppgen.", "ppgen.")
    package = importlib.import_module(name)
    blocks = [
        node
        for node in ast.parse((ROOT / folder / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    exports = [alias.asname for block in blocks for line in block.body for alias in line.names]
    assert exports and None not in exports  # `as` says that a name is exported
    assert set(exports) <= set(dir(package))
    for export in exports:
        assert callable(getattr(package, export)) or export.isupper(), export
    # The module would take the name's place as soon as it is imported.
    assert not set(exports) & {info.name for info in pkgutil.iter_modules(package.__path__[:1])}
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'no_such_name'"):
        _ = package.no_such_name


def test_the_first_name_may_be_asked_for_anywhere():
    """While a function is traced; from a star; as a package below; by what unpickles an error."""
    program = """if True:
    import pickle
    import jax, numpyro, ppgen
    assert "expectation" not in vars(ppgen)
    def objective(p):
        flip = numpyro.distributions.Bernoulli(p)
        return (numpyro.sample("x", flip, infer={"grad": ppgen.Enumerate()}) - 0.2) ** 2
    value = jax.jit(lambda p: ppgen.expectation(objective)(jax.random.key(0), p))
    # Again with another shape: nothing of the first trace was kept.
    for p in (0.3, jax.numpy.array([0.3])[0], jax.numpy.float16(0.3)):
        assert jax.numpy.isclose(value(p), 0.3 * 0.64 + 0.7 * 0.04, atol=1e-3)
    assert ppgen.inference.elbo and ppgen.estimators.REBAR is ppgen.REBAR
    from ppgen.inference import *
    error = pickle.loads(pickle.dumps(FitError("wrong")))
    assert type(error) is FitError and "ppgen.inference.FitError" in repr(FitError)
    assert iwelbo is ppgen.inference.iwelbo
    """
    ran = in_python(program)
    assert ran.returncode == 0, ran.stderr


def test_an_import_leaves_the_devices_alone():
    """What sets JAX up (several processes, say) may come after it."""
    program = """if True:
    import ppgen, ppgen.inference, ppgen.models.vae
    ppgen.expectation, ppgen.inference.fit, ppgen.models.vae.VAE
    from jax._src import xla_bridge
    assert not xla_bridge.backends_are_initialized()
    """
    ran = in_python(program)
    assert ran.returncode == 0, ran.stderr
