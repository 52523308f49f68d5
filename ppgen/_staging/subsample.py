"""Minibatch indices of a subsampled plate, as a random choice without parameters."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution, constraints

from ppgen.estimators._base import AbstractEstimator, Points


class SubsampleIndices(Distribution):
    """`subsample_size` of `size` indices, without replacement, in random order."""

    support = constraints.independent(constraints.nonnegative_integer, 1)  # pyright: ignore
    pytree_aux_fields = ("size", "subsample_size")
    has_enumerate_support = True

    def __init__(self, size: int, subsample_size: int) -> None:
        self.size = size
        self.subsample_size = subsample_size
        super().__init__((), (subsample_size,))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Indices, `(*sample_shape, subsample_size)`."""
        keys = jax.random.split(key, sample_shape)

        def one(key: Array) -> Array:
            return jax.random.permutation(key, self.size)[: self.subsample_size]

        for _ in sample_shape:
            one = jax.vmap(one)
        return one(keys)

    def log_prob(self, value: Array) -> Array:
        """Uniform over ordered subsets."""
        return jnp.full(jnp.shape(value)[:-1], -math.log(math.perm(self.size, self.subsample_size)))

    def enumerate_support(self, expand: bool = True) -> Array:
        """All ordered subsets."""
        return jnp.array(list(itertools.permutations(range(self.size), self.subsample_size)))


class GivenIndices(Distribution):
    """The given indices of a minibatch, as a distribution."""

    support = constraints.independent(constraints.nonnegative_integer, 1)  # pyright: ignore
    pytree_data_fields = ("indices",)

    def __init__(self, indices: Array) -> None:
        self.indices = indices
        super().__init__((), jnp.shape(indices))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """The indices, `(*sample_shape, subsample_size)`."""
        return jnp.broadcast_to(self.indices, (*sample_shape, *jnp.shape(self.indices)))

    def log_prob(self, value: Array) -> Array:
        """Zero: there is no randomness."""
        return jnp.zeros(jnp.shape(value)[:-1])


class Exogenous(AbstractEstimator):
    """An estimator for a distribution without parameters: a plain sample."""

    differentiable: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False
    exogenous: ClassVar[bool] = True

    def misfit(self, dist: Distribution) -> str | None:
        """Fits distributions without parameters."""
        return None

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """One sample."""
        return Points(jnp.asarray(dist.sample(key)))
