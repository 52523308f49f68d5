"""The log densities (in nats) that are made of gamma functions, by `log_poisson`.

Each is a function of plain arrays. Those of variables that are drawn on a log scale take the value
and its log, which may be known where the value has underflowed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from ppgen._distributions.saddle_point import (
    horner,
    log1p_less,
    log_factorial,
    log_poisson,
    log_poisson_at_mode,
)


def gamma(concentration: Array, rate: Array, x: Array, log_x: Array) -> Array:
    """Of a Gamma variable."""
    events = log_poisson(concentration, rate * x, jnp.log(rate) + log_x)
    return events + jnp.log(concentration) - log_x


def dirichlet(concentration: Array, x: Array, log_x: Array) -> Array:
    """Of a point of the simplex, along the last axis."""
    total = jnp.sum(concentration, axis=-1, keepdims=True)
    events = log_poisson(concentration, total * x, jnp.log(total) + log_x)
    total = total[..., 0]
    # (Rounded, elements do not add up to one.)
    rounded = total * (jnp.sum(x, axis=-1) - 1)
    parts = jnp.sum(events + jnp.log(concentration) - log_x, axis=-1)
    return parts - log_poisson_at_mode(total) - jnp.log(total) + rounded


def beta(a: Array, b: Array, x: Array, rest: Array, log_x: Array, log_rest: Array) -> Array:
    """Of a Beta variable of concentrations `a` and `b` at `x`, which is `rest` less than one."""
    total = a + b
    log_total = jnp.log(total)
    events = log_poisson(a, total * x, log_total + log_x) - log_x
    others = log_poisson(b, total * rest, log_total + log_rest) - log_rest
    between = jnp.log(a) + jnp.log(b) - log_total
    return events + others - log_poisson_at_mode(total) + between


def binomial(n: Array, k: Array, p: Array, q: Array, log_p: Array, log_q: Array) -> Array:
    """Of `k` of `n` events of probability `p`, which is `q` less than one."""
    log_n = jnp.log(jnp.maximum(n, 1e-30))
    happened = log_poisson(k, n * p, log_n + log_p)
    return happened + log_poisson(n - k, n * q, log_n + log_q) - log_poisson_at_mode(n)


def multinomial(n: Array, k: Array, probs: Array) -> Array:
    """Of counts `k` that add up to `n`, of probabilities `probs` that do to one."""
    events = jnp.sum(log_poisson(k, jnp.expand_dims(n, -1) * probs), axis=-1)
    rounded = n * (jnp.sum(probs, axis=-1) - 1)
    return events - log_poisson_at_mode(n) + rounded


def negative_binomial(a: Array, k: Array, p: Array, q: Array, log_p: Array, log_q: Array) -> Array:
    """Of `k` events of probability `q` before the `a`-th of probability `p`."""
    n = a + k
    return binomial(n, k, q, p, log_q, log_p) + jnp.log(a / n)


def dirichlet_multinomial(concentration: Array, n: Array, k: Array) -> Array:
    """Of counts `k` that add up to `n`, of probabilities that a Dirichlet variable gives."""
    total = jnp.sum(concentration, axis=-1)
    # Powers of any probabilities cancel; these make all terms small.
    after = k + concentration
    probs = jax.lax.stop_gradient(after / jnp.sum(after, axis=-1, keepdims=True))

    def parts(count: Array, sum: Array) -> Array:
        of_each = log_poisson(count, jnp.expand_dims(sum, -1) * probs)
        return jnp.sum(of_each, axis=-1) - log_poisson_at_mode(sum)

    def shapes(a: Array, sum: Array) -> Array:
        return parts(a, sum) + jnp.sum(jnp.log(a), axis=-1) - jnp.log(sum)

    return parts(k, n) + shapes(concentration, total) - shapes(after, total + n)


def beta_binomial(a: Array, b: Array, n: Array, k: Array) -> Array:
    """Of `k` of `n` events, of a probability that a Beta variable gives."""
    a, b, k = jnp.broadcast_arrays(a, b, k)
    return dirichlet_multinomial(
        jnp.stack([a, b], axis=-1), jnp.broadcast_to(n, a.shape), jnp.stack([k, n - k], axis=-1)
    )


def beta_negative_binomial(a: Array, b: Array, n: Array, k: Array) -> Array:
    """Of `k` events before the `n`-th other one, of a probability that a Beta variable gives."""
    return beta_binomial(a, b, n + k, k) + jnp.log(n / (n + k))


def log_beta(a: Array, b: Array) -> Array:
    """The log of the beta function."""
    p = jax.lax.stop_gradient(a / (a + b))  # of which powers cancel
    log_p, log_q = jnp.log(p), jnp.log1p(-p)
    return (a - 1) * log_p + (b - 1) * log_q - beta(a, b, p, 1 - p, log_p, log_q)


def student_t(df: Array, z: Array) -> Array:
    """Of a standardized Student-t variable at `z`."""
    half = 0.5 * df
    near = jnp.abs(z) < 0.7 * jnp.sqrt(df)
    inner, outer = jnp.where(near, z, 0.0), jnp.abs(jnp.where(near, 1.0, z))
    square = inner**2
    u = square / df
    # The power of one plus u, from that of a normal variable.
    close = half * log1p_less(u) + 0.5 * jnp.log1p(u) + 0.5 * square
    # (The square may overflow.)
    far = (df + 1) * (jnp.log(outer) - 0.5 * jnp.log(df) + 0.5 * jnp.log1p(df / outer / outer))
    return _log_gamma_ratio(half) - 0.5 * jnp.log(2 * jnp.pi) - jnp.where(near, close, far)


_RATIO = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432, 691 / 180224, -5461 / 425984)


def _log_gamma_ratio(x: Array) -> Array:
    """`log(Gamma(x + 1/2) / Gamma(x)) - log(x) / 2`, which is near `-1 / (8 x)`."""
    large = x >= 16
    far, near = jnp.where(large, x, 16.0), jnp.where(large, 1.0, x)
    direct = gammaln(near + 0.5) - log_factorial(near) + 0.5 * jnp.log(near)
    return jnp.where(large, horner(_RATIO, 1 / far**2) / far, direct)
