"""Truncated normal distributions, accurate however far out in a tail the bounds lie."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ppgen._distributions.normal_tails import log_ndtr

TRUNCATED = (
    dist.LeftTruncatedDistribution,
    dist.RightTruncatedDistribution,
    dist.TwoSidedTruncatedDistribution,
)


def truncated_normal_log_prob(d: Any, value: Array) -> Array:
    """Log density (in nats) at `value`, of one of `TRUNCATED` whose base is a Normal."""
    loc, scale = d.base_dist.loc, d.base_dist.scale
    z = (value - loc) / scale
    log_mass = log_normal_mass(*(standardized(bound, loc, scale) for bound in bounds(d)))
    half_log_two_pi = 0.5 * jnp.log(2 * jnp.pi)
    return -0.5 * z**2 - half_log_two_pi - jnp.log(scale) - log_mass


def standardized(bound: ArrayLike, loc: ArrayLike, scale: ArrayLike) -> Array:
    """A bound of the standard normal; one that is infinite moves with no parameter."""
    infinite = jnp.isinf(bound)
    return jnp.where(infinite, bound, (jnp.where(infinite, 0.0, bound) - loc) / scale)


def bounds(d: Any) -> tuple[ArrayLike, ArrayLike]:
    """The ends of the support of one of `TRUNCATED`, which may be infinite."""
    return getattr(d, "low", -jnp.inf), getattr(d, "high", jnp.inf)


def log_normal_mass(a: ArrayLike, b: ArrayLike) -> Array:
    """The log of the mass that a standard normal distribution has between `a` and `b > a`.

    From the left of the mode, where both distribution functions are small and have all their
    digits, and in logs. Between bounds close to each other it is what the middle's density says:
    there the difference of the two loses its digits.
    """
    a, b = jnp.asarray(a, float), jnp.asarray(b, float)
    right = a + b > 0  # never both infinite and of one sign
    a, b = jnp.where(right, -b, a), jnp.where(right, -a, b)
    finite = jnp.isfinite(a)
    inner = jnp.where(finite, a, b - 1)  # derivatives are those of numbers
    drop = log_ndtr(inner) - log_ndtr(b)
    outer = log_ndtr(b) + jnp.log(-jnp.expm1(jnp.where(drop < 0, drop, -1.0)))
    middle, half = (inner + b) / 2, (b - inner) / 2
    # The density times sinh(slope) / slope, plus what its curvature makes of it, to fourth order.
    x = middle * half
    narrow = (half > 0) & (half < 0.01) & (jnp.abs(x) < 0.1)
    half, x, m = (jnp.where(narrow, v, 0.0) for v in (half, x, middle))
    correction = (m**2 - 1) * half**2 / 6 + (m**4 - 6 * m**2 + 3) * half**4 / 120
    density = -0.5 * m**2 - 0.5 * jnp.log(2 * jnp.pi) + jnp.log1p(correction)
    close = density + jnp.log(2 * jnp.where(narrow, half, 0.5))
    return jnp.where(finite, jnp.where(narrow, close, outer), log_ndtr(b))
