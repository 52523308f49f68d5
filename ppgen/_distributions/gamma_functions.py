"""The log densities (in nats) that are made of gamma functions, by `log_poisson`.

Each is a function of plain arrays. Those of variables that are drawn on a log scale take the value
and its log, which may be known where the value has underflowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import digamma, gammaln

from ppgen._distributions.saddle_point import (
    digamma_difference,
    horner,
    log1p_less,
    log_factorial,
    log_poisson,
    log_poisson_at_mode,
)


@jax.jit
def gamma(concentration: Array, rate: Array, x: Array, log_x: Array) -> Array:
    """Of a Gamma variable."""
    events = log_poisson(concentration, rate * x, jnp.log(rate) + log_x)
    return events + jnp.log(concentration) - log_x


@jax.jit
def dirichlet(concentration: Array, x: Array, log_x: Array) -> Array:
    """Of a point of the simplex, along the last axis."""
    return _dirichlet(*jnp.broadcast_arrays(concentration, x, log_x))


@jax.custom_jvp
def _dirichlet(concentration: Array, x: Array, log_x: Array) -> Array:
    total = jnp.sum(concentration, axis=-1, keepdims=True)
    events = log_poisson(concentration, total * x, jnp.log(total) + log_x)
    total = total[..., 0]
    # (Rounded, elements do not add up to one.)
    rounded = total * (jnp.sum(x, axis=-1) - 1)
    parts = jnp.sum(events + jnp.log(concentration) - log_x, axis=-1)
    return parts - log_poisson_at_mode(total) - jnp.log(total) + rounded


def _dirichlet_jvp(primals: Any, tangents: Any) -> Any:
    # In closed form: of a small concentration beside a large one, terms cancel.
    a, x, log_x = primals
    da, _, dlog_x = tangents
    slopes = (
        (da, lambda: log_x + digamma_difference(a, _others(a))),
        (dlog_x, lambda: a - 1),
    )
    return _dirichlet(a, x, log_x), jnp.sum(_along(a, *slopes), axis=-1)


_dirichlet.defjvp(_dirichlet_jvp, symbolic_zeros=True)


def _others(a: Array) -> Array:
    """For each element the sum of the others, without a difference."""
    none = jnp.zeros_like(a[..., :1])
    before = jnp.cumsum(jnp.concatenate([none, a[..., :-1]], axis=-1), axis=-1)
    after = jnp.concatenate([a[..., 1:], none], axis=-1)
    return before + jnp.flip(jnp.cumsum(jnp.flip(after, -1), axis=-1), -1)


@jax.jit
def beta(a: Array, b: Array, x: Array, rest: Array, log_x: Array, log_rest: Array) -> Array:
    """Of a Beta variable of concentrations `a` and `b` at `x`, which is `rest` less than one."""
    a, b, x, rest, log_x, log_rest = jnp.broadcast_arrays(a, b, x, rest, log_x, log_rest)
    return dirichlet(
        jnp.stack([a, b], axis=-1),
        jnp.stack([x, rest], axis=-1),
        jnp.stack([log_x, log_rest], axis=-1),
    )


@jax.jit
def binomial(n: Array, k: Array, p: Array, q: Array, log_p: Array, log_q: Array) -> Array:
    """Of `k` of `n` events of probability `p`, which is `q` less than one."""
    log_n = jnp.log(jnp.maximum(n, 1e-30))
    happened = log_poisson(k, n * p, log_n + log_p)
    return happened + log_poisson(n - k, n * q, log_n + log_q) - log_poisson_at_mode(n)


@jax.jit
def multinomial(n: Array, k: Array, probs: Array) -> Array:
    """Of counts `k` that add up to `n`, of probabilities `probs` that do to one."""
    events = jnp.sum(log_poisson(k, jnp.expand_dims(n, -1) * probs), axis=-1)
    rounded = n * (jnp.sum(probs, axis=-1) - 1)
    return events - log_poisson_at_mode(n) + rounded


@jax.jit
def negative_binomial(a: Array, k: Array, p: Array, q: Array, log_p: Array, log_q: Array) -> Array:
    """Of `k` events of probability `q` before the `a`-th of probability `p`."""
    return _negative_binomial(*jnp.broadcast_arrays(a, k, p, q, log_p, log_q))


@jax.custom_jvp
def _negative_binomial(a: Array, k: Array, p: Array, q: Array, log_p: Array, log_q: Array) -> Array:
    n = a + k
    log_n = jnp.log(n)
    events = log_poisson(k, n * q, log_n + log_q)
    return events + log_poisson(a, n * p, log_n + log_p) - log_poisson_at_mode(n) + jnp.log(a / n)


def _negative_binomial_jvp(primals: Any, tangents: Any) -> Any:
    a, k, _, _, log_p, log_q = primals
    da, dk, _, _, dlog_p, dlog_q = tangents
    slopes = (
        (da, lambda: log_p + digamma_difference(a, k)),
        (dk, lambda: log_q + _signed_difference(k + 1, k + a)),
        (dlog_p, lambda: a),
        (dlog_q, lambda: k),
    )
    return _negative_binomial(*primals), _along(a, *slopes)


_negative_binomial.defjvp(_negative_binomial_jvp, symbolic_zeros=True)


@jax.jit
def dirichlet_multinomial(concentration: Array, k: Array) -> Array:
    """Of counts `k`, whose probabilities a Dirichlet variable gives."""
    return _dirichlet_multinomial(*jnp.broadcast_arrays(concentration, k))


@jax.custom_jvp
def _dirichlet_multinomial(concentration: Array, k: Array) -> Array:
    total, n = jnp.sum(concentration, axis=-1), jnp.sum(k, axis=-1)
    # Powers of any probabilities cancel; these make all terms small.
    after = k + concentration
    probs = after / jnp.sum(after, axis=-1, keepdims=True)

    def parts(count: Array, sum: Array) -> Array:
        of_each = log_poisson(count, jnp.expand_dims(sum, -1) * probs)
        return jnp.sum(of_each, axis=-1) - log_poisson_at_mode(sum)

    def shapes(a: Array, sum: Array) -> Array:
        return parts(a, sum) + jnp.sum(jnp.log(a), axis=-1) - jnp.log(sum)

    return parts(k, n) + shapes(concentration, total) - shapes(after, total + n)


def _dirichlet_multinomial_jvp(primals: Any, tangents: Any) -> Any:
    a, k = primals
    total, n = jnp.sum(a, axis=-1, keepdims=True), jnp.sum(k, axis=-1, keepdims=True)

    def by_count() -> Array:
        return _signed_difference(k + 1, k + a) - _signed_difference(n + 1, n + total)

    slopes = (
        (tangents[0], lambda: _second_difference(a, k, _others(a), _others(k))),
        (tangents[1], by_count),
    )
    return _dirichlet_multinomial(a, k), jnp.sum(_along(a, *slopes), axis=-1)


_dirichlet_multinomial.defjvp(_dirichlet_multinomial_jvp, symbolic_zeros=True)


@jax.jit
def beta_binomial(a: Array, b: Array, k: Array, rest: Array) -> Array:
    """Of `k` events and `rest` others, of a probability that a Beta variable gives."""
    a, b, k, rest = jnp.broadcast_arrays(a, b, k, rest)
    return dirichlet_multinomial(jnp.stack([a, b], axis=-1), jnp.stack([k, rest], axis=-1))


@jax.jit
def beta_negative_binomial(a: Array, b: Array, n: Array, k: Array) -> Array:
    """Of `k` events before the `n`-th other one, of a probability that a Beta variable gives."""
    return _beta_negative_binomial(*jnp.broadcast_arrays(a, b, n, k))


@jax.custom_jvp
def _beta_negative_binomial(a: Array, b: Array, n: Array, k: Array) -> Array:
    return beta_binomial(a, b, k, n) + jnp.log(n / (n + k))


def _beta_negative_binomial_jvp(primals: Any, tangents: Any) -> Any:
    a, b, n, k = primals
    slopes = (
        lambda: _second_difference(a, k, b, n),
        lambda: _second_difference(b, n, a, k),
        lambda: _second_difference(n, k, b, a),
        lambda: _signed_difference(k + 1, k + n) - digamma_difference(k + a, n + b),
    )
    moved = _along(a, *zip(tangents, slopes, strict=True))
    return _beta_negative_binomial(*primals), moved


_beta_negative_binomial.defjvp(_beta_negative_binomial_jvp, symbolic_zeros=True)


def _second_difference(x: Array, h: Array, i: Array, j: Array) -> Array:
    """`digamma(x + h) - digamma(x) - digamma(x + i + h + j) + digamma(x + i)`.

    As the difference of two differences, in the way in which less is lost.
    """
    one = digamma_difference(x, h), digamma_difference(x + i, h + j)
    other = digamma_difference(x, i), digamma_difference(x + h, i + j)
    return jnp.where(sum(other) < sum(one), other[0] - other[1], one[0] - one[1])


def _signed_difference(x: Array, y: Array) -> Array:
    """`digamma(y) - digamma(x)`."""
    size = digamma_difference(jnp.minimum(x, y), jnp.abs(y - x))
    return jnp.where(y > x, size, -size)


def _along(like: Array, *slopes: tuple[Any, Callable[[], Array]]) -> Array:
    """The derivative along tangents, of which those that are zero may have no slope."""
    moved = jnp.zeros_like(like)
    for tangent, slope in slopes:
        if not isinstance(tangent, SymbolicZero):
            moved = moved + tangent * slope()
    return moved


@jax.jit
def log_beta(a: Array, b: Array) -> Array:
    """The log of the beta function."""
    # Of which powers cancel.
    shares = a / (a + b), b / (a + b), -jnp.log1p(b / a), -jnp.log1p(a / b)
    p, q, log_p, log_q = jax.lax.stop_gradient(shares)
    return (a - 1) * log_p + (b - 1) * log_q - beta(a, b, p, q, log_p, log_q)


@jax.custom_jvp
def log_gamma_ratio(x: Array, h: Array) -> Array:
    """`log Gamma(x + h) - log Gamma(x)`, of positive `x` and `h`."""
    moved = h * jnp.log1p(x) - log_poisson(x + h, x + 1) + log_poisson_at_mode(x + 1)
    return moved + jnp.log(x) - jnp.log(x + h)


def _log_gamma_ratio_jvp(primals: Any, tangents: Any) -> Any:
    x, h = primals
    slopes = (lambda: digamma_difference(x, h)), (lambda: digamma(x + h))
    return log_gamma_ratio(x, h), _along(x + h, *zip(tangents, slopes, strict=True))


log_gamma_ratio.defjvp(_log_gamma_ratio_jvp, symbolic_zeros=True)


@jax.jit
def lkj_cholesky(concentration: Array, log_diagonal: Array) -> Array:
    """Of the Cholesky factor of a correlation matrix, from the diagonal but for its first."""
    n = log_diagonal.shape[-1]
    j = jnp.arange(1, n + 1, dtype=log_diagonal.dtype)
    concentration = jnp.expand_dims(concentration, -1)
    powers = jnp.sum((2 * (concentration - 1) + n - j) * log_diagonal, axis=-1)
    ratios = log_gamma_ratio(*jnp.broadcast_arrays(concentration + (n - j) / 2, j / 2))
    return powers + jnp.sum(ratios, axis=-1) - n * (n + 1) / 4 * jnp.log(jnp.pi)


@jax.jit
def student_t(df: Array, x: Array, scale: Array) -> Array:
    """Of a Student-t variable at `x` from its location."""
    half = 0.5 * df
    near = jnp.abs(x) < 0.7 * jnp.sqrt(df) * scale
    inner, outer = jnp.where(near, x, 0.0) / scale, jnp.abs(jnp.where(near, scale, x))
    square = inner**2
    u = square / df
    # The power of one plus u, from that of a normal variable.
    close = half * log1p_less(u) + 0.5 * jnp.log1p(u) + 0.5 * square + jnp.log(scale)
    # Squares overflow; and powers of the scale nearly cancel.
    ratio = scale / outer
    beyond = 0.5 * (df + 1) * (jnp.log1p(df * ratio * ratio) - jnp.log(df))
    far = beyond + (df + 1) * jnp.log(outer) - df * jnp.log(scale)
    return _half_step(half) - 0.5 * jnp.log(2 * jnp.pi) - jnp.where(near, close, far)


_RATIO = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432, 691 / 180224, -5461 / 425984)


def _half_step(x: Array) -> Array:
    """`log(Gamma(x + 1/2) / Gamma(x)) - log(x) / 2`, which is near `-1 / (8 x)`."""
    large = x >= 16
    far, near = jnp.where(large, x, 16.0), jnp.where(large, 1.0, x)
    direct = gammaln(near + 0.5) - log_factorial(near) + 0.5 * jnp.log(near)
    return jnp.where(large, horner(_RATIO, 1 / far**2) / far, direct)
