"""Random orders."""

from __future__ import annotations

import itertools
import math
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, Key, Num
from numpyro.distributions import constraints

MAX_ENUMERATED = 8
"""The longest order whose permutations are listed: there are 40,320."""


@final
class UniformPermutation(dist.Distribution):
    """The uniform distribution over the orders of 0, ..., n − 1.

    It has no parameters, so its gradient estimator does not matter.

    Args:
        n: How many things to order.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ppgen.models.parts.distributions import UniformPermutation
        >>> print(f"{UniformPermutation(3).log_prob(jnp.array([2, 0, 1])):.4f}")  # -log 3!
        -1.7918
    """

    pytree_aux_fields = ("n",)
    has_enumerate_support = True

    def __init__(self, n: int, *, validate_args: bool | None = None) -> None:
        self.n = n
        super().__init__((), (n,), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)  # pyright: ignore
    def support(self) -> Any:
        """Whole numbers from 0 to n − 1; those that repeat have no probability."""
        return constraints.independent(constraints.integer_interval(0, self.n - 1), 1)

    def sample(
        self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> Int[Array, "*shape n"]:
        """Draws orders."""
        rows = jnp.broadcast_to(jnp.arange(self.n), (*sample_shape, self.n))
        return jax.random.permutation(key, rows, axis=-1, independent=True)

    def log_prob(
        self, value: Num[Array | np.ndarray, "*shape n"], intermediates: Any = None
    ) -> Float[Array, "*shape"]:
        """−log n!, or −∞ for values that are not permutations."""
        ordered = jnp.all(jnp.sort(value, -1) == jnp.arange(self.n), -1)
        return jnp.where(ordered, -math.lgamma(self.n + 1), -jnp.inf)

    def enumerate_support(self, expand: bool = True) -> Int[Array, "orders n"]:
        """All orders, up to n = 8.

        Raises:
            NotImplementedError: If there are too many of them.
        """
        if self.n > MAX_ENUMERATED:
            raise NotImplementedError(f"{self.n}! orders are too many to list")
        return jnp.array(list(itertools.permutations(range(self.n))))
