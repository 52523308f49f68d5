"""Batches of in-memory data, drawn on the device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree


class Batches:
    """Random batches: every epoch visits the rows in a new order and drops the remainder.

    Without data, or with batches of all the data, nothing is shuffled and nothing is copied.

    Attributes:
        data: The data, on the device, or None.
        rows: Entries of the order that the caller carries; 0 if there is nothing to shuffle.
    """

    def __init__(self, data: PyTree | None, batch_size: int | None) -> None:
        if data is None and batch_size is not None:
            raise ValueError("a batch_size needs data to take batches from")
        self.data: Any = jax.tree.map(jnp.asarray, data)
        leaves = jax.tree.leaves(self.data)
        if any(leaf.ndim == 0 for leaf in leaves) or len({leaf.shape[0] for leaf in leaves}) > 1:
            shapes = ", ".join(str(leaf.shape) for leaf in leaves)
            raise ValueError(f"data must share one leading axis; their shapes are {shapes}")
        rows = leaves[0].shape[0] if leaves else 0
        if batch_size is not None and not 1 <= batch_size <= rows:
            raise ValueError(
                f"batch_size must be from 1 to {rows}, the rows of the data, not {batch_size}"
            )
        self._size = batch_size
        self._per_epoch = 1 if batch_size is None else rows // batch_size
        self.rows = 0 if batch_size is None else rows

    def order(
        self, key: Key[Array, ""], step: Int[Array, ""], current: Int[Array, " rows"]
    ) -> Int[Array, " rows"]:
        """The order of the rows in the epoch of `step`, which `current` is unless one begins."""
        if self._size is None:
            return current
        epoch_key = jax.random.fold_in(key, step // self._per_epoch)
        return jax.lax.cond(
            step % self._per_epoch == 0,
            lambda: jax.random.permutation(epoch_key, self.rows),
            lambda: current,
        )

    def take(self, data: PyTree, step: Int[Array, ""], order: Int[Array, " rows"]) -> tuple:
        """The arguments that follow the parameters at `step`: one batch, or none without data."""
        if data is None:
            return ()
        if self._size is None:
            return (data,)
        first = step % self._per_epoch * self._size
        rows = jax.lax.dynamic_slice(order, (first,), (self._size,))
        return (jax.tree.map(lambda leaf: leaf[rows], data),)
