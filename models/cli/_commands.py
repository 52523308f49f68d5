"""The commands of the command line: `fit`, and those that `_main.py` lists."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from ppgen.models.cli._machine import Compiler, Machine, Workers
from ppgen.models.cli._options import arguments_of, check_options, differing, options_of
from ppgen.models.cli._rooms import Room, installed, missing
from ppgen.models.cli._run_folder import (
    CONFIG,
    FIGURES,
    SEEDS,
    SWEEP,
    is_locked,
    last_metrics,
    read_config,
    read_json,
)
from ppgen.models.parts.bounds import Bounds, Count, check_bounds
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import Split
from ppgen.models.parts.training import check_seed

PICTURES, ARRAYS = (".png", ".pdf", ".svg"), ".npz"
"""Suffixes of the files to which samples are written."""


def fit(room: Room, options: Any, args: Sequence[str]) -> None:
    """`ppgen fit MODEL`.

    Args:
        room: the model.
        options: parsed.
        args: the arguments that they were parsed from.
    """
    check_options(options)
    options.compiler.start()
    workers = options.machine.start()
    if options.repeats.sweep is not None:
        from ppgen.models.cli import _sweep

        _sweep.fit_anew(room, options, args, workers)
        return
    if options.repeats.seeds:
        from ppgen.models.cli import _seeds

        _seeds.fit_anew(room, options, workers)
        return
    from ppgen.models.cli import _drive

    _drive.fit_anew(room, options, workers)


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
        if (self.run / SWEEP).is_file():
            from ppgen.models.cli import _sweep

            _sweep.fit_on(self)
            return
        if (self.run / SEEDS).is_file():
            from ppgen.models.cli import _seeds

            _seeds.fit_on(self)
            return
        options = options_of(self.run)
        if (self.run / FIGURES).is_file():
            steps = read_json(self.run / FIGURES).get("steps")
            if type(steps) is not int:
                raise CommandError(f"{self.run / FIGURES} is damaged: it has no 'steps'")
            print(f"{self.run} is finished, after {steps} steps")
            return
        workers = self.start(options.machine.devices)
        from ppgen.models.cli import _drive

        _drive.fit_on(options, self.run, workers)

    def start(self, devices: int | None) -> Workers:
        """The devices and processes: as many of the former as the fit had, if nothing is said."""
        machine = self.machine
        if machine.devices is None:
            machine = dataclasses.replace(machine, devices=devices)
        self.compiler.start()
        return machine.start()


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
    label: int | None = None
    """What a conditional model is told. None stands for all labels in turn."""
    seed: int = 0
    """Seed of the samples."""
    compiler: Compiler = Compiler()

    def execute(self) -> None:
        """Loads the model, draws and writes."""
        check_bounds(self)
        check_seed(self.seed)
        _check_new(self.out, (*PICTURES, ARRAYS))
        options = options_of(self.run)
        self.compiler.start()
        import jax

        from ppgen.models.cli import _drive

        run = _drive.load(options.recipe, options.training, self.run)
        key = jax.random.key(self.seed)
        write = run.write_samples if self.out.suffix.lower() == ARRAYS else run.draw_samples
        write(self.out, key, self.num, self.label)
        print(f"wrote {self.out}")


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the weights of a run as safetensors, with a card: a folder to give away."""

    run: Path
    """Folder of the run (or the first word)."""
    out: Path | None = None
    """Folder to write, which must not exist. None stands for `export` in the folder of the run."""
    compiler: Compiler = Compiler()

    def execute(self) -> None:
        """Loads the last checkpoint and writes."""
        out = self.run / "export" if self.out is None else self.out
        if out.exists():
            raise CommandError(f"--out {out} exists; choose another folder")
        options_of(self.run)  # before JAX is imported
        self.compiler.start()
        from ppgen.models.cli import _export

        _export.export(self.run, out)
        print(f"wrote {out}")


@dataclasses.dataclass(frozen=True)
class Arena:
    """Rank systems by votes between pairs of them, with confidence intervals."""

    votes: Path
    """File of comma-separated votes (or the first word): two names, the name of the winner or
    `tie`, and an optional category, in each row. A header is optional."""
    out: Path | None = None
    """Picture to write (.png, .pdf, .svg). An existing file is not overwritten."""
    json: bool = False
    """Print everything as JSON in place of tables."""
    level: Annotated[float, Bounds(0, 1, inside=True)] = 0.95
    """Coverage of the interval of each reward, and of all ranks at once."""
    robust: bool = False
    """Errors by the sandwich: valid for independent votes even if the model of votes is wrong."""

    def execute(self) -> None:
        """Reads the votes, fits rewards, prints and draws."""
        check_bounds(self)
        if self.out is not None:
            _check_new(self.out, PICTURES)
        from ppgen.models.cli._votes_file import read_votes

        votes = read_votes(self.votes)  # before JAX is imported
        from ppgen.models.cli._arena import arena

        arena(
            *(votes, self.votes),
            level=self.level,
            robust=self.robust,
            as_json=self.json,
            out=self.out,
        )


@dataclasses.dataclass(frozen=True)
class List:
    """List the models, and the runs in a folder.

    Of a run: its steps, its objective, its last held-out figure, when it was started, the options
    that differ from the defaults, and whether it is finished.
    """

    runs: Path = Path("runs")
    """The folder (or the first word)."""

    def execute(self) -> None:
        """Prints, without computing anything."""
        print("models")
        for name, room in installed().items():
            print(f"  {name:<15} {room.line}")
        found = [path.parent for path in self.runs.glob(f"*/{CONFIG}")]
        # Of several seeds, and in a sweep, each is a run.
        for inside in ("seed-*", "[0-9]*", "[0-9]*/seed-*"):
            found += [path.parent for path in self.runs.glob(f"*/{inside}/{CONFIG}")]
        runs = sorted(found)
        print(f"runs in {self.runs}" + ("" if runs else ": none"))
        for run in runs:
            print(f"  {_described(run)}")


def _check_new(out: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file to write that is of no kind that can be written, or is there already."""
    if out.suffix.lower() not in suffixes:
        *others, last = suffixes
        raise CommandError(f"--out {out} must end in {', '.join(others)} or {last}")
    if out.exists():
        raise CommandError(f"--out {out} exists; choose another file")
    if not out.parent.is_dir():
        raise CommandError(f"--out {out}: there is no folder {out.parent}")


def _described(run: Path) -> str:
    try:
        config = read_config(run)
        if (what := missing(config)) is not None:
            return f"{run}  {what}"
        options = options_of(run)
        figure = _figure(run)
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
    parts = [
        str(run),
        config["model"],
        steps,
        f"objective {objective}",
        figure,
        _began(run, config),
    ]
    parts += [" ".join(arguments_of(differing(options))), state]
    return "  ".join(part for part in parts if part)


def _figure(run: Path) -> str:
    """The last of the held-out figures, which is that of the tightest bound, with its unit."""
    if not (run / FIGURES).is_file():
        return ""
    figures: Any = read_json(run / FIGURES).get("figures")
    try:
        label, units = list(figures.items())[-1]
        unit, x = next(iter(units.items()))
        return f"{label} {x['mean']:.5g} ± {x['standard_error']:.2g} {unit}"
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        return ""  # none, or none that is finite


def _began(run: Path, config: dict[str, Any]) -> str:
    """When a run was started; of one that does not say, when its configuration was written."""
    began = config.get("began")
    if not isinstance(began, str):
        written = datetime.datetime.fromtimestamp((run / CONFIG).stat().st_mtime)
        began = written.isoformat(timespec="minutes")
    return began.replace("T", " ")
