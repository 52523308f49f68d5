"""Samples as functions of uniform variables, by the inverse of the distribution function."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.families import family


def has_quantiles(d: Distribution) -> bool:
    """Whether `from_uniforms` serves `d`."""
    icdf: Any = family(d).icdf
    return has_quantiles(getattr(d, icdf)) if isinstance(icdf, str) else icdf is not None


def uniforms_needed(d: Distribution) -> tuple[int, ...]:
    """The shape of the uniform variables behind one sample: one for each dimension of the base."""
    if isinstance(d, dist.ExpandedDistribution):
        base = uniforms_needed(d.base_dist)
        return d.batch_shape + base[len(d.base_dist.batch_shape) :]
    if isinstance(base := family(d).icdf, str):
        return uniforms_needed(getattr(d, base))
    return tuple(d.batch_shape) + tuple(d.event_shape)


def from_uniforms(d: Any, u: Array) -> Array:
    """The sample of `d` whose quantiles are `u`, in the open unit interval.

    It has the distribution `d` if `u` is uniform, increases in `u` where `d` is scalar, and is
    differentiable in the parameters where `d` is continuous.
    """
    icdf = family(d).icdf
    if not isinstance(icdf, str):
        return icdf(d, u)  # pyright: ignore[reportOptionalCall]
    # What is expanded is broadcast: all inverses are elementwise along the batch.
    x = from_uniforms(getattr(d, icdf), u)
    for transform in getattr(d, "transforms", ()):
        x = transform(x)
    return x


def uniform(bits: Array, dtype: Any) -> Array:
    """Uniform variables in the open unit interval from 32 random bits; flipped bits give `1 - u`.

    Centres of a grid, so that the ends, where quantiles are infinite, are never met.
    """
    # As many bits as the type holds with one more for the centre.
    kept = min(32, jnp.finfo(dtype).nmant)
    grid = (bits >> (32 - kept)).astype(dtype)
    return (grid + 0.5) * math.ldexp(1.0, -kept)
