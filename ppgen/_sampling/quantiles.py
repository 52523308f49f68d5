"""Samples as functions of uniform variables, by the inverse of the distribution function."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import ndtri
from numpyro.distributions import Distribution

# Inverses in closed form, which JAX differentiates. Exact types: a subclass may sample otherwise.
_INVERSE = (
    dist.AsymmetricLaplace,
    dist.Cauchy,
    dist.Exponential,
    dist.Gompertz,
    dist.Gumbel,
    dist.HalfCauchy,
    dist.HalfNormal,
    dist.Laplace,
    dist.Logistic,
    dist.Normal,
    dist.SoftLaplace,
    dist.Uniform,
)
_BERNOULLI = (dist.BernoulliLogits, dist.BernoulliProbs)
_CATEGORICAL = (dist.CategoricalLogits, dist.CategoricalProbs)
_OTHERS = (dist.Weibull, dist.MultivariateNormal, *_BERNOULLI, *_CATEGORICAL)
_WRAPPERS = (dist.ExpandedDistribution, dist.Independent)
# Sampled as a transform of their base distribution.
_TRANSFORMED = (dist.LogNormal, dist.LogUniform, dist.Pareto, dist.TransformedDistribution)


def has_quantiles(d: Distribution) -> bool:
    """Whether `from_uniforms` serves `d`."""
    if isinstance(d, _WRAPPERS) or type(d) in _TRANSFORMED:
        return has_quantiles(d.base_dist)
    return type(d) in (*_INVERSE, *_OTHERS)


def uniforms_needed(d: Distribution) -> tuple[int, ...]:
    """The shape of the uniform variables behind one sample: one for each dimension of the base."""
    if isinstance(d, dist.ExpandedDistribution):
        base = uniforms_needed(d.base_dist)
        return d.batch_shape + base[len(d.base_dist.batch_shape) :]
    if isinstance(d, dist.Independent) or type(d) in _TRANSFORMED:
        return uniforms_needed(d.base_dist)
    return tuple(d.batch_shape) + tuple(d.event_shape)


def from_uniforms(d: Any, u: Array) -> Array:
    """The sample of `d` whose quantiles are `u`, in the open unit interval.

    It has the distribution `d` if `u` is uniform, increases in `u` where `d` is scalar, and is
    differentiable by the parameters where `d` is continuous.
    """
    if isinstance(d, _WRAPPERS):
        # What is expanded is broadcast: all below is elementwise along the batch.
        return from_uniforms(d.base_dist, u)
    if type(d) in _TRANSFORMED:
        x = from_uniforms(d.base_dist, u)
        for transform in d.transforms:
            x = transform(x)
        return x
    if isinstance(d, dist.MultivariateNormal):
        return d.loc + jnp.squeeze(jnp.matmul(d.scale_tril, ndtri(u)[..., None]), -1)
    if isinstance(d, dist.Weibull):
        return d.scale * (-jnp.log1p(-u)) ** (1 / d.concentration)
    if isinstance(d, _BERNOULLI):
        return (u > 1 - jnp.asarray(d.probs)).astype(int)
    if isinstance(d, _CATEGORICAL):
        steps = jnp.cumsum(jax.nn.softmax(d.logits), -1)[..., :-1]
        return jnp.sum(u[..., None] > steps, axis=-1, dtype=int)
    return d.icdf(u)


def uniform(bits: Array, dtype: Any) -> Array:
    """Uniform variables in the open unit interval from 32 random bits; flipped bits give `1 - u`.

    Centres of a grid, so that the ends, where quantiles are infinite, are never met.
    """
    # As many bits as the type holds with one more for the centre.
    kept = min(32, jnp.finfo(dtype).nmant)
    grid = (bits >> (32 - kept)).astype(dtype)
    return (grid + 0.5) * math.ldexp(1.0, -kept)
