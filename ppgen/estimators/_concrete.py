"""Discrete choices as the rounding of continuous ones, which REBAR and RELAX are built on.

A Bernoulli variable is the sign of a logistic one, a one-hot variable the largest of Gumbel ones.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# (NumPyro annotates what distributions hold more widely than what they do hold.)

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from ppgen._distributions.wrappers import plain
from ppgen.densities import log_prob
from ppgen.distrax import Distrax

_BERNOULLI = (dist.BernoulliProbs, dist.BernoulliLogits)
_MULTINOMIAL = (dist.MultinomialProbs, dist.MultinomialLogits)


class Relaxed(NamedTuple):
    """A discrete sample and the continuous variable that it is the rounding of.

    Attributes:
        hard: the frozen sample, `(*batch, *event)`, of the type that the distribution has.
        score: its log density in nats, `(*batch)`.
        soft: the continuous variable, mapped into [0, 1]; it moves with the parameters.
        conditional: the same number, moving as the continuous variable *given the sample* does.
    """

    hard: Array
    score: Array
    soft: Array
    conditional: Array


def misfit(d: Distribution) -> str | None:
    """Why `d` has no relaxation, or `None` where it has one."""
    base = plain(d)
    if type(base) in _BERNOULLI or _is_one_hot(base):
        return None
    name = type(base).__name__
    if type(base) in _MULTINOMIAL:
        return f"{name} has a relaxation for a total_count of one only"
    if name.startswith("Categorical"):
        return (
            f"{name} is an index, which has no relaxation; write it as a one-hot vector, "
            "numpyro.distributions.Multinomial(1, probs)"
        )
    return f"{name} has no relaxation; Bernoulli and Multinomial with total_count=1 have"


def relax(key: Array, d: Distribution, temperature: ArrayLike) -> Relaxed:
    """Draw from `d` and relax the sample.

    `soft` and `conditional` are coupled: the noise of the second is chosen such that both have the
    same value. Their derivatives differ.

    Args:
        key: a PRNG key.
        d: Bernoulli or one-hot.
        temperature: positive, broadcastable to `(*batch)`; towards zero, `soft` becomes `hard`.

    References:
        Maddison, Mnih and Teh, *The Concrete Distribution*, ICLR 2017.
        Tucker et al., *REBAR: Low-Variance, Unbiased Gradient Estimates for Discrete Latent
        Variable Models*, NeurIPS 2017, appendix on conditional marginalisation.
    """
    base = plain(d)
    temperature = jnp.asarray(temperature, float)
    if type(base) in _BERNOULLI:
        hard, z, conditional = _logistic(key, _log_odds(base, d.batch_shape))
        soft = [jax.nn.sigmoid(x / temperature) for x in (z, conditional)]
    else:
        log_probs = _log_probs(base, d.batch_shape + d.event_shape)
        hard, z, conditional = _gumbel(key, log_probs)
        soft = [jax.nn.softmax(x / temperature[..., None]) for x in (z, conditional)]
    # Inside of the interval, so that a cost may take logarithms: only 0 and 1 are rounded.
    eps = jnp.finfo(z.dtype).eps
    soft = [jnp.clip(x, eps, 1 - eps) for x in soft]
    hard = hard.astype(jax.eval_shape(d.sample, key).dtype)
    return Relaxed(hard, log_prob(d, hard), *soft)


def _logistic(key: Array, log_odds: Array) -> tuple[Array, Array, Array]:
    eps = jnp.finfo(log_odds.dtype).eps
    u = jnp.clip(jax.random.uniform(key, log_odds.shape, log_odds.dtype), eps, 1 - eps)
    z = log_odds + jnp.log(u) - jnp.log1p(-u)
    frozen = jax.lax.stop_gradient(z)
    hard = frozen > 0
    sign = jnp.where(hard, 1, -1).astype(z.dtype)
    drift = jax.nn.softplus(sign * log_odds)
    return hard, z, sign * _moved(jnp.abs(frozen), drift - jax.lax.stop_gradient(drift))


def _gumbel(key: Array, log_probs: Array) -> tuple[Array, Array, Array]:
    z = log_probs + jax.random.gumbel(key, log_probs.shape, log_probs.dtype)
    frozen = jax.lax.stop_gradient(z)
    hard = jax.nn.one_hot(jnp.argmax(frozen, axis=-1), z.shape[-1], dtype=z.dtype)
    # The largest is standard Gumbel whatever the probabilities: given the sample, it stays put.
    top = jnp.max(frozen, axis=-1, keepdims=True)
    drift = jax.lax.stop_gradient(log_probs) - log_probs
    return hard, z, top - _moved(top - frozen, drift)


def _moved(y: Array, drift: Array) -> Array:
    """`log(1 + (exp(y) - 1) * exp(drift))` for `y >= 0`, without overflow.

    It is how a truncated logistic or Gumbel variable moves with the parameters at fixed noise: in
    value the drift is zero, and this is `y`.
    """
    return y + drift + jnp.log1p(jnp.exp(-y) * jnp.expm1(-drift))


def _is_one_hot(base: Distribution) -> bool:
    if isinstance(base, Distrax):
        kind = type(base.distribution)
        return kind.__module__.startswith("distrax.") and kind.__name__ == "OneHotCategorical"
    if type(base) not in _MULTINOMIAL:
        return False
    count = base.total_count
    return not isinstance(count, jax.core.Tracer) and bool(np.all(np.asarray(count) == 1))


def _log_odds(base: Distribution, shape: tuple[int, ...]) -> Array:
    if isinstance(base, dist.BernoulliProbs):
        return _log(base.probs, shape) - _log(1 - jnp.asarray(base.probs), shape)
    # Beyond, the sample is certain and the noise would be lost to rounding.
    log_odds = _floating(base.logits, shape)
    bound = -jnp.log(jnp.finfo(log_odds.dtype).tiny)
    return jnp.clip(log_odds, -bound, bound)


def _log_probs(base: Distribution, shape: tuple[int, ...]) -> Array:
    holder = base.distribution if isinstance(base, Distrax) else base
    given = holder._probs if isinstance(base, Distrax) else getattr(holder, "probs", None)
    if isinstance(base, dist.MultinomialProbs) or (isinstance(base, Distrax) and given is not None):
        return _log(given, shape)
    log_probs = jax.nn.log_softmax(_floating(holder.logits, shape))
    return jnp.maximum(log_probs, jnp.log(jnp.finfo(log_probs.dtype).tiny))


def _log(probs: ArrayLike, shape: tuple[int, ...]) -> Array:
    """A logarithm that is finite, with its derivative, at zero."""
    probs = _floating(probs, shape)
    tiny = jnp.finfo(probs.dtype).tiny
    return jnp.log(jnp.where(probs > tiny, probs, tiny))


def _floating(parameter: ArrayLike, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(jnp.asarray(parameter, float), shape)
