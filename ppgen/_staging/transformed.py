"""Sites that draw and then transform: the value and its density from the same intermediates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array
from numpyro.distributions.util import sum_rightmost

from ppgen._distributions.noninvertible import split_transforms
from ppgen._distributions.wrappers import as_single_precision, plain, split_event
from ppgen._staging.choice import bind_choice
from ppgen._staging.primitives import (
    SAMPLER_SCOPE,
    SITE_SCOPE,
    Lanes,
    Mapped,
    SiteSpec,
    over_lanes,
    transformed_p,
)
from ppgen.densities import log_prob


def bind_transformed(
    spec: SiteSpec, lanes: Lanes, mapped: Mapped, operands: Sequence[Any]
) -> tuple[Array, Array]:
    """Make the choice before the transforms of a site with `before`, and apply them.

    Returns:
        The value, and its log density before masks and scales, in which nothing is inverted.
    """
    assert spec.before is not None
    choice, order = spec.before
    own = [*order, *range(spec.num_leaves, spec.num_leaves + spec.num_estimator)]
    x = bind_choice(choice, lanes, tuple(mapped[i] for i in own), [operands[i] for i in own])
    leaves = list(operands[: spec.num_leaves])

    def after(_, leaves, x):
        inner, reinterpreted = split_event(spec.density.build(leaves))
        base, finish = split_transforms(plain(inner), inner.batch_shape)
        point: Any = finish(x)
        own = log_prob(base, as_single_precision(x))
        own = sum_rightmost(own, own.ndim - len(inner.batch_shape)) + point.log_density
        return point.v, sum_rightmost(own, reinterpreted)

    with jax.named_scope(SITE_SCOPE + choice.name), jax.named_scope(SAMPLER_SCOPE):
        value, logp = over_lanes(after, lanes, mapped[: spec.num_leaves], None, leaves, x)
    return transformed_p.bind(value, x, *leaves, within=spec.within), logp
