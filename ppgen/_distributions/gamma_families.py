"""Log densities of the families that are made of gamma functions, by their parameters' names."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportReturnType=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln, xlog1py, xlogy
from jax.typing import ArrayLike
from numpyro.distributions.util import clamp_probs

from ppgen._derivatives import with_derivative_of
from ppgen._distributions import gamma_functions
from ppgen._distributions.saddle_point import log_poisson, log_poisson_at_mode


def floats(*xs: ArrayLike) -> list[Array]:
    """Arrays of floating-point numbers, of one type."""
    dtype = jnp.result_type(*xs, 0.0)
    return [jnp.asarray(x, dtype) for x in xs]


def _gamma(d: Any, value: Array) -> Array:
    a, rate, value = floats(d.concentration, d.rate, value)
    # A value of zero has been rounded: differentiate at the closest one that is not.
    tiny = jnp.finfo(value.dtype).tiny
    inner = jnp.where(value < tiny, tiny, value)
    log_density = gamma_functions.gamma(a, rate, inner, jnp.log(inner))
    at_end = xlogy(a - 1, value) + xlogy(a, rate) - gammaln(a)
    return _at_ends(value == 0, at_end, log_density)


def _inverse_gamma(d: Any, value: Array) -> Array:
    a, rate, value = floats(d.concentration, d.rate, value)
    log_x = jnp.log(value)
    return gamma_functions.gamma(a, rate, 1 / value, -log_x) - 2 * log_x


def _beta(d: Any, value: Array) -> Array:
    value, a, b = floats(value, d.concentration1, d.concentration0)
    # At 0 and 1 NumPyro drops the derivative by the concentrations. Such a value has been rounded:
    # differentiate at the closest one that is not at the end.
    finfo = jnp.finfo(value.dtype)
    inner = jnp.where(value < finfo.tiny, finfo.tiny, value)
    inner = jnp.where(value == 1, 1 - finfo.epsneg, inner)
    log_density = gamma_functions.beta(a, b, inner, 1 - inner, jnp.log(inner), jnp.log1p(-inner))
    normalizer = gamma_functions.log_beta(a, b)
    exact = xlogy(a - 1, value) + xlog1py(b - 1, -value) - normalizer
    return _at_ends((value == 0) | (value == 1), exact, log_density)


def _at_ends(end: Array, exact: Array, log_density: Array) -> Array:
    """`log_density`, at ends `exact` with the derivative of the closest value that is not there."""
    # Not `log_density + (exact - log_density)`, which rounds, and may be infinite.
    closest = jnp.where(end, log_density, 0.0)
    return jnp.where(end, with_derivative_of(closest, exact), log_density)


def _dirichlet(d: Any, value: Array) -> Array:
    a, value = floats(d.concentration, value)
    return gamma_functions.dirichlet(a, value, jnp.log(value))


def _beta_binomial(d: Any, value: Array) -> Array:
    a, b, value, n = floats(d.concentration1, d.concentration0, value, 1.0 * d.total_count)
    return gamma_functions.beta_binomial(a, b, value, n - value)


def _dirichlet_multinomial(d: Any, value: Array) -> Array:
    a, value = floats(d.concentration, value)
    return gamma_functions.dirichlet_multinomial(a, value)


def _beta_negative_binomial(d: Any, value: Array) -> Array:
    n, value = jnp.asarray(d.n, float), jnp.asarray(value, float)
    a, b, n, value = jnp.broadcast_arrays(*floats(d.concentration1, d.concentration0), n, value)
    return gamma_functions.beta_negative_binomial(a, b, n, value)


def _gamma_poisson(d: Any, value: Array) -> Array:
    a, rate, value = floats(d.concentration, d.rate, value)
    q = 1 / (1 + rate)
    return gamma_functions.negative_binomial(
        a, value, rate * q, q, -jnp.log1p(1 / rate), -jnp.log1p(rate)
    )


def _negative_binomial_probs(d: Any, value: Array) -> Array:
    a, q, value = floats(d.concentration, d.probs, value)
    return gamma_functions.negative_binomial(a, value, 1 - q, q, jnp.log1p(-q), jnp.log(q))


def _negative_binomial_logits(d: Any, value: Array) -> Array:
    a, logits, value = floats(d.concentration, d.logits, value)
    return gamma_functions.negative_binomial(a, value, *_both_ways(-logits))


def _both_ways(logits: Array) -> tuple[Array, Array, Array, Array]:
    """The probabilities of one and zero, and their logs."""
    p, q = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)
    return p, q, -softplus(-logits), -softplus(logits)


@jax.custom_jvp
def softplus(x: ArrayLike) -> Array:
    """`log(1 + exp(x))`, whose derivative is one sigmoid.

    That of `jax.nn.softplus` takes exponentials of what it returned, which CPUs are slow at.
    """
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[ArrayLike], tangents: tuple[ArrayLike]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * jnp.asarray(dx)


def _binomial_logits(d: Any, value: Array) -> Array:
    value, logits = floats(value, d.logits)
    n = jnp.asarray(d.total_count, value.dtype)
    return gamma_functions.binomial(n, value, *_both_ways(logits))


def clamped(probs: Any) -> Array:
    """Clamped to where logarithms are finite, but differentiated as if it were not."""
    probs = jnp.asarray(probs, jnp.result_type(probs, 0.0))
    return with_derivative_of(probs, jax.lax.stop_gradient(clamp_probs(probs)))


def _binomial_probs(d: Any, value: Array) -> Array:
    value = jnp.asarray(value, jnp.result_type(float))
    p = clamped(jnp.asarray(d.probs, value.dtype))
    n = jnp.asarray(d.total_count, value.dtype)
    return gamma_functions.binomial(n, value, p, 1 - p, jnp.log(p), jnp.log1p(-p))


def _multinomial_probs(d: Any, value: Array) -> Array:
    value = jnp.asarray(value, jnp.result_type(float))
    return gamma_functions.multinomial(jnp.asarray(d.total_count, value.dtype), value, d.probs)


def _multinomial_logits(d: Any, value: Array) -> Array:
    value = jnp.asarray(value, jnp.result_type(float))
    n = jnp.asarray(d.total_count, value.dtype)
    log_probs = jax.nn.log_softmax(d.logits)
    log_n = jnp.expand_dims(jnp.log(jnp.maximum(n, 1)), -1)
    probs = jnp.expand_dims(n, -1) * jnp.exp(log_probs)
    events = log_poisson(value, probs, log_n + log_probs)
    return jnp.sum(events, axis=-1) - log_poisson_at_mode(n)


def _poisson(d: Any, value: Array) -> Array:
    if d.is_sparse:
        return d.log_prob(value)
    value = jnp.asarray(value, jnp.result_type(float))
    return log_poisson(value, jnp.asarray(d.rate, value.dtype))


def _lkj_cholesky(d: Any, value: Array) -> Array:
    concentration, value = floats(d.concentration, value)
    diagonal = jnp.diagonal(value, axis1=-2, axis2=-1)[..., 1:]
    return gamma_functions.lkj_cholesky(concentration, jnp.log(diagonal))


def _student_t(d: Any, value: Array) -> Array:
    value, df, loc, scale = floats(value, d.df, d.loc, d.scale)
    return gamma_functions.student_t(df, value - loc, scale)


RULES: dict[type, Callable[[Any, Array], Array]] = {
    dist.Beta: _beta,
    dist.BetaBinomial: _beta_binomial,
    dist.BetaNegativeBinomial: _beta_negative_binomial,
    dist.BetaProportion: _beta,
    dist.BinomialLogits: _binomial_logits,
    dist.BinomialProbs: _binomial_probs,
    dist.Chi2: _gamma,
    dist.Dirichlet: _dirichlet,
    dist.DirichletMultinomial: _dirichlet_multinomial,
    dist.Gamma: _gamma,
    dist.GammaPoisson: _gamma_poisson,
    dist.InverseGamma: _inverse_gamma,
    dist.LKJCholesky: _lkj_cholesky,
    dist.MultinomialLogits: _multinomial_logits,
    dist.MultinomialProbs: _multinomial_probs,
    dist.NegativeBinomial2: _gamma_poisson,
    dist.NegativeBinomialLogits: _negative_binomial_logits,
    dist.NegativeBinomialProbs: _negative_binomial_probs,
    dist.Poisson: _poisson,
    dist.StudentT: _student_t,
}
