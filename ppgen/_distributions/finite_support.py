"""Finite supports whose size is a parameter: counts and intervals of whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import jax.numpy as jnp
import numpy as np
from jax import Array, ShapeDtypeStruct
from jax.core import Tracer
from numpyro.distributions import (
    BetaBinomial,
    BinomialLogits,
    BinomialProbs,
    DiscreteUniform,
    Distribution,
)

from ppgen._distributions.supports import shown
from ppgen._distributions.wrappers import plain

_COUNTS = (BetaBinomial, BinomialLogits, BinomialProbs)


def sized_by_a_parameter(dist: Distribution) -> bool:
    """Whether parameters say how many values there are, and not their shapes."""
    return type(plain(dist)) in (*_COUNTS, DiscreteUniform)


def values_between(dists: Sequence[Distribution]) -> np.ndarray | None:
    """All values from the smallest to the largest one that some distribution has.

    Args:
        dists: distributions that are `sized_by_a_parameter`, of one family.

    Returns:
        `(S,)`; `None` where a parameter that it depends on is not known.
    """
    lows, highs = [], []
    for d in map(plain, dists):
        ends = (d.low, d.high) if type(d) is DiscreteUniform else (0, d.total_count)
        if any(isinstance(x, (Tracer, ShapeDtypeStruct)) for x in ends):
            return None
        lows.append(np.min(ends[0]))
        highs.append(np.max(ends[1]))
    return np.arange(int(min(lows)), int(max(highs)) + 1)


@final
class Among(Distribution):
    """`base`, whose values are some of `values`: of the others the probability is zero."""

    has_enumerate_support = True
    pytree_data_fields = ("base",)
    pytree_aux_fields = ("values",)

    def __init__(self, base: Distribution, values: np.ndarray) -> None:
        self.base = base
        self.values = values
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of `base`."""
        return self.base.support

    def log_prob(self, value: Array) -> Array:
        """That of `base` within its support, minus infinity outside."""
        support: Any = self.base.support
        inside = jnp.asarray(support(value))
        return jnp.where(inside, self.base.log_prob(shown(self.base, value, inside)), -jnp.inf)

    def enumerate_support(self, expand: bool = True) -> Array:
        """The values, `(S, 1, ..., 1)`, or expanded to the batch."""
        values = jnp.asarray(self.values).reshape(-1, *(1,) * len(self.batch_shape))
        return jnp.broadcast_to(values, (len(values), *self.batch_shape)) if expand else values
