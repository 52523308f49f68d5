"""Every example in a docstring of the package runs and prints what it says."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pytest


def modules():
    """Every module of the package, those of `models` and `inference` beside it included."""
    # In a checkout the folder above is on ppgen's path too, and everything in it would be found.
    for folder in ("", "models.", "inference."):
        package = import_module(f"ppgen.{folder}".rstrip("."))
        yield package.__name__
        path = package.__path__[:1]
        yield from (info.name for info in pkgutil.walk_packages(path, package.__name__ + "."))


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_examples(name):
    assert doctest.testmod(import_module(name)).failed == 0
