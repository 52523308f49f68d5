"""What errors say, and the catalogue of them: each docstring breaks a program and mends it."""

from __future__ import annotations

import doctest
import pickle
import re
from importlib import import_module
from pathlib import Path

import pytest
from test_doctests import modules

import ppgen.errors
from ppgen.errors import EstimatorError, PpgenError, SiteError, public_name

ROOT = Path(__file__).parent.parent
ALL = [
    cls
    for cls in vars(ppgen.errors).values()
    if isinstance(cls, type) and issubclass(cls, PpgenError) and cls is not PpgenError
]


def every_class():
    """Every class of errors of the package, by its public name; the command line's has none."""
    for name in modules():
        import_module(name)
    found, todo = {}, [PpgenError]
    while todo:
        kinds = [k for k in todo.pop().__subclasses__() if k.__module__.startswith("ppgen.")]
        found |= {public_name(kind): kind for kind in kinds}
        todo += kinds
    assert found.pop(None).__name__ == "CommandError"
    return found


def test_all_are_listed():
    """The classes that the package promises, and the page that lists them."""
    assert {cls.__name__ for cls in ALL} == {
        "SiteError",
        "EstimatorError",
        "BiasedEstimatorError",
        "DiscontinuityError",
        "ControlFlowError",
        "ChoiceMismatchError",
        "CostError",
        "DensityError",
        "DerivativeError",
        "RandomKeyError",
    }
    # Of the modules' own classes there are links to where their modules are described.
    page = (ROOT / "docs" / "errors.md").read_text()
    others = {name for name in every_class() if not name.startswith("ppgen.errors.")}
    assert set(re.findall(r"{py:exc}`(.*?)`", page)) == others | {"ppgen.PpgenError"}


def test_each_has_a_program_that_fails_and_one_that_is_mended():
    """The examples run in `test_doctests`, which this makes sure of."""
    for name, cls in every_class().items():
        found = doctest.DocTestFinder().find(import_module(cls.__module__))
        [examples] = [t.examples for t in found if t.name == f"{cls.__module__}.{cls.__name__}"]
        failed = [k for k, e in enumerate(examples) if e.exc_msg is not None]
        assert len(failed) == 1, name
        message = examples[failed[0]].exc_msg
        assert message.startswith(f"{cls.__module__}.{cls.__name__}: "), name
        assert message.endswith(f"  See: {name}\n"), name
        assert failed[0] < len(examples) - 1, name


def test_none_is_raised_by_the_name_of_the_base():
    """It has no entry in the catalogue."""
    for folder in ("ppgen", "inference", "models"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "raise PpgenError" not in path.read_text(), path


def test_the_name_is_where_it_is_imported_from():
    assert public_name(SiteError) == "ppgen.errors.SiteError"
    assert public_name(PpgenError) is None

    class Own(SiteError):
        pass

    assert public_name(Own) is None
    assert str(Own("it broke")) == "it broke"


@pytest.mark.parametrize("cls", ALL)
def test_says_site_place_and_remedy(cls):
    """The text holds every part that is known, and the parts stay apart."""
    error = cls("it broke", site="z", where="user_file.py:12", instead="dist.Normal(0.0, 1.0)")
    text = str(error)
    for part in (
        "it broke",
        "at site 'z'",
        "user_file.py:12",
        "Write instead: dist.Normal(0.0, 1.0)",
        f"See: ppgen.errors.{cls.__name__}",
    ):
        assert part in text
    assert (error.message, error.site, error.where) == ("it broke", "z", "user_file.py:12")
    assert error.instead == "dist.Normal(0.0, 1.0)"


def test_unknown_parts_are_left_out():
    """A bare error is its message."""
    assert str(PpgenError("it broke")) == "it broke"
    assert "Write instead" not in str(PpgenError("it broke", site="z"))


def test_builtin_bases():
    """Handlers of `ValueError` and `TypeError` see those that are such."""
    with pytest.raises(ValueError):
        raise SiteError("two sites of one name", site="z")
    with pytest.raises(TypeError):
        raise EstimatorError("does not fit")


def test_can_be_pickled():
    """Errors travel between processes."""
    error = pickle.loads(pickle.dumps(SiteError("it broke", site="z", instead="x")))
    assert isinstance(error, SiteError)
    assert (error.site, error.where, error.instead) == ("z", None, "x")
