"""One model, several seeds: a run for each, and what they have in common."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

from ppgen.models.cli import _drive
from ppgen.models.cli._interrupts import Interrupted
from ppgen.models.cli._machine import Workers
from ppgen.models.cli._options import from_record, record_of
from ppgen.models.cli._rooms import Room, room_of_run
from ppgen.models.cli._run_folder import CONFIG, FIGURES, SEEDS, read_entries, read_json, write_json


def fit_anew(room: Room, options: Any, workers: Workers) -> None:
    """Fits each seed in turn, in a new folder."""
    # What can be wrong is wrong of every seed: it is found before there is a folder.
    _drive.prepared_first(options, workers)
    folder = _drive.shared_folder(options.files.out, room.name, workers)
    seeds = list(options.repeats.seeds)
    if workers.leads:
        what: dict[str, Any] = {"model": room.name, "options": record_of(options), "seeds": seeds}
        if room.path is not None:
            what["path"] = str(room.path)
        write_json(folder / SEEDS, what)
    _fit(room, options, folder, seeds, workers)


def fit_on(command: Any) -> None:
    """`ppgen resume` of such a folder: what was not fitted is, and what was begun goes on.

    Raises:
        CommandError: the folder is damaged.
    """
    folder: Path = command.run
    config = read_entries(folder / SEEDS, {"model": str, "options": dict, "seeds": list})
    room = room_of_run(folder, config)
    options = from_record(room, config["options"], str(folder / SEEDS))
    machine = command.machine
    if machine.devices is None:
        machine = dataclasses.replace(machine, devices=options.machine.devices)
    command.compiler.start()
    _fit(room, options, folder, config["seeds"], machine.start())


def _fit(room: Room, options: Any, folder: Path, seeds: list[int], workers: Workers) -> None:
    for seed in seeds:
        place = folder / f"seed-{seed}"
        training = dataclasses.replace(options.training, seed=seed)
        files = dataclasses.replace(options.files, out=place)
        mine = dataclasses.replace(options, training=training, files=files)
        if (place / FIGURES).is_file():
            continue
        workers.say(f"seed {seed}")
        try:
            if (place / CONFIG).is_file():
                _drive.fit_on(mine, place, workers)
            else:
                _drive.fit_anew(room, mine, record_of(mine), workers)
        except Interrupted as error:
            raise Interrupted(folder, error.status - 128) from None
    if workers.leads:
        _summarize(folder, seeds)


def _summarize(folder: Path, seeds: list[int]) -> None:
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
    for label, units in rows.items():
        shown = ", ".join(
            f"{x['mean']:.2f} ± {x['standard_deviation']:.2f} {unit}"
            if x["mean"] is not None
            else f"not finite {unit}"
            for unit, x in units.items()
        )
        print(f"  {label:<22} {shown}")
    print(f"wrote {SEEDS} and a run for each seed to {folder}")


def _summary(values: list[float | None]) -> dict[str, Any]:
    known = [x for x in values if x is not None]
    whole = len(known) == len(values)
    return {
        "mean": statistics.mean(known) if whole else None,
        "standard_deviation": statistics.stdev(known) if whole and len(known) > 1 else 0.0,
        "each": values,
    }
