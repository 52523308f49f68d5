"""Sampling without replacement: the unordered set estimator."""

from __future__ import annotations

import itertools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import Distribution

from ppgen.densities import log_prob
from ppgen.estimators._base import AbstractEstimator, Points
from ppgen.estimators._enumerate import Enumerate

_LARGEST = 10


class UnorderedSet(AbstractEstimator):
    r"""Evaluate the cost at several *different* values. *Unbiased*, to every order.

    For choices with finite support. A set `S` of `size` values is drawn without replacement, and
    the expectation estimated by

    .. math:: \sum_{s \in S} p(s) R(S, s) f(s), \qquad R(S, s) = p(S \mid s \text{ first}) / p(S),

    where `R` is frozen and the probabilities `p(s)` carry the derivative, from which the estimator
    subtracts the paper's built-in baseline: for each `s` the estimate of the mean cost that the
    rest of the set makes. No value is evaluated twice, so it pays where a few values have most of
    the probability; where the support is not larger than the set it is `Enumerate`, without any
    variance.

    Evaluations are as for `Enumerate` with `size` values: a choice in a batch takes `size` of each
    cost term, a term that mixes `n` elements `size ** n`.

    Attributes:
        size: how many values are drawn, from 2 to 10: the ratios take `2 ** size` numbers.

    References:
        Kool, van Hoof and Welling, *Estimating Gradients for Discrete Random Variables by Sampling
        without Replacement*, ICLR 2020.
    """

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False
    enumerates: ClassVar[bool] = True

    size: int = eqx.field(static=True)

    def misfit(self, dist: Distribution) -> str | None:
        """Only finite supports, and moderate sizes."""
        if not 2 <= self.size <= _LARGEST:
            return f"its size must be from 2 to {_LARGEST}, not {self.size}"
        if getattr(dist, "has_enumerate_support", False):
            return None
        return f"{type(dist).__name__} has no finite support to draw from without replacement"

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """Different values, weighted."""
        points = Enumerate()(key, dist)
        if len(points.value) <= self.size:
            return points
        log_probs = log_prob(dist, points.value)
        # Finite, so that ratios are: values of no probability have next to none. The estimate is
        # right for whatever distribution the set is drawn from, as long as the ratios are its own.
        floor = jnp.log(jnp.finfo(log_probs.dtype).tiny) / 2
        log_q = jnp.maximum(jax.lax.stop_gradient(log_probs), floor)
        noisy = log_q + jax.random.gumbel(key, log_q.shape, log_q.dtype)
        _, chosen = jax.lax.top_k(jnp.moveaxis(noisy, 0, -1), self.size)
        chosen = jnp.moveaxis(chosen, -1, 0)
        p = jnp.take_along_axis(jnp.exp(log_probs), chosen, axis=0)
        own = jnp.take_along_axis(log_q, chosen, axis=0)
        others = jnp.put_along_axis(jnp.exp(log_q), chosen, 0, axis=0, inplace=False)
        ratio, second = _ratios(own, jnp.sum(others, axis=0))
        q = jnp.exp(own)
        # What each value's change of probability takes from the weights of all: their estimates
        # of the mean cost. Its mean is zero, because probabilities change by zero in all.
        change = (p - jax.lax.stop_gradient(p)) * ratio
        weight = p * ratio - jnp.sum(change[:, None] * q * second, axis=0)
        index = chosen.reshape(chosen.shape + (1,) * len(dist.event_shape))
        return Points(jnp.take_along_axis(points.value, index, axis=0), weight=weight)


def _ratios(log_q: Array, others: Array) -> tuple[Array, Array]:
    r"""Leave-one-out ratios of a set that was drawn without replacement.

    A set is drawn in some order. With `P(A)` the probability that `A` is what remains to be drawn
    after the rest of the set has been, and is then drawn in any order,

    .. math:: P(A) = \sum_{a \in A} \frac{q(a)}{1 - q(S \setminus A)} P(A \setminus a).

    Complements are summed up, not subtracted from one: next to nothing may be left of it.

    Args:
        log_q: log probabilities of the set's elements, `(size, *batch)`.
        others: the mass outside of the set, `(*batch)`.

    Returns:
        `R(S, s)` of shape `(size, *batch)`, and `(size, size, *batch)`: the same without `s` in the
        first axis (where both are `s`, one).
    """
    size = len(log_q)
    subsets = [np.array(list(itertools.combinations(range(size), m))) for m in range(size + 1)]
    table = jnp.zeros((1 << size, *log_q.shape[1:]), log_q.dtype)
    q = jnp.exp(log_q)
    for members in subsets[1:]:
        bits = 1 << members
        whole = bits.sum(axis=1)
        mass = others + jnp.sum(q[members], axis=1)
        ways = log_q[members] + table[whole[:, None] - bits]
        table = table.at[whole].set(jax.nn.logsumexp(ways, axis=1) - jnp.log(mass))
    bit = 1 << np.arange(size)
    full = (1 << size) - 1
    without = table[full - bit]
    pairs = full - (bit[:, None] | bit)
    eye = np.eye(size, dtype=bool).reshape(size, size, *(1,) * others.ndim)
    second = jnp.where(eye, 0.0, table[pairs] - without[:, None])
    return jnp.exp(without - table[full]), jnp.exp(second)
