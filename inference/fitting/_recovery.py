"""Saving the state of a fit, and restoring it."""

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
        store: the folder of checkpoints.
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
        self._batch_size: int | None = None

    def restore(self, *, steps: int, batch_size: int | None) -> dict[str, Any] | None:
        """Resume from the last checkpoint, if there is one, and return the notes saved with it.

        Args:
            steps: the total number of steps of the fit.
            batch_size: the argument of `fit`.

        Raises:
            CheckpointError: it is of another fit, or of a later step, or all are damaged.
        """
        self._batch_size = None if batch_size is None else int(batch_size)
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
        if step > steps:
            raise CheckpointError(
                f"the last checkpoint is of step {step}, and the fit is to end at step {steps}",
                instead=f"steps={step} or more, or another folder",
            )
        # Older checkpoints do not record it.
        before = notes.get("batch_size", self._batch_size)
        if before != self._batch_size:
            raise CheckpointError(
                f"the checkpoint of step {step} is of a fit with batch_size={before}, not "
                f"{self._batch_size}: it would go on with other data",
                instead=f"batch_size={before}, or another folder",
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
        """Start to write a checkpoint, after the previous one is complete.

        Raises:
            CheckpointError: it cannot be written, for example because the disk is full.
        """
        loop, history = self._loop, self._loop.values()
        tree: Any = {"carry": _lasting(loop.carry)}
        notes = notes | {
            "source": self._source.position(loop.step),
            "batch_size": self._batch_size,
        }
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
    """The carry without what any run can recompute."""
    return {"step": carry.step, "skipped": carry.skipped, "trained": carry.trained}


def _best(carry: Carry) -> Any:
    return carry.trained.params, carry.trained.state
