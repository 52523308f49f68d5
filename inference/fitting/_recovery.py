"""What a fit saves of itself, and how it goes on from that."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from ppgen.inference.fitting._checkpoint_store import Store
from ppgen.inference.fitting._early_stopping import Validation
from ppgen.inference.fitting._loop import Loop
from ppgen.inference.fitting._metric_log import mean_of_finite
from ppgen.inference.fitting._optimization import Carry
from ppgen.inference.fitting._saved_trees import CheckpointError, by_name
from ppgen.inference.fitting._sources import AbstractSource

_OURS = ("history", "key")


class Recovery:
    """Saves a fit, and restores it.

    Attributes:
        every: steps between two times that it is to be saved.

    Args:
        store: where to.
        loop: the parameters and everything that belongs to them.
        source: of the batches, which has a position.
        validation: early stopping, if there is any.
        key: the key of the fit: another one would be another fit.
    """

    def __init__(
        self,
        store: Store,
        loop: Loop,
        source: AbstractSource,
        validation: Validation | None,
        key: Key[Array, ""],
    ) -> None:
        self._store, self._loop, self._source = store, loop, source
        self._validation = validation
        self.every = store.every
        self._key = np.asarray(jax.random.key_data(key))
        self._saved = 0

    def restore(self) -> dict[str, Any] | None:
        """Go on from the last checkpoint, if there is one; the notes that were saved with it.

        Raises:
            CheckpointError: it is of another fit, or all are damaged.
        """
        like: Any = {"carry": _lasting(self._loop.like)}
        if self._validation is not None:
            like["best"] = _best(self._loop.like)
        names = by_name(like)
        found = self._store.latest(names, optional=_OURS.__contains__)
        if found is None:
            return None
        step, arrays, notes = found
        if not np.array_equal(arrays["key"], self._key):
            raise CheckpointError(
                f"the checkpoint of step {step} is of a fit with another key",
                instead="its key, or another folder",
            )
        tree = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])
        self._loop.go_on(**tree["carry"], history=np.asarray(arrays["history"]))
        self._source.start(step, notes["source"])
        if self._validation is not None:
            self._validation.best = tree["best"]
            self._validation.record = notes["validation"]
        self._saved = step
        return notes

    def save(self, notes: dict[str, Any]) -> None:
        """Start to write a checkpoint, after the one before it is complete.

        Raises:
            CheckpointError: there is no room for it, say.
        """
        loop, history = self._loop, self._loop.values()
        tree: Any = {"carry": _lasting(loop.carry)}
        notes = notes | {"source": self._source.position(loop.step)}
        if self._validation is None:
            metric = mean_of_finite(history[self._saved :])
        else:
            tree["best"] = self._validation.best
            notes["validation"] = self._validation.record
            metric = self._validation.record["last"]
        arrays = by_name(loop.kept(tree)) | {"history": history, "key": self._key}
        self._store.save(loop.step, arrays, notes, metric)
        self._saved = loop.step


def _lasting(carry: Carry) -> Any:
    """Without what any run can make again."""
    return {"step": carry.step, "skipped": carry.skipped, "trained": carry.trained}


def _best(carry: Carry) -> Any:
    return carry.trained.params, carry.trained.state
