"""Fitting, evaluation and pictures of any recipe, in a run folder."""

from __future__ import annotations

import dataclasses
import datetime
import signal
from pathlib import Path
from typing import Any

from ppgen.inference import Checkpoints, Fitted, load_fitted
from ppgen.models.cli._interrupts import Interrupted, deferred
from ppgen.models.cli._logs import loggers_of, pictures_at_intervals
from ppgen.models.cli._machine import Workers
from ppgen.models.cli._options import Logs
from ppgen.models.cli._rooms import Room
from ppgen.models.cli._run_folder import (
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    METRICS,
    locked,
    make_run_folder,
    read_config,
    write_config,
    write_json,
)
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.pictures import draw_history
from ppgen.models.parts.recipe import Dataset, Recipe, Stage
from ppgen.models.parts.runs import (
    Prepared,
    Run,
    audited,
    evaluated,
    fit_prepared,
    fresh,
    named_key,
    part_of,
    prepared,
    with_part,
)
from ppgen.models.parts.training import Training

SAMPLES = 100
"""Number of samples in the picture of a fit."""
AUDIT_SECONDS = 60.0


def fit_anew(room: Room, options: Any, record: dict[str, Any], workers: Workers) -> None:
    """Fits in a new folder.

    Args:
        room: the model.
        options: of `ppgen fit`.
        record: the options that are written to the folder.
        workers: the devices and processes.
    """
    run = prepared_first(options, workers)
    folder = shared_folder(options.files.out, room.name, workers)
    if workers.leads:
        began = datetime.datetime.now().isoformat(timespec="minutes")
        what = {"model": room.name, "options": record, "facts": run.facts, "began": began}
        if room.path is not None:
            what["path"] = str(room.path)
        write_config(folder, what)
    _run(run, folder, workers, options.logs, record, audit=options.checks.audit)


def prepared_first(options: Any, workers: Workers) -> Run:
    """The run before its first stage; errors in it should be raised before the folder is made.

    Raises:
        CommandError: the first stage cannot be fitted.
        DataError: the data cannot be used, or a package for logs is not installed.
    """
    recipe, training = options.recipe, options.training
    loggers_of(options.logs, Path(), {})
    data = recipe.load()
    facts = data.facts()
    model = fresh(recipe, training, facts)
    _check(prepared(recipe, training, recipe.stages[0], model, data), training, workers)
    return Run(recipe, training, facts, model, lambda: data)


def fit_on(options: Any, folder: Path, workers: Workers) -> None:
    """Resumes a run."""
    recipe, training = options.recipe, options.training
    config = read_config(folder)
    facts = config["facts"]
    data = data_of(recipe, folder, facts)
    start = Run(recipe, training, facts, fresh(recipe, training, facts), lambda: data)
    _run(start, folder, workers, options.logs, config["options"])


def data_of(recipe: Recipe, folder: Path, facts: dict[str, Any]) -> Dataset:
    """The data of a run, checked to be those of its fit.

    Args:
        recipe: the recipe of the run.
        folder: the run folder, for errors.
        facts: the facts about the data that the run recorded.

    Raises:
        CommandError: the data have changed.
    """
    data = recipe.load()
    if data.facts() != facts:
        raise CommandError(f"the data are not those that {folder} was fitted to")
    return data


def load(recipe: Recipe, training: Training, folder: Path) -> Run:
    """A run with the parameters of its last checkpoints, for evaluation and samples.

    Raises:
        CommandError: a stage has no checkpoint yet.
        CheckpointError: the checkpoints are of another model, or damaged.
    """
    facts = read_config(folder)["facts"]
    try:
        model = fresh(recipe, training, facts)
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{folder / CONFIG} is damaged: {error!r}") from error
    for name in recipe.stages:
        path = folder / name / CHECKPOINTS
        if not path.is_dir():
            raise CommandError(f"{folder} has no checkpoint yet (`ppgen resume {folder}`)")
        stage = recipe.stage(name, training)
        fitted = load_fitted(path, part_of(stage, model), ema=training.ema)
        model = with_part(stage, model, evaluated(fitted))
    return Run(recipe, training, facts, model, lambda: data_of(recipe, folder, facts))


def _run(
    start: Run,
    folder: Path,
    workers: Workers,
    logs: Logs,
    record: dict[str, Any],
    *,
    audit: bool = False,
) -> None:
    """Fits every stage, each from its last checkpoint if it has any, and then all the rest."""
    if not workers.leads:
        _stages(start, folder, workers, logs, record, audit)
        workers.any(False)  # the processes end together
        return
    with locked(folder):
        try:
            run, stages = _stages(start, folder, workers, logs, record, audit)
            workers.say("evaluating")
            _finish(run, folder, stages)
        except KeyboardInterrupt:
            raise Interrupted(folder, signal.SIGINT) from None
    workers.any(False)


def _stages(
    start: Run, folder: Path, workers: Workers, logs: Logs, record: dict[str, Any], audit: bool
) -> tuple[Run, dict[str, Any]]:
    """The run with its fitted model, and the result of each stage."""
    recipe, training, data, model = start.recipe, start.training, start.data, start.model
    found: dict[str, tuple[Stage, Fitted]] = {}
    for name in recipe.stages:
        ready = prepared(recipe, training, name, model, data)
        _check(ready, training, workers)
        if audit:
            _audit(ready, training, name, workers)
        what = f"{folder}" if name == "" else f"{folder} (stage {name})"
        rows = "a stream of data" if ready.number is None else f"{ready.number} rows of data"
        workers.say(f"fitting {rows}, writing to {what}")
        now = dataclasses.replace(start, model=model)
        fitted = _fit(ready, now, name, folder, workers, logs, record)
        if fitted.stopped == "early stopping":
            workers.say(f"stopped early after {len(fitted.history)} steps")
        if fitted.skipped:
            workers.say(f"skipped {fitted.skipped} steps that were not finite")
        found[name] = (ready.stage, fitted)
        model = workers.local(ready.whole(evaluated(fitted)))
    return Run(recipe, training, start.facts, model, lambda: data), found


def _fit(
    ready: Prepared,
    run: Run,
    name: str,
    folder: Path,
    workers: Workers,
    logs: Logs,
    record: dict[str, Any],
) -> Fitted:
    place, training = folder / name, run.training
    if workers.leads:
        place.mkdir(exist_ok=True)
    loggers = loggers_of(logs, place, record)
    drawn = pictures_at_intervals(ready, run, place, workers, loggers, logs.pictures_every)
    with deferred() as interrupts:
        fitted = fit_prepared(
            ready,
            training,
            name,
            mesh=workers.mesh,
            checkpoints=Checkpoints(
                place / CHECKPOINTS, every=training.checkpoint_every, keep=training.keep
            ),
            metrics=place / METRICS if workers.leads else None,
            loggers=loggers,
            callback=[drawn, lambda progress: workers.any(interrupts.number is not None)],
            progress=workers.leads,
        )
    if fitted.stopped == "callback":
        raise Interrupted(folder, interrupts.number or signal.SIGINT)
    return fitted


def _audit(ready: Prepared, training: Training, name: str, workers: Workers) -> None:
    workers.say("auditing" if name == "" else f"auditing (stage {name})")
    found = audited(ready, training, name, seconds=AUDIT_SECONDS, progress=workers.leads)
    workers.say(str(found))
    if found.verdict == "disagrees":
        raise CommandError("the gradient is not the slope of the objective: nothing was fitted")


def _finish(run: Run, folder: Path, stages: dict[str, tuple[Stage, Fitted]]) -> None:
    figures = run.figures()
    for name, (stage, fitted) in stages.items():
        draw_history(
            folder / name / "loss.png",
            fitted.history,
            list(figures.levels(name, stage.unit).items()),
            label=f"training {stage.label}",
            unit=stage.unit,
        )
    run.draw_samples(folder / "samples.png", named_key(run.training, "samples"), SAMPLES)
    run.draw_pictures(folder)
    steps = sum(len(fitted.history) for _, fitted in stages.values())
    write_json(
        folder / FIGURES, {"steps": steps, "title": figures.title, "figures": figures.record()}
    )
    # Printed only once they are written, so that a kill here loses nothing that was shown.
    print(figures.table())
    print(f"wrote {CHECKPOINTS}, {METRICS}, {FIGURES} and pictures to {folder}")


def _check(ready: Prepared, training: Training, workers: Workers) -> None:
    size = ready.batch_size(training)
    if size is not None and workers.mesh is not None and size % workers.mesh.size:
        raise CommandError(f"--batch-size {size} must divide over {workers.mesh.size} devices")


def shared_folder(out: Path | None, model: str, workers: Workers) -> Path:
    """Process 0 makes the folder, and tells the others whether it succeeded."""
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
