"""One model, several seeds: a run for each, and what they have in common."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

from ppgen._reports.table import table
from ppgen.models.cli import _drive
from ppgen.models.cli._interrupts import within
from ppgen.models.cli._machine import Workers
from ppgen.models.cli._options import from_record, record_of
from ppgen.models.cli._rooms import Room, room_of_run
from ppgen.models.cli._run_folder import FIGURES, SEEDS, read_entries, read_json, write_json
from ppgen.models.parts.runs import Run


def of_seed(options: Any, seed: int) -> Any:
    """The options of the run of one seed."""
    return dataclasses.replace(options, training=dataclasses.replace(options.training, seed=seed))


def fit_anew(room: Room, options: Any, workers: Workers) -> None:
    """Fits each seed in turn, in a new folder."""
    # What can be wrong is wrong of every seed: it is found before there is a folder.
    first = _drive.prepared_first(of_seed(options, options.repeats.seeds[0]), workers)
    folder = _drive.shared_folder(options.files.out, room.name, workers)
    fit_in(room, options, folder, workers, first)


def fit_on(command: Any) -> None:
    """`ppgen resume` of such a folder: what was not fitted is, and what was begun goes on.

    Raises:
        CommandError: the folder is damaged.
    """
    folder: Path = command.run
    config = read_entries(folder / SEEDS, {"model": str, "options": dict, "seeds": list})
    room = room_of_run(folder, config)
    options = from_record(room, config["options"], str(folder / SEEDS))
    repeats = dataclasses.replace(options.repeats, seeds=tuple(config["seeds"]))
    workers = command.start(options.machine.devices)
    fit_in(room, dataclasses.replace(options, repeats=repeats), folder, workers)


def fit_in(
    room: Room, options: Any, folder: Path, workers: Workers, first: Run | None = None
) -> None:
    """Fits what is not fitted yet of the seeds in a folder, and summarizes them.

    Args:
        room: the model.
        options: of `ppgen fit`.
        folder: of all seeds.
        workers: the devices and processes.
        first: the run of the first seed, if it has been prepared.
    """
    seeds = options.repeats.seeds
    if workers.leads and not (folder / SEEDS).is_file():
        what = {"model": room.name, "options": record_of(options), "seeds": list(seeds)}
        write_json(folder / SEEDS, what | room.place)
    for seed in seeds:
        place = folder / f"seed-{seed}"
        if (place / FIGURES).is_file():
            continue
        workers.say(f"seed {seed}")
        ready, first = first, None  # the first seed is the first one
        with within(folder):
            _drive.fit_in(room, of_seed(options, seed), place, workers, ready)
    if workers.leads:
        _summarize(folder, seeds)


def _summarize(folder: Path, seeds: tuple[int, ...]) -> None:
    """Means over the seeds, and standard deviations from seed to seed, of all figures."""
    found = [read_json(folder / f"seed-{seed}" / FIGURES) for seed in seeds]
    means = [record["figures"] for record in found]
    rows = {
        label: {
            unit: _summary([figures[label][unit]["mean"] for figures in means]) for unit in units
        }
        for label, units in means[0].items()
    }
    config = read_json(folder / SEEDS)
    write_json(folder / SEEDS, config | {"title": found[0]["title"], "figures": rows})
    print(f"{found[0]['title']}; {len(seeds)} seeds: mean ± standard deviation")
    units = list(dict.fromkeys(unit for row in rows.values() for unit in row))
    cells = [[label, *(shown(row.get(unit)) for unit in units)] for label, row in rows.items()]
    print("\n".join(table(["", *units], cells, what="figures", right=range(1, len(units) + 1))))
    print(f"wrote {SEEDS} and a run for each seed to {folder}")


def shown(figure: dict[str, Any] | None) -> str:
    """A figure of one run, or of several seeds, with its spread."""
    if figure is None:
        return ""
    if figure["mean"] is None:
        return "not finite"
    spread = figure.get("standard_deviation", figure.get("standard_error"))
    return f"{figure['mean']:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def _summary(values: list[float | None]) -> dict[str, Any]:
    known = [x for x in values if x is not None]
    whole = len(known) == len(values)
    return {
        "mean": statistics.mean(known) if whole else None,
        "standard_deviation": statistics.stdev(known) if whole and len(known) > 1 else 0.0,
        "each": values,
    }
