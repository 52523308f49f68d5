"""Densities of mixtures: components of density zero, weights of zero, and point masses."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from numpyro.distributions import CategoricalProbs, Delta, MixtureGeneral

from ppgen._distributions.supports import shown
from ppgen._distributions.wrappers import is_discrete, unwrapped

LogProb = Callable[[Any, Any], Array]
_LARGEST = 80.0  # of what is exponentiated


def mixture_log_prob(d: Any, value: Array, log_prob: LogProb) -> Array:
    """Log density (in nats) at `value` of a mixture.

    NumPyro evaluates a component where it has no density too, which makes a NaN of the derivative;
    it has no derivative with respect to a probability that is zero or one; and it adds the density
    of the other components to a point mass, where they have none that counts.

    Args:
        d: a `MixtureSameFamily` or a `MixtureGeneral`.
        value: where.
        log_prob: the log density of a component.
    """
    if isinstance(d, MixtureGeneral):
        parts = [_inside(c, value, log_prob) for c in d.component_distributions]
        parts = _beside_points(d.component_distributions, parts)
        components = jnp.stack(jnp.broadcast_arrays(*parts), axis=-1)
    else:
        inner = d.component_distribution
        components = log_prob(inner, jnp.expand_dims(value, d.mixture_dim))
    mixing = unwrapped(d.mixing_distribution)
    if isinstance(mixing, CategoricalProbs):
        return _weighted(components, jnp.asarray(d.mixing_distribution.probs))
    return _mean_of_logs(jnp.asarray(d.mixing_distribution.logits), components)


def _mean_of_logs(logits: Array, log_densities: Array) -> Array:
    """The log of the weighted mean of densities."""
    terms = jax.nn.log_softmax(logits) + log_densities
    none = jnp.isneginf(terms)
    total = jax.nn.logsumexp(jnp.where(none, -jnp.inf, terms), axis=-1)
    # Where components are alike, the derivative by a logit is a difference of what they have.
    largest = jnp.max(jnp.where(none, -jnp.inf, log_densities), axis=-1, keepdims=True)
    largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    below = jnp.expm1(jnp.where(none, 0.0, log_densities - largest))
    below = jnp.where(none, -1.0, below)
    lacks = jnp.sum(jax.nn.softmax(logits) * below, axis=-1)
    alike = lacks > -0.5
    return jnp.where(alike, jnp.log1p(jnp.where(alike, lacks, 0.0)) + largest[..., 0], total)


def _inside(component: Any, value: Array, log_prob: LogProb) -> Array:
    """The log density of a component, with its derivative, which is zero outside its support."""
    try:
        inside = component.support(value)
    except NotImplementedError:  # a user's distribution that does not say
        return log_prob(component, value)
    return jnp.where(inside, log_prob(component, shown(component, value, inside)), -jnp.inf)


def _beside_points(components: Any, parts: list[Array]) -> list[Array]:
    """Log densities, where components with a density have none at a point mass."""
    points = [isinstance(unwrapped(c), Delta) for c in components]
    if not any(points):
        return parts
    at: Any = False
    for point, part in zip(points, parts, strict=True):
        at = at | (point & ~jnp.isneginf(part))
    return [
        part if point or is_discrete(c) else jnp.where(at, -jnp.inf, part)
        for c, point, part in zip(components, points, parts, strict=True)
    ]


def _weighted(log_densities: Array, probs: Array) -> Array:
    """The log of the weighted mean of densities: a weight of zero has a derivative all the same."""
    probs, log_densities = jnp.broadcast_arrays(probs, log_densities)
    counts = (probs > 0) & ~jnp.isneginf(log_densities)
    largest = jnp.max(jnp.where(counts, log_densities, -jnp.inf), axis=-1, keepdims=True)
    largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    none = jnp.isneginf(log_densities)
    scaled = jnp.minimum(jnp.where(none, 0.0, log_densities) - largest, _LARGEST)
    mean = jnp.sum(jnp.where(none, 0.0, probs * jnp.exp(scaled)), axis=-1)
    possible = mean > 0
    log = jnp.log(jnp.where(possible, mean, 1.0)) + largest[..., 0]
    return jnp.where(possible, log, -jnp.inf) - jnp.log(jnp.sum(probs, axis=-1))
