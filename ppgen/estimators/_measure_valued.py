"""Measure-valued (weak) derivatives."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from ppgen._surrogate import attach, freeze_once
from ppgen.estimators._base import AbstractEstimator, Points

_BERNOULLI = (dist.BernoulliProbs, dist.BernoulliLogits)
_CATEGORICAL = (dist.CategoricalProbs, dist.CategoricalLogits, dist.OrderedLogistic)
_POISSON = (dist.Poisson,)
_SUPPORTED = (*_BERNOULLI, *_CATEGORICAL, *_POISSON, dist.Normal)


class MeasureValued(AbstractEstimator):
    r"""The measure-valued derivative: a difference of costs at other points. *Unbiased*.

    The derivative of a density is `c (p+ - p-)` with two densities `p+` and `p-`, so

    .. math:: \frac{d}{d\theta} E_p[f] = c \, (E_{p^+}[f] - E_{p^-}[f]).

    The cost may be discontinuous, and the variance stays low where the two points are close in
    cost. It pays with evaluations, all of them vectorised: one more for Bernoulli and Poisson,
    `K - 1` for a Categorical of `K` classes (which leaves no variance given the other choices),
    three for Normal (location and scale at once). First derivatives only: a second one raises.

    The sample is coupled with the points wherever the pair allows it: `p-` is `p` itself for the
    Poisson rate and for the scale of a Normal.

    References:
        Mohamed, Rosca, Figurnov and Mnih, *Monte Carlo Gradient Estimation in Machine Learning*,
        JMLR 21, 2020, section 6 and table 1.
        Heidergott, Vázquez-Abad and Volk-Makarewicz, *Sensitivity Estimation for Gaussian
        Systems*, European Journal of Operational Research 187, 2008.
    """

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = True

    def misfit(self, dist: Distribution) -> str | None:
        """Only families with a known decomposition."""
        name = type(_base(dist)).__name__
        if type(_base(dist)) in _SUPPORTED:
            return None
        return (
            f"{name} has no measure-valued derivative here; "
            "Bernoulli, Categorical, Normal and Poisson have"
        )

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """The sample at point 0, and the points of the decomposition."""
        base = _base(dist)
        if isinstance(base, _BERNOULLI):
            return _bernoulli(key, dist, base.probs)
        if isinstance(base, _CATEGORICAL):
            return _categorical(key, dist, base.probs)
        if isinstance(base, _POISSON):
            return _poisson(key, dist, base.rate)
        return _normal(key, dist, base.loc, base.scale)


def _base(d: Distribution) -> Distribution:
    return d.base_dist if isinstance(d, dist.ExpandedDistribution) else d


def _bernoulli(key: Array, d: Distribution, probs: ArrayLike) -> Points:
    x = d.sample(key)
    a = attach(_floating(probs, d.batch_shape))
    sign = (2 * x - 1).astype(a.dtype)
    return Points(jnp.stack([x, 1 - x]), weight=jnp.stack([1 + sign * a, -sign * a]))


def _categorical(key: Array, d: Distribution, probs: ArrayLike) -> Points:
    k = jnp.shape(probs)[-1]
    x = d.sample(key)
    shift = jnp.arange(k, dtype=x.dtype).reshape((k,) + (1,) * x.ndim)
    value = (x + shift) % k
    a = attach(jnp.moveaxis(_floating(probs, (*d.batch_shape, k)), -1, 0))
    weight = jnp.take_along_axis(a, value, axis=0)
    return Points(value, weight=weight.at[0].add(1))


def _poisson(key: Array, d: Distribution, rate: ArrayLike) -> Points:
    x = d.sample(key)
    a = attach(_floating(rate, d.batch_shape))
    return Points(jnp.stack([x, x + 1]), weight=jnp.stack([1 - a, a]))


def _normal(key: Array, d: Distribution, loc: ArrayLike, scale: ArrayLike) -> Points:
    # NumPyro samples in the default precision, and every estimator has to return the same type.
    dtype = jax.eval_shape(d.sample, key).dtype
    loc, scale = (jnp.broadcast_to(jnp.asarray(p, dtype), d.batch_shape) for p in (loc, scale))
    keys = jax.random.split(key, 3)
    three = jax.random.normal(keys[0], (3, *d.batch_shape), dtype)
    rayleigh = jnp.sqrt(jnp.sum(three[:2] ** 2, axis=0))
    # A double-sided Maxwell variable, shrunk by a uniform one, is standard normal: the sample and
    # its partner in the scale derivative lie on the same side and move together.
    sign = jax.random.rademacher(keys[1], d.batch_shape, dtype)
    maxwell = sign * jnp.sqrt(jnp.sum(three**2, axis=0))
    noise = jnp.stack(
        [maxwell * jax.random.uniform(keys[2], d.batch_shape, dtype), rayleigh, -rayleigh, maxwell]
    )
    m = attach(loc, 1 / (scale * math.sqrt(2 * math.pi)))
    s = attach(scale, 1 / scale)
    return Points(freeze_once(loc + scale * noise), weight=jnp.stack([1 - s, m, -m, s]))


def _floating(parameter: ArrayLike, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(jnp.asarray(parameter, jnp.result_type(parameter, 0.0)), shape)
