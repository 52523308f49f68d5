"""Sources of batches: arrays, a stream that the host reads, or a program.

Every source has a part on the host, which sends arrays to the device before a run of steps, and a
part in the compiled loop, which takes the batch of one step from them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

import ppgen
from ppgen.inference.fitting._batches import Batches
from ppgen.inference.fitting._placement import Placement
from ppgen.inference.fitting._streams import Stream


class AbstractSource(abc.ABC):
    """Batches for a loop on the device.

    `start` sets the position of a source in the run; the steps after that are consecutive.
    """

    @abc.abstractmethod
    def start(self, step: int, position: Any) -> None:
        """Begin at `step`, at the `position` that was there when it was saved, or `None`."""

    @abc.abstractmethod
    def feed(self, step: int) -> tuple[PyTree, int]:
        """Arrays on the device for the steps from `step` on, and the first step they lack."""

    @abc.abstractmethod
    def position(self, step: int) -> Any:
        """What `start` needs, besides `step`, to resume from there, as JSON."""

    @abc.abstractmethod
    def carried(self) -> PyTree:
        """The loop's carry for the source, traced: it can be recomputed by any run."""

    @abc.abstractmethod
    def take(
        self, fed: PyTree, carried: PyTree, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[PyTree, tuple[PyTree, ...]]:
        """In the loop: the new `carried`, and the objective's arguments after the parameters."""


class NoData(AbstractSource):
    """An objective of the parameters alone, or of a batch that a program draws for every step."""

    def __init__(self, draw: Callable[[], PyTree] | None = None) -> None:
        self._draw = None if draw is None else ppgen.seed(draw)

    def start(self, step: int, position: Any) -> None:
        """Nothing to do."""

    def feed(self, step: int) -> tuple[PyTree, int]:
        """Nothing is sent."""
        return (), np.iinfo(np.int32).max

    def position(self, step: int) -> Any:
        """Everything follows from the step."""
        return None

    def carried(self) -> PyTree:
        """Nothing."""
        return ()

    def take(
        self, fed: PyTree, carried: PyTree, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[PyTree, tuple[PyTree, ...]]:
        """A fresh batch for every step."""
        if self._draw is None:
            return (), ()
        return (), (self._draw(jax.random.fold_in(key, step)),)


class ArraySource(AbstractSource):
    """Random batches of arrays that lie on the device; see `Batches`."""

    def __init__(self, data: PyTree, batch_size: int | None, placement: Placement) -> None:
        self._batches = Batches(data, batch_size)
        self._placement = placement
        self._data = placement.replicate(data)

    def start(self, step: int, position: Any) -> None:
        """Do nothing: the order of an epoch follows from its number."""

    def feed(self, step: int) -> tuple[PyTree, int]:
        """All of the data, which stay where they are."""
        return self._data, np.iinfo(np.int32).max

    def position(self, step: int) -> Any:
        """Everything follows from the step."""
        return None

    def carried(self) -> PyTree:
        """The order of the rows in the epoch."""
        return self._batches.unknown_order()

    def take(
        self, fed: PyTree, carried: PyTree, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[PyTree, tuple[PyTree, ...]]:
        """The rows of one step. Each device gathers its own."""
        order = self._batches.order(key, step, carried)
        return order, (self._batches.take(fed, step, order, self._placement.split_rows),)


class _Block(NamedTuple):
    first: Any
    rows: PyTree


class StreamSource(AbstractSource):
    """Batches that the host reads, a block of steps at a time, while the device works.

    Args:
        stream: what to read.
        steps: the steps of the fit: nothing is read for later ones.
        block: most steps to send at once.
        placement: where to send them.
    """

    def __init__(self, stream: Stream, steps: int, block: int, placement: Placement) -> None:
        self._stream = stream
        self._steps = steps
        self._most = block
        self._placement = placement

    def start(self, step: int, position: Any) -> None:
        """Move the stream to where it was."""
        self._stream.start(step, position)
        self._length = self._stream.block_length(self._most)
        self._first = self._until = step
        self._block: PyTree = None

    def feed(self, step: int) -> tuple[PyTree, int]:
        """The block that holds `step`; it ends there where the data have run out."""
        if step >= self._until:
            block, read = self._stream.read(self._length, self._steps - step)
            self._block = self._placement.send_block(block)
            self._first, self._until = step, step + read
        return _Block(np.int32(self._first), self._block), self._until

    def position(self, step: int) -> Any:
        """Where the rows of `step` begin in the stream."""
        return self._stream.position(step)

    def carried(self) -> PyTree:
        """Nothing."""
        return ()

    def take(
        self, fed: PyTree, carried: PyTree, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[PyTree, tuple[PyTree, ...]]:
        """One batch of the block."""
        batch = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, step - fed.first, keepdims=False), fed.rows
        )
        return (), (batch,)


def source_of(
    data: Any,
    batch_size: int | None,
    *,
    steps: int,
    block: int,
    placement: Placement,
    positions: bool,
) -> AbstractSource:
    """The source for the argument `data` of `fit`.

    Raises:
        ValueError: if `batch_size` does not fit the data, or the data are of no supported kind.
    """
    if data is None or _is_program(data):
        if batch_size is not None:
            what = "a program that draws them" if data is not None else "no data"
            raise ValueError(f"a batch_size needs data to take batches from, and there are {what}")
        return NoData(data)
    if _is_stream(data):
        stream = Stream(data, batch_size, positions=positions)
        return StreamSource(stream, steps, block, placement)
    return ArraySource(data, batch_size, placement)


def _is_stream(data: Any) -> bool:
    """Whether data are an iterable of batches; a pytree of arrays, lists included, is not."""
    if not isinstance(data, Iterable) or hasattr(data, "dtype"):
        return False
    return isinstance(data, Iterator) or jax.tree_util.all_leaves([data])


def _is_program(data: Any) -> bool:
    return callable(data) and not _is_stream(data)
