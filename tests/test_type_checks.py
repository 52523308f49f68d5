"""Types are checked while the tests run: those of functions and methods, and all shapes."""

import importlib
import sys
from pathlib import Path

import pytest
from type_checks import Finder

import ppgen

SOURCE = """
from __future__ import annotations
import functools

def double(x: int) -> int:
    return 2 * x

def half(x: int) -> int:
    return x / 2

def inner():
    def double(x: int) -> int:
        return 2 * x
    return double

class Number:
    @functools.cached_property
    def one(self) -> int:
        return 1.0

    def plus(self, x: int) -> int:
        return 1 + x
"""


@pytest.fixture
def checked(tmp_path, monkeypatch):
    folder = tmp_path / "some_package"
    for name in ("__init__.py", "checked.py", "other/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    finder = Finder("some_package", ["some_package.other"])
    monkeypatch.setattr("sys.meta_path", [finder, *sys.meta_path])
    yield
    for name in [name for name in sys.modules if name.startswith("some_package")]:
        del sys.modules[name]


def test_functions_and_methods_are_checked(checked):
    module = importlib.import_module("some_package.checked")
    assert module.double(2) == 4 and module.Number().plus(1) == 2
    wrong = (
        lambda: module.double("2"),
        lambda: module.half(2),
        lambda: module.Number().plus("2"),
        lambda: module.Number().one,
    )
    for call in wrong:
        with pytest.raises(TypeError, match="violates type hint"):
            call()
    # Not what is made anew at each call, nor what is left to another.
    assert module.inner()("2") == "22"
    assert importlib.import_module("some_package.other").double("2") == "22"


def test_ppgen_is_checked():
    with pytest.raises(TypeError, match="violates type hint"):
        ppgen.with_estimators(lambda: 0.0, 3)


def test_shapes_are_stated_where_jaxtyping_checks_them():
    root = Path(ppgen.__file__).parent
    folders = {root / "inference", root / "models"}
    for path in root.rglob("*.py"):
        if not folders & set(path.parents):
            assert "jaxtyping" not in path.read_text(encoding="utf-8"), path
