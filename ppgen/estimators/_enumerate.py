"""Exact enumeration."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from numpyro.distributions import (
    CategoricalLogits,
    CategoricalProbs,
    Distribution,
)

from ppgen._distributions.wrappers import plain
from ppgen.densities import log_prob
from ppgen.estimators._base import AbstractEstimator, Points


class Enumerate(AbstractEstimator):
    """Sum over every value of a choice with finite support. *Exact*: no variance, every order.

    The cost is evaluated once for all values, vectorised. Choices in a batch (a plate, a `vmap`)
    cost their number of values, not its power, as long as each cost term depends on one element;
    a term that mixes elements needs their joint support.

    How many values there are has to be known before anything runs: a count (of a `Binomial`) is a
    number, a constant array, or a function of choices that are enumerated themselves.

    In a `scan` whose state depends on its last choices only, the cost is summed by a forward pass,
    in `O(T S^2)` time for `T` steps and `S` values.

    Attributes:
        parallel: make that forward pass parallel in time, in `O(log T)` rounds and `O(T S^3)` time:
            faster where there is hardware for it, a GPU, and a long chain of few values. Values
            and derivatives are the same. Steps with branches, `while` loops or noise of their own
            are evaluated one after the other.

    References:
        Obermeyer et al., *Tensor Variable Elimination for Plated Factor Graphs*, ICML 2019.
        Särkkä and García-Fernández, *Temporal Parallelization of Bayesian Smoothers*, IEEE
        Transactions on Automatic Control 66, 2021.
    """

    parallel: bool = eqx.field(default=False, static=True)

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False
    enumerates: ClassVar[bool] = True
    fixed_points: ClassVar[bool] = True  # the support is the same for all parameters

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"Enumerate({'parallel=True' if self.parallel else ''})"

    def misfit(self, dist: Distribution) -> str | None:
        """Only finite supports can be summed over."""
        if getattr(dist, "has_enumerate_support", False):
            return None
        return f"{type(dist).__name__} has no finite support to enumerate"

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """The whole support, weighted by its probabilities."""
        support = dist.enumerate_support(expand=False)
        value = jnp.broadcast_to(support, support.shape[:1] + dist.batch_shape + dist.event_shape)
        return Points(value, weight=_probabilities(dist, value))


def _probabilities(d: Distribution, value: Array) -> Array:
    """Of every value: `(S, *batch)`."""
    base = plain(d)
    if isinstance(base, (CategoricalProbs, CategoricalLogits)):
        # They are there already, and a density would gather each from a copy of all of them.
        if isinstance(base, CategoricalLogits):
            # Moved before the exponential, whose derivative then has the layout of the products
            # that costs make with it, and is one of them.
            probs = jnp.exp(jnp.moveaxis(_log_softmax(base.logits), -1, 0))
        else:
            probs = jnp.moveaxis(jnp.asarray(base.probs), -1, 0)
        missing = (1,) * (1 + len(d.batch_shape) - probs.ndim)
        probs = probs.reshape(*probs.shape[:1], *missing, *probs.shape[1:])
        return jnp.broadcast_to(probs, (value.shape[0], *d.batch_shape))
    return jnp.exp(log_prob(d, value))


def _log_softmax(logits: Any) -> Array:
    """As NumPyro's density has it, so that a program that asks for both computes it once."""
    return logits - logsumexp(logits, axis=-1, keepdims=True)
