"""Log densities (in nats) of scalar families whose formula in NumPyro overflows or cancels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from ppgen._distributions.gamma_families import floats


def _cauchy(d: Any, value: Array) -> Array:
    value, loc, scale = floats(value, d.loc, d.scale)
    return _cauchy_at(value - loc, scale)


def _half_cauchy(d: Any, value: Array) -> Array:
    return _cauchy_at(*floats(value, d.scale)) + jnp.log(2)


def _cauchy_at(x: Array, scale: Array) -> Array:
    # Squares overflow.
    far = jnp.abs(x) > scale
    inner, outer = jnp.where(far, 0.0, x) / scale, jnp.where(far, jnp.abs(x), scale)
    near = jnp.log1p(inner**2) + jnp.log(scale)
    tail = 2 * jnp.log(outer) - jnp.log(scale) + jnp.log1p((scale / outer) ** 2)
    return -jnp.log(jnp.pi) - jnp.where(far, tail, near)


def _dagum(d: Any, value: Array) -> Array:
    p, a, b, value = floats(d.concentration, d.sharpness, d.scale, value)
    z = a * _log_ratio(value, b)
    return jnp.log(a) + jnp.log(p) - jnp.log(value) - p * jax.nn.softplus(-z) - jax.nn.softplus(z)


def _kumaraswamy(d: Any, value: Array) -> Array:
    a, b, value = floats(d.concentration1, d.concentration0, value)
    # At an end the value has been rounded.
    finfo = jnp.finfo(value.dtype)
    inner = jnp.where(value < finfo.tiny, finfo.tiny, value)
    log_x = jnp.log(jnp.where(value == 1, 1 - finfo.epsneg, inner))
    rest = jnp.log(-jnp.expm1(jnp.minimum(a * log_x, -finfo.tiny)))
    return jnp.log(a) + jnp.log(b) + (a - 1) * log_x + (b - 1) * rest


def _log_ratio(x: Array, y: Array) -> Array:
    """`log(x / y)`, with the digits of the difference where they are close."""
    close = (x > 0.5 * y) & (x < 2 * y)
    return jnp.where(close, jnp.log1p(jnp.where(close, x - y, 0.0) / y), jnp.log(x) - jnp.log(y))


RULES: dict[type, Callable[[Any, Array], Array]] = {
    dist.Cauchy: _cauchy,
    dist.Dagum: _dagum,
    dist.HalfCauchy: _half_cauchy,
    dist.Kumaraswamy: _kumaraswamy,
}
