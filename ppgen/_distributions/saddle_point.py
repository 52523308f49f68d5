"""Densities that are made of gamma functions, with all digits that single precision has.

The log density of a Gamma variable of concentration 1e6 is near -8 where it lies, and the sum of
three terms of ten million. So all such densities are written in terms of one function, the log of
`m**k exp(-m) / Gamma(k + 1)`, which is computed from the deviance of `m` from `k`: nothing large is
subtracted from something large.

References:
    Loader, *Fast and Accurate Computation of Binomial Probabilities*, 2000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import digamma, gammaln
from jax.typing import ArrayLike
from scipy.special import bernoulli, zetac

from ppgen._distributions.normal_tails import as_float

_LARGE = 10.0  # from where on Stirling's series has all digits
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_TERMS = np.arange(1, 9)
_EVEN = bernoulli(16)[2::2]
# Of log Gamma(k + 1) less its leading terms, and of digamma(k + 1) - log(k), in powers of 1 / k².
_STIRLING = _EVEN / (2 * _TERMS * (2 * _TERMS - 1))
_DIGAMMA = -_EVEN / (2 * _TERMS)
_ZETA = zetac(np.arange(2, 30)) / np.arange(2, 30) * (-1.0) ** np.arange(2, 30)
_EXPONENTIAL = [1 / math.factorial(n) for n in range(2, 17)]
_EULER = 0.5772156649015329


def log_poisson(k: ArrayLike, m: ArrayLike, log_m: ArrayLike | None = None) -> Array:
    """`k log(m) - m - log Gamma(k + 1)`, the log density of `k` events where `m` are expected.

    Args:
        k: not negative, and not necessarily an integer.
        m: not negative. Where it is zero, no events are all there can be.
        log_m: its log, where that is known better: `m` may underflow or overflow.
    """
    if log_m is not None:
        return _kernel(*_broadcast(k, m, log_m))
    k, m = _broadcast(k, m)
    none = k == 0
    some = jnp.where(none, 1.0, m)
    return jnp.where(none, -m, _kernel(jnp.where(none, 1.0, k), some, jnp.log(some)))


def log_poisson_at_mode(k: ArrayLike) -> Array:
    """`log_poisson(k, k)`, near `-log(2 pi k) / 2`; products of the above are normalised by it."""
    return _at_mode(as_float(k))


@jax.custom_jvp
def _kernel(k: Array, m: Array, log_m: Array) -> Array:
    return _assembled(k, m, log_m)


def _kernel_jvp(primals: Any, tangents: Any) -> Any:
    # All of the derivative by `m` is that by its log: the difference of the two that there are
    # would have lost its digits.
    k, m, log_m = primals
    dk, _, dlog_m = tangents
    moved = jnp.zeros_like(k)
    if not isinstance(dk, SymbolicZero):
        moved = moved + dk * _slope(k, m, log_m)
    if not isinstance(dlog_m, SymbolicZero):
        moved = moved + dlog_m * (k - m)
    return _kernel(k, m, log_m), moved


_kernel.defjvp(_kernel_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _at_mode(k: Array) -> Array:
    return _assembled(k, k, jnp.log(_positive(k)))


@_at_mode.defjvp
def _at_mode_jvp(primals: Any, tangents: Any) -> Any:
    (k,), (dk,) = primals, tangents
    return _at_mode(k), -dk * digamma_less_log(k)


@jax.jit
def _assembled(k: Array, m: Array, log_m: Array) -> Array:
    large = k >= _LARGE
    far = jnp.where(large, k, _LARGE)
    excess = _exponential_excess(jnp.where(large, _deviation(far, m, log_m), 0.0))
    stirling = horner(_STIRLING, 1 / far**2) / far
    saddle = -far * excess - 0.5 * jnp.log(far) - _HALF_LOG_TWO_PI - stirling
    near = jnp.where(large, 1.0, k)
    some = near > 0
    power = jnp.where(some, near * jnp.where(some, log_m, 0.0), 0.0)
    return jnp.where(large, saddle, power - m - log_factorial(near))


@jax.jit
def _slope(k: Array, m: Array, log_m: Array) -> Array:
    """The derivative by `k`: `log(m) - digamma(k + 1)`."""
    large = k >= _LARGE
    far = jnp.where(large, k, _LARGE)
    saddle = jnp.where(large, _deviation(far, m, log_m), 0.0) - _digamma_series(far)
    return jnp.where(large, saddle, log_m - digamma(jnp.where(large, 1.0, k) + 1))


@jax.jit
def digamma_less_log(k: ArrayLike) -> Array:
    """`digamma(k + 1) - log(k)`, which is near `1 / (2 k)`."""
    k = as_float(k)
    large = k >= _LARGE
    near = jnp.where(large, 1.0, _positive(k))
    direct = digamma(near + 1) - jnp.log(near)
    return jnp.where(large, _digamma_series(jnp.where(large, k, _LARGE)), direct)


def _digamma_series(k: Array) -> Array:
    return 0.5 / k + horner(_DIGAMMA, 1 / k**2) / k**2


@jax.jit
def digamma_difference(z: ArrayLike, h: ArrayLike) -> Array:
    """`digamma(z + h) - digamma(z)` for positive `z` and `h` that is not negative, however small.

    Each term of the recurrence, and of the series for what is left, is a difference in closed form.
    """
    z, h = _broadcast(z, h)
    total = jnp.zeros_like(z)
    for n in range(10):
        total = total + h / (z + n) / (z + n + h)
    y, end = z + 10, z + 10 + h
    total = total + jnp.log1p(h / y) + 0.5 * h / y / end
    u, v = 1 / y**2, 1 / end**2
    power, low = (h / y) * ((y + end) / y / end) / end, jnp.ones_like(v)
    first = power
    for c in _DIGAMMA:
        total = total - float(c) * power
        low = low * v
        power = u * power + low * first
    return total


@jax.jit
def log_factorial(k: ArrayLike) -> Array:
    """`log Gamma(k + 1)` for `k` up to ten or so, to a relative rounding at its zeros too."""
    k = as_float(k)
    one = k > 0.5
    series = k < 1.5
    e = jnp.where(series, jnp.where(one, k - 1, k), 0.0)
    # log Gamma(1 + e), whose series converges as that of (e / 2)**n.
    first = e * (1 - _EULER + e * horner(_ZETA, e))
    close = jnp.where(one, first, first - jnp.log1p(e))
    return jnp.where(series, close, gammaln(jnp.where(series, 2.0, k) + 1))


def _deviation(k: Array, m: Array, log_m: Array) -> Array:
    """`log(m / k)`, with the digits of the difference where they are close."""
    close = (m > 0.5 * k) & (m < 2 * k)
    return jnp.where(close, jnp.log1p(jnp.where(close, (m - k) / k, 0.0)), log_m - jnp.log(k))


def _exponential_excess(x: Array) -> Array:
    """`exp(x) - 1 - x`."""
    small = jnp.abs(x) < 0.7
    inner = jnp.where(small, x, 0.0)
    series = inner**2 * horner(_EXPONENTIAL, inner)
    return jnp.where(small, series, jnp.expm1(x) - x)


@jax.custom_jvp
def log1p_less(x: ArrayLike) -> Array:
    """`log(1 + x) - x` of `x` above -1."""
    x = as_float(x)
    small = jnp.abs(x) < 0.5
    inner = jnp.where(small, x, 0.0)
    r = inner / (2 + inner)
    series = 2 * r**3 * horner([1 / n for n in range(3, 29, 2)], r**2) - r * inner
    return jnp.where(small, series, jnp.log1p(x) - x)


@log1p_less.defjvp
def _log1p_less_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return log1p_less(x), -dx * x / (1 + x)


def horner(coefficients: Sequence[float] | np.ndarray, x: Array) -> Array:
    """The polynomial in `x` with these coefficients, the constant first."""
    total = jnp.zeros_like(x)
    for c in reversed([float(c) for c in coefficients]):
        total = total * x + c
    return total


def _positive(x: Array) -> Array:
    return jnp.where(x > 0, x, jnp.finfo(x.dtype).tiny)


def _broadcast(*xs: ArrayLike) -> list[Array]:
    dtype = jnp.result_type(*xs, 0.0)
    shape = lax.broadcast_shapes(*map(jnp.shape, xs))
    return [jnp.broadcast_to(jnp.asarray(x, dtype), shape) for x in xs]
