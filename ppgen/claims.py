"""Claims about objectives and estimates, from which the page "Is it unbiased?" is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

Value = Literal["exact", "unbiased", "lower bound", "upper bound", "biased", "heuristic"]
_F = TypeVar("_F", bound=Callable[..., Any])


class Claim(NamedTuple):
    """What is promised of the value and the gradient of an objective.

    Attributes:
        value: how the expectation of the value relates to `of`. A *bound* holds for all arguments;
            the bias of *biased* vanishes in a limit that `but` names; a *heuristic* promises
            neither.
        of: what is estimated or bounded.
        gradient: whether derivatives are those of the expectation of the value, *whatever that is*;
            `None` where they are not what it is for.
        but: exceptions, for which another claim holds.
    """

    value: Value
    of: str
    gradient: Literal["unbiased", "biased"] | None
    but: str


def claims(
    value: Value,
    of: str,
    *,
    gradient: Literal["unbiased", "biased"] | None = None,
    but: str = "",
) -> Callable[[_F], _F]:
    """Attach a claim to a public function.

    `tests/test_claims.py` checks each claim against the function's docstring, which states it in
    words between asterisks, and against what the function computes.

    Args:
        value: how the expectation of the value relates to `of`.
        of: what is estimated or bounded.
        gradient: whether derivatives are those of the expectation of the value; `None` where they
            are not what it is for.
        but: exceptions, for which another claim holds.

    Returns:
        A decorator that returns the function itself, with the claim.

    Example:
        >>> from ppgen.claims import claim_of, claims
        >>> @claims("lower bound", "the log evidence", gradient="unbiased")
        ... def bound(model, guide):
        ...     "A bound: *a lower bound*, with *unbiased* value and gradients."
        >>> claim_of(bound).value, claim_of(bound).gradient
        ('lower bound', 'unbiased')
    """

    def declare(function: _F) -> _F:
        function.__claim__ = Claim(value, of, gradient, but)
        return function

    return declare


def claim_of(function: Any) -> Claim | None:
    """The claim attached to a function, or `None`.

    Args:
        function: as decorated by `claims`.
    """
    return getattr(function, "__claim__", None)
