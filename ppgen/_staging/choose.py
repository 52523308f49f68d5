"""Choices whose density is not needed, in one or more steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution, MixtureSameFamily

from ppgen._distributions.edges import is_point_mass, mixes_point_masses
from ppgen._distributions.noninvertible import split_transforms
from ppgen._distributions.rebuild import flatten
from ppgen._distributions.supports import range_of
from ppgen._distributions.wrappers import plain, split_event, without_masks
from ppgen._staging.choice import bind_choice, describe_choice
from ppgen._staging.transformed import split_for, transform_scope, transformed
from ppgen.estimators._base import AbstractEstimator
from ppgen.estimators._reparameterize import Reparameterize


def choose(dist: Distribution, estimator: AbstractEstimator, *, name: str, where: str) -> Array:
    """Make one choice of `dist`."""
    inner, _ = split_event(without_masks(dist))
    if mixes_point_masses(inner):
        return _of_parts(inner, estimator, name, where)
    found = split_for(inner, estimator)
    spec, leaves, rest = describe_choice(dist, estimator, name=name, where=where)
    if found is None or estimator.in_place:
        return _bind(spec, [*leaves, *rest])
    split, base = found
    first, own, rest = describe_choice(base, estimator, name=name, where=where)
    x = _bind(dataclasses.replace(first, family=spec.family, default=spec.default), [*own, *rest])
    with transform_scope(name, dist):
        point: Any = split(inner)[1](x)
    return transformed(jnp.asarray(point.v), x, leaves, dist, within=spec.within)


def _bind(spec: Any, operands: list[Any]) -> Array:
    return bind_choice(spec, (), ((),) * len(operands), operands)


def _of_parts(d: Distribution, estimator: AbstractEstimator, name: str, where: str) -> Array:
    """A mixture with a point mass: its component, and the value of that.

    A point mass and a density cannot be compared. So the component is a separate choice, and the
    value is that of the point mass, or is drawn from the component with a density.
    """
    inner: Any = plain(d)
    if hasattr(inner, "transforms"):
        base, finish = split_transforms(inner, d.batch_shape)
        x = choose(base, estimator, name=name, where=where)
        with transform_scope(name, d):
            point: Any = finish(x)
        return transformed(jnp.asarray(point.v), x, flatten(d)[0], d, within=range_of(d))

    def part(d: Distribution) -> Array:
        # A point mass is not random: its value carries the whole derivative.
        own = Reparameterize() if is_point_mass(d) else estimator
        return choose(d, own, name=name, where=where)

    mixing = inner.mixing_distribution.expand(d.batch_shape)
    index = part(mixing).reshape(d.batch_shape + (1,) * (1 + d.event_dim))
    axis = -1 - d.event_dim
    if isinstance(inner, MixtureSameFamily):
        component: Any = inner.component_distribution
        values = part(component.expand((*d.batch_shape, *component.batch_shape[-1:])))
    else:
        parts = [c.expand(d.batch_shape) for c in inner.component_distributions]
        values = jnp.stack([part(c) for c in parts], axis=axis)
    return jnp.squeeze(jnp.take_along_axis(values, index, axis), axis)
