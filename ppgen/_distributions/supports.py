"""Supports of distributions, as far as they can be compared without running anything."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from numpyro.distributions import Delta, Distribution, constraints

from ppgen._distributions.edges import ends_somewhere
from ppgen._distributions.wrappers import unwrapped

_INDEPENDENT = type(constraints.independent(constraints.real, 1))
_SHAPED = ("simplex", "cholesky", "definite", "ordered", "sphere", "circular", "corr")


class Support(NamedTuple):
    """The static facts about a support.

    Attributes:
        kind: "real", "integer" or the name of a set of vectors or matrices, such as "simplex";
            "unknown" where the distribution does not say.
        lower: lower bound, where it is a number.
        upper: upper bound, where it is a number.
        bounded: whether there is a lower bound and an upper one, numbers or not.
    """

    kind: str
    lower: float | None = None
    upper: float | None = None
    bounded: tuple[bool, bool] = (False, False)

    def __str__(self) -> str:
        low = "?" if self.lower is None else f"{self.lower:g}"
        high = "?" if self.upper is None else f"{self.upper:g}"
        below, above = self.bounded
        if not (below or above):
            return self.kind
        return f"{self.kind} in [{low if below else '-inf'}, {high if above else 'inf'}]"


def support_of(dist: Distribution) -> Support:
    """The support of one element of a distribution's sample."""
    if isinstance(unwrapped(dist), Delta):
        # NumPyro gives the support of every point mass as real.
        return Support("unknown")
    try:
        constraint = dist.support
    except NotImplementedError:
        constraint = None
    while isinstance(constraint, _INDEPENDENT):
        constraint = constraint.base_constraint
    name = type(constraint).__name__.lstrip("_").lower()
    if constraint is None or name == "dependent":
        return Support("unknown")
    if family := next((part for part in _SHAPED if part in name), None):
        return Support(family)
    lower, upper = (getattr(constraint, f"{side}_bound", None) for side in ("lower", "upper"))
    if name == "boolean":
        lower, upper = 0, 1
    kind = "integer" if constraint.is_discrete else "real"
    return Support(kind, _number(lower), _number(upper), (lower is not None, upper is not None))


def shown(dist: Distribution, value: Any, mask: Any) -> Any:
    """`value` where `mask` (which broadcasts to the batch) shows it, else a point of the support.

    Hidden values, such as missing data, must not reach a density at all: a `where` removes their
    NaN from the value, but not from the derivative.
    """
    try:
        point = cast(Any, dist.support).feasible_like(value)
    except (NotImplementedError, AttributeError):  # a distribution or a set that does not say
        point = jnp.zeros_like(value)
    point = jax.lax.stop_gradient(jnp.asarray(point, jnp.result_type(value)))
    mask = jnp.reshape(mask, jnp.shape(mask) + (1,) * dist.event_dim)
    return jnp.where(mask, value, point)


def range_of(dist: Distribution) -> tuple[float | None, float | None]:
    """The range of the elements of a sample; None for an end that is not known.

    Vectors and matrices of a shape of their own (a simplex) have no ends here.
    """
    support = support_of(dist)
    if support.kind != "real":
        return -math.inf, math.inf
    low, high = (
        (bound if given else infinite)
        for bound, given, infinite in zip(
            (support.lower, support.upper), support.bounded, (-math.inf, math.inf), strict=True
        )
    )
    if not any(support.bounded) and ends_somewhere(dist):
        # NumPyro calls the support of a shifted exponential real.
        return None, None
    return low, high


def _number(bound: object) -> float | None:
    return float(bound) if isinstance(bound, (int, float)) else None


def agree(one: Support, other: Support) -> bool:
    """Whether two supports may be the same set: bounds that are not numbers are not compared."""
    if "unknown" in (one.kind, other.kind):
        return True
    if one.kind != other.kind:
        return False
    if one.kind == "integer" and one.lower == other.lower:
        # How many values a choice has is often in the shape of a parameter: Binomial, Categorical.
        return one.upper is None or other.upper is None or one.upper == other.upper
    if one.bounded != other.bounded:
        return False
    pairs = ((one.lower, other.lower), (one.upper, other.upper))
    return all(a is None or b is None or a == b for a, b in pairs)
