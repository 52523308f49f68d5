"""Normal quantiles by the logs of both tails."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ppgen._distributions.normal_tails import as_float, log_inverse_mills, log_ndtr
from ppgen._sampling.implicit import implicit

_STEPS = 6  # of Newton's method, from the side from which it converges: all digits


def ndtri_of_logs(log_p: ArrayLike, log_q: ArrayLike) -> Array:
    """The standard normal quantile of p = exp(`log_p`), where q = 1 - p = exp(`log_q`)."""
    log_p, log_q = jnp.broadcast_arrays(as_float(log_p), as_float(log_q))
    left = log_p < log_q
    smaller = jnp.where(left, log_p, log_q)
    finite = jnp.isfinite(smaller)
    below = jnp.where(finite, _lower_quantile(jnp.where(finite, smaller, -1.0)), smaller)
    return jnp.where(left, below, -below)


def _lower_quantile(log_p: Array) -> Array:
    """The quantile of a probability of at most 1/2."""
    target = jnp.minimum(jax.lax.stop_gradient(log_p), -math.log(2))

    def closer(_: Any, x: Array) -> Array:
        return x - (log_ndtr(x) - target) * jnp.exp(-log_inverse_mills(x))

    # Start from further out than the quantile. (In a loop, because XLA takes minutes to fuse the
    # unrolled steps.)
    x = jax.lax.fori_loop(0, _STEPS, closer, -jnp.sqrt(-2 * target))
    return implicit(x, _excess, _log_slope, log_p)


def _excess(x: Array, log_p: Array) -> Array:
    return log_ndtr(x) - log_p


def _log_slope(x: Array, log_p: Array) -> Array:
    return log_inverse_mills(x)
