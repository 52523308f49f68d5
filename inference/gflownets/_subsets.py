"""Subsets of a given size, item by item."""

from __future__ import annotations

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ppgen.inference.gflownets._dags import AbstractListedDag
from ppgen.inference.gflownets._errors import DagError


class Subsets(AbstractListedDag):
    """Subsets of `size` of `items` items, chosen one after the other, in any order. Final.

    Action i adds item i. A state is a vector of booleans: which items were chosen.

    Attributes:
        size: items of a subset.
        items: items to choose from.

    Example:
        >>> from ppgen.inference import Subsets
        >>> dag = Subsets(2, 4)
        >>> len(dag.states()), dag.longest  # 1 empty set, 4 items, 6 pairs
        (11, 2)
    """

    size: int = eqx.field(static=True)
    items: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        """Refuse subsets that there are not."""
        if not 0 <= self.size <= self.items or self.items < 1:
            raise DagError(
                f"there is no subset of {self.size} of {self.items} items",
                instead="at least one item, and no more in a subset than there are",
            )

    @property
    def actions(self) -> int:
        """One for each item."""
        return self.items

    @property
    def backward_actions(self) -> int:
        """One for each item, taken out."""
        return self.items

    @property
    def longest(self) -> int:
        """As many steps as items."""
        return self.size

    def source(self) -> Bool[Array, " items"]:
        """The empty set."""
        return jnp.zeros(self.items, bool)

    def is_terminal(self, state: Bool[Array, " items"]) -> Bool[Array, ""]:
        """Whether there are enough items."""
        return jnp.sum(state) >= self.size

    def allowed(self, state: Bool[Array, " items"]) -> Bool[Array, " actions"]:
        """The items that are not in it, unless it is full."""
        return ~state & ~self.is_terminal(state)

    def step(self, state: Bool[Array, " items"], action: Int[Array, ""]) -> Bool[Array, " items"]:
        """With one item more."""
        return state | (jnp.arange(self.items) == action)

    def parents(self, state: Bool[Array, " items"]) -> Bool[Array, " backward_actions"]:
        """The items that are in it: each may have been the last."""
        return state

    def undo(self, state: Bool[Array, " items"], action: Int[Array, ""]) -> Int[Array, ""]:
        """The same item, taken out."""
        return action

    def states(self) -> Bool[Array, "states items"]:
        """All subsets of at most that size, as binary numbers in order, the first item last."""
        listed = _listed(self.size, self.items)[0]
        return jnp.asarray((listed[:, None] >> np.arange(self.items)) & 1, bool)

    def index(self, state: Bool[Array, " items"]) -> Int[Array, ""]:
        """The place of a subset."""
        number = jnp.sum(state * jnp.array([1 << i for i in range(self.items)]))
        return jnp.asarray(_listed(self.size, self.items)[1])[number]

    def features(self, state: Bool[Array, " items"]) -> Float[Array, " features"]:
        """A subset for networks: its indicator."""
        return state.astype(float)


@functools.lru_cache(maxsize=8)
def _listed(size: int, items: int) -> tuple[np.ndarray, np.ndarray]:
    """The binary numbers of subsets of at most a size, and the place of each number among them."""
    if items > 24:
        raise DagError(f"the subsets of {items} items are too many to be listed", instead="24")
    numbers = np.arange(1 << items)
    fits = np.array([sum((numbers >> i) & 1 for i in range(items))])[0] <= size
    return numbers[fits], np.cumsum(fits) - 1
