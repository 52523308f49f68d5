"""What is claimed of objectives and estimates: the facts of the page "Is it unbiased?"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

Value = Literal["exact", "unbiased", "lower bound", "upper bound", "biased", "heuristic"]
_F = TypeVar("_F", bound=Callable[..., Any])


class Claim(NamedTuple):
    """A claim.

    Attributes:
        value: what the expectation of the value is to `of`. A *bound* holds for every argument;
            *biased* goes away in a limit that `but` names; a *heuristic* promises neither.
        of: what is estimated or bounded.
        gradient: whether derivatives are those of the expectation of the value, *whatever that is*;
            `None` where they are not what it is for.
        but: for what the claim is another one.
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
    """Claim something of a public function.

    `tests/test_claims.py` holds each claim to the function's docstring, which says the same in
    words with asterisks, and to what the function computes.

    Args:
        value: what the expectation of the value is to `of`.
        of: what is estimated or bounded.
        gradient: whether derivatives are those of the expectation of the value; `None` where they
            are not what it is for.
        but: for what the claim is another one.

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
    """What is claimed of a function; `None` where that is nothing.

    Args:
        function: as decorated by `claims`.
    """
    return getattr(function, "__claim__", None)
