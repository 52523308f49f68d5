"""Fitting, evaluation and pictures of any recipe, in the folder of a run."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from ppgen.inference import Checkpoints, EarlyStopping, Fitted, fit, load_fitted
from ppgen.models.cli._interrupts import Interrupted, Interrupts, deferred
from ppgen.models.cli._machine import Workers
from ppgen.models.cli._rooms import Room
from ppgen.models.cli._run_folder import (
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    METRICS,
    locked,
    make_run_folder,
    read_config,
    write_json,
)
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.pictures import draw_history
from ppgen.models.parts.recipe import AbstractRecipe, Report, Split, Stage
from ppgen.models.parts.training import Training

VALIDATION_ROWS = 1000
"""Most rows to stop early by, all evaluated at once."""


def fit_anew(room: Room, options: Any, record: dict[str, Any], workers: Workers) -> None:
    """Fits in a new folder.

    Args:
        room: the model.
        options: of `ppgen fit`.
        record: what of them is written to the folder.
        workers: where to.
    """
    recipe, training = options.recipe, options.training
    data = recipe.load()
    facts = recipe.facts(data)
    # What can be wrong with the first stage should be known before there is a folder.
    name = recipe.stages[0]
    first = recipe.stage(name, training, _params(recipe, training, name, facts), data, {})
    _check(first, training, workers)
    folder = _shared_folder(options.files.out, room.name, workers)
    if workers.leads:
        what = {"model": room.name, "options": record, "facts": facts}
        if room.path is not None:
            what["path"] = str(room.path)
        write_json(folder / CONFIG, what)
    _run(recipe, training, data, facts, folder, workers)


def fit_on(recipe: AbstractRecipe, training: Training, folder: Path, workers: Workers) -> None:
    """Goes on with a run."""
    data = data_of(recipe, folder)
    _run(recipe, training, data, read_config(folder)["facts"], folder, workers)


def data_of(recipe: AbstractRecipe, folder: Path) -> Any:
    """The data of a run: of others, some that are held out now may have been fitted to.

    Raises:
        CommandError: they have changed.
    """
    data = recipe.load()
    if recipe.facts(data) != read_config(folder)["facts"]:
        raise CommandError(f"the data are not those that {folder} was fitted to")
    return data


def evaluate(
    recipe: AbstractRecipe,
    training: Training,
    data: Any,
    fitted: Mapping[str, PyTree],
    particles: int | None = None,
    split: Split = "held-out",
) -> Report:
    """Figures. Those of the same fit and the same options are the same."""
    particles = recipe.evaluation_particles if particles is None else particles
    key = _key(training, "evaluate")
    return recipe.evaluate(data, fitted, particles=particles, split=split, key=key)


def load(recipe: AbstractRecipe, training: Training, folder: Path) -> dict[str, PyTree]:
    """The parameters of all stages from their last checkpoints, for evaluation.

    Raises:
        CommandError: a stage has none yet.
        CheckpointError: they are of another model, or damaged.
    """
    facts = read_config(folder)["facts"]
    found = {}
    for name in recipe.stages:
        try:
            params = _params(recipe, training, name, facts)
        except (KeyError, TypeError, ValueError) as error:
            raise CommandError(f"{folder / CONFIG} is damaged: {error!r}") from error
        path = folder / name / CHECKPOINTS
        if not path.is_dir():
            raise CommandError(f"{folder} has no checkpoint yet (`ppgen resume {folder}`)")
        found[name] = _evaluated(load_fitted(path, params, ema=training.ema))
    return found


def _run(
    recipe: AbstractRecipe,
    training: Training,
    data: Any,
    facts: dict[str, Any],
    folder: Path,
    workers: Workers,
) -> None:
    """Fits every stage, each from its last checkpoint if it has any, and then all the rest."""
    if not workers.leads:
        _stages(recipe, training, data, facts, folder, workers)
        workers.any(False)  # the processes end together
        return
    with locked(folder):
        try:
            stages = _stages(recipe, training, data, facts, folder, workers)
            params = {name: _evaluated(fitted) for name, (_, fitted) in stages.items()}
            _finish(recipe, training, data, facts, folder, stages, workers.local(params))
        except KeyboardInterrupt:
            raise Interrupted(folder, signal.SIGINT) from None
    workers.any(False)


def _stages(
    recipe: AbstractRecipe,
    training: Training,
    data: Any,
    facts: dict[str, Any],
    folder: Path,
    workers: Workers,
) -> dict[str, tuple[Stage, Fitted]]:
    found: dict[str, tuple[Stage, Fitted]] = {}
    for name in recipe.stages:
        params = _params(recipe, training, name, facts)
        before = workers.local({k: _evaluated(fitted) for k, (_, fitted) in found.items()})
        stage = recipe.stage(name, training, params, data, before)
        _check(stage, training, workers)
        what = f"{folder}" if name == "" else f"{folder} (stage {name})"
        workers.say(f"fitting {_rows(stage)}, writing to {what}")
        if workers.leads:
            (folder / name).mkdir(exist_ok=True)
        with deferred() as interrupts:
            key = _key(training, "fit", name)
            fitted = _fit(stage, training, key, folder / name, workers, interrupts)
        if fitted.stopped == "callback":
            raise Interrupted(folder, interrupts.number or signal.SIGINT)
        if fitted.stopped == "early stopping":
            workers.say(f"stopped early after {len(fitted.history)} steps")
        if fitted.skipped:
            workers.say(f"skipped {fitted.skipped} steps that were not finite")
        found[name] = (stage, fitted)
    return found


def _fit(
    stage: Stage,
    training: Training,
    key: Key[Array, ""],
    folder: Path,
    workers: Workers,
    interrupts: Interrupts,
) -> Fitted:
    data, stopping = stage.data, None
    if training.early_stopping is not None:
        data, validation = _held_back(stage)
        stopping = EarlyStopping(
            validation,
            every=training.evaluate_every,
            patience=training.early_stopping,
            draws=stage.draws,
        )
    return fit(
        stage.objective,
        stage.params,
        stage.optimizer,
        key=key,
        steps=_steps(stage, training),
        data=data,
        batch_size=_batch_size(stage, training),
        draws=stage.draws,
        maximize=stage.maximize,
        ema=training.ema,
        compute_dtype=None if training.precision == "float32" else training.precision,
        on_nonfinite=training.on_nonfinite,
        allow_biased=stage.allow_biased,
        mesh=workers.mesh,
        checkpoints=Checkpoints(
            folder / CHECKPOINTS, every=training.checkpoint_every, keep=training.keep
        ),
        early_stopping=stopping,
        metrics=folder / METRICS if workers.leads else None,
        callback=lambda progress: workers.any(interrupts.number is not None),
        progress=workers.leads,
        chunk=training.chunk,
    )


def _finish(
    recipe: AbstractRecipe,
    training: Training,
    data: Any,
    facts: dict[str, Any],
    folder: Path,
    stages: Mapping[str, tuple[Stage, Fitted]],
    params: Mapping[str, PyTree],
) -> None:
    report = evaluate(recipe, training, data, params)
    for name, (stage, fitted) in stages.items():
        draw_history(
            folder / name / "loss.png",
            fitted.history,
            report.references.get(name, ()),
            label=f"training {stage.label}",
            unit=stage.unit,
        )
    recipe.sample(folder / "samples.png", facts, params, count=100, key=_key(training, "samples"))
    recipe.pictures(folder, data, params, _key(training, "pictures"))
    steps = {name: len(fitted.history) for name, (_, fitted) in stages.items()}
    write_json(
        folder / FIGURES,
        {
            "steps": sum(steps.values()),
            "title": report.title,
            "figures": report.record(),
        },
    )
    # Shown when they are written: a run that is killed here has lost nothing that was seen.
    print(report.table())
    print(f"wrote {CHECKPOINTS}, {METRICS}, {FIGURES} and pictures to {folder}")


def _evaluated(fitted: Fitted) -> PyTree:
    return fitted.params if fitted.ema is None else fitted.ema


def _params(
    recipe: AbstractRecipe, training: Training, stage: str, facts: dict[str, Any]
) -> PyTree:
    return recipe.params(stage, facts, _key(training, "params", stage))


def _key(training: Training, *names: str) -> Key[Array, ""]:
    """A key for each purpose, so that a new one does not change the others."""
    number = int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:4], "big")
    return jax.random.fold_in(jax.random.key(training.seed), number)


def _steps(stage: Stage, training: Training) -> int:
    return training.steps if stage.steps is None else stage.steps


def _batch_size(stage: Stage, training: Training) -> int | None:
    if stage.data is None or (callable(stage.data) and not hasattr(stage.data, "__iter__")):
        return None
    return training.batch_size if stage.batch_size is None else stage.batch_size


def _is_arrays(data: Any) -> bool:
    leaves = jax.tree.leaves(data)
    return bool(leaves) and all(eqx.is_array_like(x) and np.ndim(x) for x in leaves)


def _rows(stage: Stage) -> str:
    if not _is_arrays(stage.data):
        return "a stream of data"
    return f"{len(jax.tree.leaves(stage.data)[0])} rows of data"


def _check(stage: Stage, training: Training, workers: Workers) -> None:
    size = _batch_size(stage, training)
    if size is None:
        return
    if workers.mesh is not None and size % workers.mesh.size:
        raise CommandError(f"--batch-size {size} must divide over {workers.mesh.size} devices")
    if _is_arrays(stage.data):
        data = stage.data
        if training.early_stopping is not None:
            data, _ = _held_back(stage)
        rows = len(jax.tree.leaves(data)[0])
        if size > rows:
            raise CommandError(f"--batch-size {size} exceeds the {rows} rows of training data")
    elif training.early_stopping is not None and stage.validation is None:
        raise CommandError("--early-stopping is not for a model whose data are a stream")


def _held_back(stage: Stage) -> tuple[PyTree, PyTree]:
    """The data to fit to, and those to stop by."""
    if stage.validation is not None:
        return stage.data, stage.validation
    rows = len(jax.tree.leaves(stage.data)[0])
    held = min(VALIDATION_ROWS, max(1, rows // 10))
    parts: Callable[[slice], PyTree] = lambda s: jax.tree.map(lambda x: x[s], stage.data)  # noqa: E731
    return parts(slice(held, None)), parts(slice(None, held))


def _shared_folder(out: Path | None, model: str, workers: Workers) -> Path:
    """Process 0 makes it; the others learn whether it could."""
    if workers.alone:
        return make_run_folder(out, model)
    if out is None:
        raise CommandError("a run of several processes needs an --out")
    problem: Exception | None = None
    if workers.leads:
        try:
            make_run_folder(out, model)
        except (CommandError, OSError) as error:
            problem = error
    if workers.any(problem is not None):
        raise problem or CommandError("process 0 could not make the folder of the run")
    return out
