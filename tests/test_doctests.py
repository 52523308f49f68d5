"""Every example in a docstring of the package runs and prints what it says."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import jax
import pytest


def modules():
    """Every module of the package, those of `models` and `inference` beside it included."""
    # In a checkout the folder above is on ppgen's path too, and everything in it would be found.
    for folder in ("", "models.", "inference."):
        package = import_module(f"ppgen.{folder}".rstrip("."))
        yield package.__name__
        path = package.__path__[:1]
        yield from (info.name for info in pkgutil.walk_packages(path, package.__name__ + "."))


@pytest.fixture
def no_notes():
    """Errors without JAX's note that it left out frames, which would follow each message."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


@pytest.mark.sweep(of=6)
@pytest.mark.usefixtures("no_notes")
@pytest.mark.parametrize("name", sorted(set(modules())))
def test_examples(name):
    # What an error says of the line that it is in is not the same twice.
    assert doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS).failed == 0
