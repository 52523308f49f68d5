"""Antithetic gradients of coin flips: ARM and DisARM."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import BernoulliLogits, BernoulliProbs, Distribution

from ppgen._derivatives import attach
from ppgen._distributions.wrappers import plain
from ppgen.estimators._base import AbstractEstimator, Points


class ARM(AbstractEstimator):
    r"""Augment-REINFORCE-merge, for Bernoulli. *Unbiased*.

    With a uniform `u`, the sample `b = [u < p]` and the antithetic `b' = [1 - u < p]`, the
    derivative with respect to the logit is

    .. math:: (f(b) - f(b')) \, (1/2 - u).

    Where a cost mixes the elements of a batch, all of them are exchanged at once: two evaluations
    for one site, `1 + k` for `k` sites, whatever their sizes. `DisARM` costs the same and has
    less variance. First derivatives only: a second one raises.

    Parameters from which the logits or the probabilities are computed get derivatives by the chain
    rule. At a probability of exactly zero or one the estimated derivative is zero, because the
    other value is never sampled; `MeasureValued()` and `Enumerate()` are right there.

    Raises:
        DerivativeError: a second derivative.

    References:
        Yin and Zhou, *ARM: Augment-REINFORCE-Merge Gradient for Stochastic Binary Networks*,
        ICLR 2019 (which takes `1 - u` for `u`).
    """

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = True
    together: ClassVar[bool] = True

    def misfit(self, dist: Distribution) -> str | None:
        """Only coin flips."""
        return _misfit("ARM", dist)

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """The sample and the antithetic one."""
        pair = _antithetic(key, dist)
        return _points(pair, 0.5 - pair.u)


class DisARM(AbstractEstimator):
    r"""Disentangled ARM, also known as U2G, for Bernoulli. *Unbiased*.

    ARM, conditioned on the pair of samples: elements that are equal in both contribute nothing, the
    others their conditional expectation. The derivative with respect to the logit `l` is

    .. math:: \tfrac12 (f(b) - f(b')) \, (-1)^{b'} [b \ne b'] \, \sigma(|l|),

    with the sample `b = [u < p]` and the antithetic `b' = [1 - u < p]`. It costs as much as `ARM`,
    and the remarks there on batches and probabilities apply here.

    Raises:
        DerivativeError: a second derivative.

    References:
        Dong, Mnih and Tucker, *DisARM: An Antithetic Gradient Estimator for Binary Latent
        Variables*, NeurIPS 2020.
        Yin, Ho, Yan, Qian and Zhou, *Probabilistic Best Subset Selection via Gradient-Based
        Optimization*, 2020 (U2G).
    """

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = True
    together: ClassVar[bool] = True

    def misfit(self, dist: Distribution) -> str | None:
        """Only coin flips."""
        return _misfit("DisARM", dist)

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """The sample and the antithetic one."""
        pair = _antithetic(key, dist)
        # (-1)^b' [b != b'] is b - b'; the sigmoid of |l| is the larger of p and 1 - p.
        change = pair.sample.astype(pair.u.dtype) - pair.other.astype(pair.u.dtype)
        return _points(pair, 0.5 * change * jnp.maximum(pair.probs, 1 - pair.probs))


class _Pair(NamedTuple):
    """Two antithetic flips of the same coins.

    Attributes:
        sample: the sample `[u < p]`.
        other: the antithetic one.
        u: the uniform variable behind both.
        probs: the frozen probabilities.
        dist: the distribution that holds the parameters.
    """

    sample: Array
    other: Array
    u: Array
    probs: Array
    dist: Any


def _misfit(name: str, dist: Distribution) -> str | None:
    kind = type(plain(dist))
    if kind in (BernoulliProbs, BernoulliLogits):
        return None
    return f"{name}() is for Bernoulli, not for {kind.__name__}"


def _antithetic(key: Array, d: Distribution) -> _Pair:
    base = plain(d)
    probs = jax.lax.stop_gradient(jnp.asarray(base.probs, jnp.result_type(base.probs, 0.0)))
    probs = jnp.broadcast_to(probs, d.batch_shape)
    u = jax.random.uniform(key, d.batch_shape, probs.dtype)
    dtype = jax.eval_shape(d.sample, key).dtype
    # Not `<` in the second: `u` can be zero, not one, and a certain coin must not flip.
    return _Pair((u < probs).astype(dtype), (1 - u <= probs).astype(dtype), u, probs, base)


def _points(pair: _Pair, slope: Array) -> Points:
    """Weights whose derivative in the logits is `slope` at the sample, `-slope` at the other."""
    if isinstance(pair.dist, BernoulliLogits):
        logits = jnp.asarray(pair.dist.logits, pair.u.dtype)
        a = attach(jnp.broadcast_to(logits, slope.shape), slope)
    else:
        probs = jnp.asarray(pair.dist.probs, pair.u.dtype)
        # By the logit log(p) - log(1 - p), of derivative 1 / (p (1 - p)): as two quotients, whose
        # product does not underflow.
        certain = jnp.minimum(pair.probs, 1 - pair.probs) < jnp.finfo(pair.u.dtype).tiny
        p = jnp.where(certain, 0.5, pair.probs)
        a = attach(
            jnp.broadcast_to(probs, slope.shape), jnp.where(certain, 0.0, slope / p / (1 - p))
        )
    return Points(jnp.stack([pair.sample, pair.other]), weight=jnp.stack([1 + a, -a]))
