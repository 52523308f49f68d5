"""Sites that draw and then map the draw, for one of two reasons.

If transforms saturate, value and density are computed from the same intermediate values. If a
support moves under an estimator that freezes its values, the relative position between its ends is
frozen.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.moving_ends import Split, one_after_the_other, split_moving_ends
from ppgen._distributions.noninvertible import loses_digits, split_transforms
from ppgen._distributions.own_classes import has_own_transform
from ppgen._distributions.wrappers import as_single_precision, plain, split_event, sum_last
from ppgen._sampling.log_scale import split_log_scale
from ppgen._staging.choice import bind_choice, describe_choice
from ppgen._staging.coordinates import remember, scale_of
from ppgen._staging.primitives import (
    OWN_SAMPLER_SCOPE,
    SAMPLER_SCOPE,
    SITE_SCOPE,
    Before,
    ChoiceSpec,
    Lanes,
    Mapped,
    SiteSpec,
    over_lanes,
    transformed_p,
)
from ppgen.densities import log_prob
from ppgen.estimators._base import AbstractEstimator

Way = Callable[[Distribution], Split | None]
"""From a distribution to one that is drawn from, and a map of what was drawn."""


def _through_transforms(d: Distribution) -> Split:
    return split_transforms(plain(d), d.batch_shape)


def split_for(
    d: Distribution, estimator: AbstractEstimator
) -> tuple[Callable[[Distribution], Any], Distribution] | None:
    """How a choice is made in two steps: the split of its distribution, and the first one.

    Args:
        d: elementwise.
        estimator: for the choice; it has to fit the first distribution.

    Returns:
        `None` where it is made in one.
    """
    for split in _ways(d, estimator):
        found = split(d)
        if found is not None and estimator.misfit(found[0]) is None:
            return split, found[0]
    return None


def _ways(d: Distribution, estimator: AbstractEstimator) -> tuple[Way, ...]:
    """How `d` may be split for an estimator: the first way that there is counts."""
    if not estimator.in_place:
        return () if estimator.differentiable else _FROZEN
    return _MOVING if loses_digits(d) else (split_log_scale,)


def _further(split: Way) -> Way:
    """This way, and then by the log of what is drawn, where that is of a family with one."""

    def both(d: Distribution) -> Split | None:
        first = split(d)
        if first is None:
            return None
        more = split_log_scale(split_event(first[0])[0])
        return None if more is None else one_after_the_other(more, first[1], d)

    return both


_MOVING = (split_log_scale, _further(_through_transforms), _through_transforms)
_FROZEN = (split_log_scale, _further(split_moving_ends), split_moving_ends)


def before(
    dist: Distribution, estimator: AbstractEstimator, choice: ChoiceSpec, position: dict[int, int]
) -> Before | None:
    """The first step of a site that is made in two.

    Args:
        dist: the site's distribution.
        estimator: for its choice.
        choice: the choice, were it made in one.
        position: of each array of `dist`, by its id, the position.
    """
    found = split_for(split_event(dist)[0], estimator)
    if found is None:
        return None
    split, base = found
    spec, leaves, _ = describe_choice(base, estimator, name=choice.name, where=choice.where)
    if any(id(leaf) not in position for leaf in leaves):
        return None
    spec = dataclasses.replace(spec, family=choice.family, default=choice.default)
    return Before(spec, tuple(position[id(leaf)] for leaf in leaves), split)


@contextlib.contextmanager
def transform_scope(name: str, dist: Distribution) -> Iterator[None]:
    """The scope in which the transforms of a distribution run."""
    scope = OWN_SAMPLER_SCOPE if has_own_transform(dist) else SAMPLER_SCOPE
    with jax.named_scope(SITE_SCOPE + name), jax.named_scope(scope):
        yield


def transformed(
    value: Array, x: Any, leaves: Sequence[Any], dist: Distribution, *, within: Any
) -> Array:
    """The value of a site that is a function of a choice `x`.

    What NumPyro's transforms do inside is right. What a user's do is looked into: `value` then
    counts among what the result depends on.
    """
    looked_into = [value] if has_own_transform(dist) else []
    return transformed_p.bind(value, x, *leaves, *looked_into, within=within)


def bind_transformed(
    spec: SiteSpec, lanes: Lanes, mapped: Mapped, operands: Sequence[Any]
) -> tuple[Array, Array]:
    """Make the choice of a site with `before`, and map it.

    Returns:
        The value, and its log density before masks and scales, computed without inverses.
    """
    assert spec.before is not None
    choice, order, split = spec.before
    own = [*order, *range(spec.num_leaves, spec.num_leaves + spec.num_estimator)]
    x = bind_choice(choice, lanes, tuple(mapped[i] for i in own), [operands[i] for i in own])
    leaves = list(operands[: spec.num_leaves])

    def after(_, leaves, x):
        inner, reinterpreted = split_event(spec.density.build(leaves))
        base, finish = split(inner)
        point: Any = finish(x)
        own = log_prob(base, as_single_precision(x))
        own = sum_last(own, own.ndim - len(inner.batch_shape)) + point.log_density
        return point.v, sum_last(own, reinterpreted)

    dist = spec.density.build(leaves)
    with transform_scope(choice.name, dist):
        value, logp = over_lanes(after, lanes, mapped[: spec.num_leaves], None, leaves, x)
    value = transformed(value, x, leaves, dist, within=spec.within)
    remember(value, scale_of(dist), x)
    return value, logp
