"""What errors say."""

from __future__ import annotations

import pickle

import pytest

from ppgen import _errors
from ppgen._errors import EstimatorError, PpgenError, SiteError

ALL = [
    cls
    for cls in vars(_errors).values()
    if isinstance(cls, type) and issubclass(cls, PpgenError) and cls is not PpgenError
]


def test_all_are_listed():
    """The classes that the package promises."""
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
    }


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
