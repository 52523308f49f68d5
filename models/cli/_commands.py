"""The commands of the command line: `fit`, `resume`, `evaluate`, `sample`, `list`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ppgen.models.cli._machine import Compiler, Machine
from ppgen.models.cli._options import from_record, record_of
from ppgen.models.cli._rooms import Room, installed, missing, room_of_run
from ppgen.models.cli._run_folder import (
    CONFIG,
    FIGURES,
    check_unchanged,
    is_locked,
    last_metrics,
    read_config,
    read_json,
)
from ppgen.models.parts.bounds import Count, check_bounds
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import Split
from ppgen.models.parts.training import check_seed

PICTURES, ARRAYS = (".png", ".pdf", ".svg"), ".npz"
"""Suffixes of the files to which samples are written."""


def fit(room: Room, options: Any) -> None:
    """`ppgen fit MODEL`."""
    for group in (options.recipe, options.training, options.machine):
        check_bounds(group)
        group.check()
    options.compiler.start()
    workers = options.machine.start()
    from ppgen.models.cli import _drive

    _drive.fit_anew(room, options, record_of(options), workers)


@dataclasses.dataclass(frozen=True)
class Resume:
    """Resume a run that was interrupted or killed, from its last undamaged checkpoint."""

    run: Path
    """Folder of the run (or the first word)."""
    machine: Machine = Machine()
    compiler: Compiler = Compiler()

    def execute(self) -> None:
        """Fits the remaining steps, evaluates, and writes figures and pictures."""
        check_bounds(self.machine)
        self.machine.check()
        options = options_of(self.run)
        if (self.run / FIGURES).is_file():
            steps = read_json(self.run / FIGURES).get("steps")
            if type(steps) is not int:
                raise CommandError(f"{self.run / FIGURES} is damaged: it has no 'steps'")
            print(f"{self.run} is finished, after {steps} steps")
            return
        machine = self.machine
        if machine.devices is None:
            machine = dataclasses.replace(machine, devices=options.machine.devices)
        self.compiler.start()
        workers = machine.start()
        from ppgen.models.cli import _drive

        _drive.fit_on(options.recipe, options.training, self.run, workers)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Print figures of a run on held-out data, from its last checkpoint."""

    run: Path
    """Folder of the run (or the first word)."""
    particles: Count | None = None
    """Draws in the tightest bound on each datum. None means as many as in the figures after a
    fit."""
    split: Split = "held-out"
    """The held-out data, or the training data."""
    compiler: Compiler = Compiler()

    def execute(self) -> None:
        """Loads the run and the data, and prints."""
        check_bounds(self)
        options = options_of(self.run)
        self.compiler.start()
        from ppgen.models.cli import _drive

        run = _drive.load(options.recipe, options.training, self.run)
        print(run.figures(self.particles, self.split).table())


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw from the model of a run, from its last checkpoint."""

    run: Path
    """Folder of the run (or the first word)."""
    out: Path = Path("samples.png")
    """File to write: a picture (.png, .pdf, .svg), or arrays (.npz). An existing file is not
    overwritten."""
    num: Count = 64
    """Number of samples."""
    seed: int = 0
    """Seed of the samples."""
    compiler: Compiler = Compiler()

    def execute(self) -> None:
        """Loads the model, draws and writes."""
        check_bounds(self)
        check_seed(self.seed)
        suffix = self.out.suffix.lower()
        if suffix not in (*PICTURES, ARRAYS):
            *others, last = (*PICTURES, ARRAYS)
            raise CommandError(f"--out {self.out} must end in {', '.join(others)} or {last}")
        if self.out.exists():
            raise CommandError(f"--out {self.out} exists; choose another file")
        if not self.out.parent.is_dir():
            raise CommandError(f"--out {self.out}: there is no folder {self.out.parent}")
        options = options_of(self.run)
        self.compiler.start()
        import jax

        from ppgen.models.cli import _drive

        run = _drive.load(options.recipe, options.training, self.run)
        key = jax.random.key(self.seed)
        if suffix == ARRAYS:
            run.write_samples(self.out, key, self.num)
        else:
            run.draw_samples(self.out, key, self.num)
        print(f"wrote {self.out}")


@dataclasses.dataclass(frozen=True)
class List:
    """List the models, and the runs in a folder."""

    runs: Path = Path("runs")
    """The folder (or the first word)."""

    def execute(self) -> None:
        """Prints, without computing anything."""
        print("models")
        for name, room in installed().items():
            print(f"  {name:<15} {room.line}")
        runs = sorted(path.parent for path in self.runs.glob(f"*/{CONFIG}"))
        print(f"runs in {self.runs}" + ("" if runs else ": none"))
        for run in runs:
            print(f"  {_described(run)}")


def _described(run: Path) -> str:
    try:
        config = read_config(run)
        if (what := missing(config)) is not None:
            return f"{run}  {what}"
        options = options_of(run)
    except CommandError as error:
        return f"{run}  damaged: {error}"
    done = []
    objective = "-"
    for stage in options.recipe.stages:
        last = last_metrics(run / stage)
        if last is not None:
            done.append(f"{last['step']}" if stage == "" else f"{stage} {last['step']}")
            value = last.get("objective")  # None where it was not finite
            objective = f"{value:.6g}" if isinstance(value, (int, float)) else "-"
    state = "running" if is_locked(run) else "unfinished"
    if (run / FIGURES).is_file():
        state = "finished"
    steps = f"{', '.join(done) or 0} of {options.training.steps} steps"
    return f"{run}  {config['model']}  {steps}  objective {objective}  {state}"


def options_of(run: Path) -> Any:
    """The options with which a run was started, parsed again from its config.json."""
    config = read_config(run)
    room = room_of_run(run, config)
    options = from_record(room, config["options"], str(run / CONFIG))
    check_unchanged(run, config)
    return options
