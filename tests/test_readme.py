"""The README's blocks and commands run, one after the other, as a reader would run them."""

import re
import runpy
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from cli_runs import SHORT, TINY, cache, here  # noqa: F401

import ppgen
from ppgen.models.cli import main
from ppgen.testing import assert_unbiased

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))


def run_blocks(path):
    """Every block of a page, in one namespace."""
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
        exec(compile(block, str(path), "exec"), scope)
    return scope


@pytest.mark.long
def test_code_blocks_run(capsys):
    scope = run_blocks(README)
    assert np.isfinite(scope["value"])
    assert capsys.readouterr().out == "p = 0.4\n"  # as the text says


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 130


@pytest.mark.long
@pytest.mark.parametrize("page", GUIDE, ids=lambda path: path.stem)
def test_pages_of_the_guide_run(page, capsys):
    scope = run_blocks(page)
    if "fitted" in scope:
        assert np.isfinite(scope["fitted"].history).all()


@pytest.mark.long
def test_the_estimator_of_the_guide_is_unbiased(capsys):
    mirrored = run_blocks(ROOT / "docs" / "guide" / "estimators.md")["Mirrored"]

    def cube(theta):
        return ppgen.draw(dist.Normal(theta, 1.0), grad=mirrored()) ** 3

    assert_unbiased(cube, 1.0, order=1)

    def cubes(theta):  # in a plate, which expands the distribution
        with numpyro.plate("pair", 2):
            return jnp.sum(ppgen.draw(dist.Normal(theta, 1.0), grad=mirrored()) ** 3)

    assert_unbiased(cubes, 1.0, order=1)


def test_first_block_is_the_elbo_of_a_conjugate_model():
    """At the posterior, each draw of the bound is the log evidence and its gradient is zero."""
    block = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    scope: dict = {}
    exec(compile(block, str(README), "exec"), scope)
    theta = np.array([0.0, 0.5, np.log(0.5) / 2], np.float32)
    value = scope["bound"](jax.random.key(1), theta, 1.0)
    evidence = dist.Normal(0.0, 2.0**0.5).log_prob(1.0)
    np.testing.assert_allclose(value, evidence, rtol=1e-5)


def commands():
    """What the shell blocks say, line by line, and each part of a line, without comments."""
    for page in (README, ROOT / "docs" / "command_line.md"):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                yield from line.split("#")[0].strip().split(" && ")


@pytest.mark.long
def test_commands_run(here):  # noqa: F811
    """Installation is what `.ci/run` does; the rest is run here, the first fit a short one."""
    ci = (ROOT / ".ci" / "run").read_text()
    ran = []
    for command in commands():
        program, *words = shlex.split(command)
        if program.endswith("ppgen"):
            short = [*TINY["vae"], *SHORT] if words == ["fit", "vae"] else []
            assert main([*words, *short]) == 0, command
            ran.append(words[0])
        elif command == ".venv/bin/pip install -e .":
            assert f"{command[:-1]}'.[test]'" in ci  # less than that
        else:
            assert command in ci, f"nothing runs {command!r}"
    assert ran == ["fit", "sample", "resume", "evaluate", "list", "fit"]
    assert (here / "samples.png").stat().st_size > 1000
    again = (here / "runs" / "vae-002" / "config.json").read_text()
    assert re.search(r'"seed": 1\b', again)


def test_what_is_linked_is_there():
    for page in (README, *GUIDE):
        text = page.read_text()
        names = [page.parent / name for name in re.findall(r"\]\((?!http)(.*?)\)", text)]
        names += [ROOT / name for name in re.findall(r"`(benchmarks/[\w.]+)`", text)]
        assert len(names) > 5 or page != README
        for name in names:
            assert name.exists(), name


# --- the table against other libraries ------------------------------------------------------------


def cells(text, title):
    """The numbers of a row of a Markdown table."""
    [row] = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [float(x) for x in re.findall(r"-?\d*\.\d+", row.replace("−", "-"))]


@pytest.fixture(scope="module")
def compare():
    return runpy.run_path(str(ROOT / "benchmarks" / "compare.py"), run_name="compare")


def test_the_table_is_what_was_measured(compare):
    measured = (ROOT / "benchmarks" / "compare.md").read_text()
    for row, title in compare["ROWS"].items():
        shown, found = cells(README.read_text(), title), cells(measured, title)
        assert shown == found, title
        assert abs(shown[0] - compare["EXACT"][row]) < 6e-4


@pytest.mark.long
def test_the_column_of_ppgen_is_right(compare):
    """With fewer draws than the table has."""
    compare["with_ppgen"].__globals__["DRAWS"] = 4000
    found = compare["measure"]("ppgen")["cells"]
    for row, exact in compare["EXACT"].items():
        mean, error = found[row]
        assert error < 0.3 and abs(mean - exact) <= 5 * error + 1e-4, (row, mean, error)
