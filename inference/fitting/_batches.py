"""Batches of in-memory data, drawn on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree


class Order(NamedTuple):
    """The order of the rows in an epoch.

    Attributes:
        epoch: its number; negative before the first one.
        rows: the numbers of the rows; empty where they are not shuffled.
    """

    epoch: Int[Array, ""]
    rows: Int[Array, " rows"]


def leading_axis(data: PyTree) -> int:
    """The number of rows of data: the length of the leading axis that all arrays share.

    Raises:
        ValueError: the arrays do not share a leading axis, or there are none.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    if not shapes or any(not s for s in shapes) or len({s[0] for s in shapes}) > 1:
        shown = ", ".join(map(str, shapes)) or "of nothing"
        raise ValueError(f"data must share one leading axis; their shapes are {shown}")
    return shapes[0][0]


class Batches:
    """Random batches: every epoch visits the rows in a new order and drops the remainder.

    With batches of all the data nothing is shuffled and nothing is copied.
    """

    def __init__(self, data: PyTree, batch_size: int | None) -> None:
        rows = leading_axis(data)
        if batch_size is not None and not 1 <= batch_size <= rows:
            raise ValueError(
                f"batch_size must be from 1 to {rows}, the rows of the data, not {batch_size}"
            )
        self._size = batch_size
        self._per_epoch = 1 if batch_size is None else rows // batch_size
        self._rows = 0 if batch_size is None else rows

    def unknown_order(self) -> Order:
        """The order before the first epoch, of the right shape."""
        return Order(jnp.int32(-1), jnp.zeros(self._rows, jnp.int32))

    def order(self, key: Key[Array, ""], step: Int[Array, ""], current: Order) -> Order:
        """The order of the rows in the epoch of `step`: `current`, unless a new epoch begins.

        It depends on the epoch alone, so that a run can start in the middle of an epoch.
        """
        if self._size is None:
            return current
        epoch = step // self._per_epoch
        return jax.lax.cond(
            epoch == current.epoch,
            lambda: current,
            lambda: Order(
                epoch,
                jax.random.permutation(
                    jax.random.fold_in(key, epoch), jnp.arange(self._rows, dtype=jnp.int32)
                ),
            ),
        )

    def take(
        self,
        data: PyTree,
        step: Int[Array, ""],
        order: Order,
        place: Callable[[Any], Any] = lambda rows: rows,
    ) -> PyTree:
        """The batch of `step`; `place` says on which devices its rows lie."""
        if self._size is None:
            return jax.tree.map(place, data)
        first = step % self._per_epoch * self._size
        rows = place(jax.lax.dynamic_slice(order.rows, (first,), (self._size,)))
        return jax.tree.map(lambda leaf: leaf[rows], data)
