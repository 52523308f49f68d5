"""Logs of Gamma variables, which follow the concentration however small they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma
from jax.typing import ArrayLike

from ppgen import _jax
from ppgen._distributions.normal_tails import as_float


def log_gamma(key: Array, concentration: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Logs of Gamma variables of rate one, of this shape.

    JAX's have the derivative at the smallest number of the type where the variable is smaller than
    that: a tenth of it, in single precision at a concentration of .001.
    """
    a = jnp.broadcast_to(as_float(concentration), shape)
    y = jax.random.loggamma(key, jax.lax.stop_gradient(a), shape, a.dtype)
    return _log_gamma_p.bind(jax.lax.stop_gradient(y), a, functions=(slope,))


def slope(y: Array, a: Array) -> Array:
    """The derivative by the concentration of the log `y` of a variable that keeps its quantile."""
    x = jnp.exp(y)
    small = x < jnp.sqrt(jnp.finfo(y.dtype).eps) / 8
    # There the distribution function is `x**a / Gamma(a + 1)`, times `1 - a x / (a + 1)`.
    inner = jnp.where(small, x, 0.0)
    closed = digamma(a + 1) - y
    closed = (closed + inner * (closed + 1 / (a + 1)) / (a + 1)) / a
    outer = jnp.where(small, 1.0, x)
    quantile: Any = jax.lax.random_gamma_grad
    return jnp.where(small, closed, quantile(a, outer) / outer)


def _follow(functions: Sequence[Any], parameters: list[Any], tangents: list[Any]) -> Array:
    return functions[0](*parameters) * tangents[0]


_log_gamma_p = _jax.define_follower("implicit", _follow)
