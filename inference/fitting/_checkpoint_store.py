"""A folder of checkpoints from which a fit can be resumed, whenever it was killed.

Orbax writes each checkpoint to a temporary folder, in the background, and renames it when it is
complete. It holds arrays by name, and JSON: loading a checkpoint executes no code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array

from ppgen.inference.fitting._saved_trees import CheckpointError, first_line

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where and when `fit` saves its state, to be resumed exactly.

    A fit with the same arguments resumes from the last undamaged checkpoint in the folder. It ends
    with the same parameters, to the last bit, as a fit that was never interrupted.

    Attributes:
        folder: for the checkpoints of this fit and nothing else. It is made if there is none.
        every: steps between checkpoints; there is another one at the end.
        keep: how many of the latest checkpoints to keep.
        best: whether to keep the best one as well: by the held-out objective if there is early
            stopping, else by the mean of the objective since the checkpoint before.
        resume: whether to resume from the checkpoints in the folder. If not, checkpoints of an
            earlier fit there are an error.
    """

    folder: str | Path
    every: int = 1000
    keep: int = 3
    best: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"every and keep must be positive, not {self.every} and {self.keep}")


class Store:
    """The open folder of checkpoints of one fit.

    Args:
        settings: from the user.
        maximize: whether a higher metric is better.
        read_only: whether nothing may change, because a fit may be writing to it.

    Raises:
        CheckpointError: the folder cannot be used.
    """

    def __init__(self, settings: Checkpoints, *, maximize: bool, read_only: bool = False) -> None:
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        self.every = settings.every
        self._read_only = read_only
        self._folder = Path(settings.folder).absolute()
        kept: list[Any] = [policies.preservation_policy.LatestN(settings.keep)]
        if settings.best:
            kept.append(
                policies.preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics["metric"],
                    reverse=not maximize,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        with self._errors("kept"):
            if not read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(kept),
                    cleanup_tmp_directories=not read_only,
                    create=False,
                ),
                item_names=("arrays", "notes"),
            )
        if not settings.resume and self._manager.all_steps():
            raise CheckpointError(
                f"{self._folder} holds the checkpoints of another fit",
                instead="another folder, or resume=True to continue from them",
            )

    def save(
        self, step: int, arrays: dict[str, Array | np.ndarray], notes: Any, metric: float | None
    ) -> None:
        """Start to write a checkpoint. The arrays may not change; the caller goes on meanwhile.

        Raises:
            CheckpointError: this one, or the one before it, cannot be written.
        """
        import orbax.checkpoint as ocp

        if self._manager.latest_step() == step:
            return
        arrays = {name: _raw(x) for name, x in arrays.items()}
        text = json.dumps(
            {
                "version": _VERSION,
                "arrays": {name: _described(x) for name, x in arrays.items()},
                "notes": notes,
            }
        )
        with self._errors("written"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays),
                    notes=ocp.args.JsonSave({"text": text, "sha256": _digest(text.encode())}),
                ),
                metrics=None if metric is None else {"metric": metric},
                force=True,
            )

    def latest(
        self, like: dict[str, jax.ShapeDtypeStruct], optional: Callable[[str], bool]
    ) -> tuple[int, dict[str, Array], Any] | None:
        """The step, the arrays and the notes of the last checkpoint that is not damaged.

        Damaged ones are put aside, unless nothing may change, with a warning.

        Args:
            like: the expected arrays, with shardings where there is a mesh. Others are refused.
            optional: which names are of arrays of any shape, which are returned as well.

        Raises:
            CheckpointError: they are of another model; or there are some, all damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                arrays, notes = self._load(step, like, optional)
            except _Damaged as error:
                damaged.append((step, str(error)))
                continue
            for bad, why in damaged:
                message = f"the checkpoint of step {bad} in {self._folder} is damaged ({why}): "
                if self._read_only:
                    message += f"that of step {step} is read"
                else:
                    aside = self._put_aside(bad)
                    message += f"fitting goes on from that of step {step}, and it is now {aside}"
                warnings.warn(message, stacklevel=2)
            if damaged and not self._read_only:
                self._manager.reload()
            return step, arrays, notes
        if damaged:
            shown = "; ".join(f"step {step}: {why}" for step, why in damaged)
            raise CheckpointError(
                f"every checkpoint in {self._folder} is damaged: {shown}",
                instead="another folder, to begin anew",
            )
        return None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        """Wait until all is written."""
        with self._errors("written"):
            self._manager.wait_until_finished()
            self._manager.close()

    def _load(
        self, step: int, like: dict[str, jax.ShapeDtypeStruct], optional: Callable[[str], bool]
    ) -> tuple[dict[str, Array], Any]:
        import orbax.checkpoint as ocp

        text = self._restore(step, notes=ocp.args.JsonRestore()).notes
        if not isinstance(text, dict) or _digest(text["text"].encode()) != text["sha256"]:
            raise _Damaged("its notes are not what was written")
        content = json.loads(text["text"])
        if content["version"] != _VERSION:
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._folder} is of another version of ppgen"
            )
        stored = content["arrays"]
        self._compare(step, {k: v for k, v in stored.items() if not optional(k)}, like)
        everywhere = _everywhere(like)
        shardings = dict.fromkeys(stored, everywhere)
        shardings |= {name: x.sharding for name, x in like.items() if x.sharding is not None}
        target = {
            name: jax.ShapeDtypeStruct(x["shape"], x["dtype"], sharding=shardings[name])
            for name, x in stored.items()
        }
        arrays = self._restore(step, arrays=ocp.args.StandardRestore(target)).arrays
        for name, x in stored.items():
            if _described(arrays[name]) != x:
                raise _Damaged(f"{name} is not what was written")
        if isinstance(everywhere, SingleDeviceSharding):
            # As they were before: not bound to a device, which would make another program of all
            # that takes them, to be compiled again.
            arrays = {name: jax.numpy.array(np.asarray(x)) for name, x in arrays.items()}
        return {name: _typed(x, like.get(name)) for name, x in arrays.items()}, content["notes"]

    def _restore(self, step: int, **items: Any) -> Any:
        import orbax.checkpoint as ocp

        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        # Orbax raises many types for a damaged folder, some of them from its own dependencies.
        except Exception as error:
            raise _Damaged(first_line(error)) from error

    def _compare(
        self, step: int, stored: dict[str, Any], like: dict[str, jax.ShapeDtypeStruct]
    ) -> None:
        expected = {name: _raw_like(want) for name, want in like.items()}
        here = {n: f"{x.dtype}{list(x.shape)}" for n, x in expected.items()}
        there = {n: f"{x['dtype']}{x['shape']}" for n, x in stored.items()}
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise CheckpointError(
                    f"the checkpoint of step {step} in {self._folder} is of another fit: {name} is "
                    f"{there.get(name, 'not in it')}, and {here.get(name, 'not known')} here",
                    instead="the arguments of the fit that wrote it, or another folder",
                )

    def _put_aside(self, step: int) -> Path:
        aside = self._folder / f"damaged-{step}"
        number = 0
        while aside.exists():
            number += 1
            aside = self._folder / f"damaged-{step}-{number}"
        return (self._folder / str(step)).rename(aside)

    @contextlib.contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        # Of orbax, tensorstore and the system: no space, no permission, no folder.
        except Exception as error:
            raise CheckpointError(
                f"no checkpoint can be {done} in {self._folder}: {first_line(error, 600)}",
                instead="a folder on a disk with room for it; what was saved before is as it was",
            ) from error


class _Damaged(Exception):
    pass


def _everywhere(like: dict[str, jax.ShapeDtypeStruct]) -> Sharding:
    """Default sharding: replicated over the mesh, if there is one."""
    found = next((x.sharding for x in like.values() if x.sharding is not None), None)
    if isinstance(found, NamedSharding):
        return NamedSharding(found.mesh, PartitionSpec())
    return SingleDeviceSharding(jax.local_devices()[0])


def _is_key(x: Any) -> bool:
    return jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def _raw(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x


def _raw_like(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x


def _typed(x: Array, like: Any) -> Array:
    if like is None or not _is_key(like):
        return x
    impl = []
    jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(x, impl=impl[0])


def _described(x: Any) -> dict[str, Any]:
    """Shape, dtype and checksum of an array, sharded or not."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        from jax.experimental import multihost_utils

        x = multihost_utils.process_allgather(x, tiled=True)
    x = np.asarray(x)
    return {"shape": list(x.shape), "dtype": str(x.dtype), "sha256": _digest(x.tobytes())}


def _digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()
