"""A stream of batches of any sizes, regrouped into batches of one size."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ppgen.errors import PpgenError

BLOCK_BYTES = 64 * 2**20
"""Approximate size of what is sent to the device at once."""


class DataError(PpgenError, ValueError):
    """Data that cannot be used, that ran out, or a batch unlike the previous ones.

    The message says what is wrong, and names the file or image.

    Example:
        An iterator of four batches is exhausted after four steps.

        >>> import grain, jax, numpy as np, optax
        >>> from ppgen.inference import fit
        >>> def loss(location, x):
        ...     return ((x - location) ** 2).mean()
        >>> batches = (np.full(8, 1.0) for _ in range(4))
        >>> _ = fit(loss, 0.0, optax.sgd(0.1), key=jax.random.key(0), steps=9, data=batches)
        Traceback (most recent call last):
            ...
        ppgen.inference.DataError: the data ran out after 4 of 9 steps: an iterator ends
          Write instead: an iterable that can start again, such as a grain dataset, or fewer steps
          See: ppgen.inference.DataError

        A dataset can be iterated again:

        >>> data = grain.MapDataset.source(np.ones(32)).batch(8)
        >>> fitted = fit(loss, 0.0, optax.sgd(0.1), key=jax.random.key(0), steps=9, data=data)
        >>> len(fitted.history)
        9
    """

    # The public module, for messages and pickling.
    __module__ = "ppgen.inference"


class _Mark(NamedTuple):
    """The position of a row: in the batch after `batches` others, read from `state`."""

    batches: int
    state: Any
    row: int


class Stream:
    """Rows of batches, in their order, in batches of one size.

    Rows at the end of an epoch that do not fill a batch are completed by the first rows of the next
    epoch, so that no row is lost or counts more than another.

    Args:
        data: an iterable of pytrees of arrays that share a leading axis. If it can be iterated
            again, it is, without end; an iterator ends.
        batch_size: rows in a batch; as many as the first batch has if None.
        positions: whether `position` will be called.
    """

    def __init__(
        self, data: Iterable[PyTree], batch_size: int | None, *, positions: bool = True
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._data = data
        self._size: Any = batch_size  # known at the start, at the latest
        self._positions = positions

    def start(self, step: int, position: Any) -> None:
        """Start at a saved position or, if it is None, at the beginning.

        Raises:
            DataError: the data have changed.
        """
        self._iterator: Iterator[PyTree] = iter(self._data)
        self._once = self._iterator is self._data
        self._marks: dict[int, _Mark] = {}
        self._step = step
        self._batches = 0
        self._current: list[np.ndarray] = []
        self._mark = _Mark(0, None, 0)
        self._treedef: Any = None
        if position is not None and position["iterator"] is not None:
            if not hasattr(self._iterator, "set_state"):
                raise DataError("the data had an iterator with `set_state`, and have none now")
            self._iterator.set_state(_decoded(position["iterator"]))
            self._batches = position["batches"]
        elif position is not None:
            for _ in range(position["batches"]):
                self._next_batch()
        if not self._next_batch():
            raise DataError("the data hold no batch")
        if position is not None:
            self._mark = self._mark._replace(row=position["row"])
        if self._size is None:
            self._size = self._current[0].shape[0] if position is None else position["size"]
        if position is not None and position["size"] != self._size:
            raise DataError(f"batches were of {position['size']} rows, and are of {self._size} now")

    def block_length(self, most: int) -> int:
        """How many batches are sent at once: `most`, or as many as are not too large."""
        rows = self._current
        bytes_per_batch = self._size * sum(x[0].size * x.dtype.itemsize for x in rows)
        return max(1, min(most, BLOCK_BYTES // max(1, bytes_per_batch)))

    def read(self, length: int, wanted: int) -> tuple[PyTree, int]:
        """The next batches, stacked.

        Args:
            length: the length of the leading axis.
            wanted: how many to read, at most.

        Returns:
            Arrays of shape `(length, batch_size, ...)`, and how many batches in them are filled:
            fewer than are wanted where the data have run out.
        """
        size = self._size
        shape = (length, size)
        stacked = [np.zeros(shape + x.shape[1:], x.dtype) for x in self._current]
        oldest = self._step - 2 * length
        self._marks = {step: mark for step, mark in self._marks.items() if step >= oldest}
        for i in range(min(length, wanted)):
            self._marks[self._step] = self._mark
            filled = 0
            while filled < size:
                row = self._mark.row
                available = min(size - filled, self._current[0].shape[0] - row)
                for block, rows in zip(stacked, self._current, strict=True):
                    block[i, filled : filled + available] = rows[row : row + available]
                filled += available
                self._mark = self._mark._replace(row=row + available)
                if filled < size and not self._next_batch():
                    return jax.tree.unflatten(self._treedef, stacked), i
            self._step += 1
        self._marks[self._step] = self._mark
        return jax.tree.unflatten(self._treedef, stacked), min(length, wanted)

    def position(self, step: int) -> dict[str, Any]:
        """Where the rows of `step`, one of the steps read last or the next, begin.

        It can be written as JSON. An iterator with `get_state` and `set_state`, as grain's have, is
        moved there at once; any other is read from the beginning.
        """
        mark = self._marks.get(step, self._mark)
        return {
            "batches": mark.batches,
            "row": mark.row,
            "size": self._size,
            "iterator": None if mark.state is None else _encoded(mark.state),
        }

    def _next_batch(self) -> bool:
        """Read a batch; whether there was one. Rows left in the current one are skipped."""
        for fresh in (False, True):
            if fresh:
                if self._once:
                    return False
                self._iterator = iter(self._data)
            state = None
            if self._positions and hasattr(self._iterator, "get_state"):
                state = self._iterator.get_state()
            try:
                batch = next(self._iterator)
            except StopIteration:
                continue
            self._accept(batch)
            self._mark = _Mark(self._batches, state, 0)
            self._batches += 1
            return True
        return False

    def _accept(self, batch: PyTree) -> None:
        leaves, treedef = jax.tree.flatten(batch)
        rows = [np.asarray(leaf) for leaf in leaves]
        rows = [x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False) for x in rows]
        which = f"batch {self._batches} of the data"
        if not rows or any(x.ndim == 0 for x in rows) or len({x.shape[0] for x in rows}) > 1:
            shapes = ", ".join(str(x.shape) for x in rows)
            raise DataError(
                f"the arrays of {which} must share one leading axis; their shapes are {shapes}",
                instead="batches, not single records (`.batch(size)` makes them in grain)",
            )
        if self._treedef is None:
            self._treedef, self._like = treedef, [(x.shape[1:], x.dtype) for x in rows]
        like = [(x.shape[1:], x.dtype) for x in rows]
        if treedef != self._treedef or like != self._like:
            raise DataError(
                f"{which} is {_shown(like)} for each row, the first is {_shown(self._like)}"
            )
        self._current = rows


def _shown(like: list[tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in like)


def _encoded(state: Any) -> Any:
    if isinstance(state, bytes):
        return {"base64": base64.b64encode(state).decode()}
    return {"value": state}


def _decoded(state: Any) -> Any:
    return base64.b64decode(state["base64"]) if "base64" in state else state["value"]
