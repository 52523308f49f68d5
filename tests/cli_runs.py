"""Tiny runs of every model of the command line, for its tests."""

import json

import numpy as np
import pytest

from ppgen.models.cli import main
from ppgen.models.cli._options import arguments_of
from ppgen.models.cli._rooms import installed

TINY = {name: arguments_of(room.recipe().tiny) for name, room in installed().items()}
"""Options of each model that is there."""

SHORT = ["--steps", "4", "--chunk", "2", "--checkpoint-every", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Compiled programs are kept for the other tests, and nowhere else."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = [
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp() / "compiled"
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        compilation_cache.reset_cache()
        yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of 48 small images of five grey levels."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=np.random.RandomState(0).randint(0, 5, (48, 4, 3)))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, images, cache):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    arguments = ["fit", "vae", *TINY["vae"], *SHORT, "--objective", "iwelbo"]
    assert main([*arguments, "--data", str(images), "--out", str(folder)]) == 0
    return folder


def assert_one_line(capsys, pattern):
    error = capsys.readouterr().err
    assert error.startswith("ppgen: ") and error.count("\n") == 1, error
    assert pattern in error, error
    assert "Traceback" not in error


def metrics_of(folder):
    """The lines without the time that they took."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
