"""One model, several options: a run for each combination of the values in a TOML file."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppgen._reports.table import table
from ppgen.inference import FitError
from ppgen.models.cli import _drive, _seeds
from ppgen.models.cli._interrupts import within
from ppgen.models.cli._machine import Workers
from ppgen.models.cli._options import (
    arguments_of,
    check_known,
    check_options,
    from_record,
    parse_fit,
    read_options,
    record_of,
)
from ppgen.models.cli._rooms import Room, room_of_run
from ppgen.models.cli._run_folder import (
    FIGURES,
    SEEDS,
    SWEEP,
    read_entries,
    read_json,
    write_json,
)
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.runs import Run

_LONGEST = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One combination of options.

    Attributes:
        name: of its folder.
        changed: the options that vary within the sweep, by name.
        options: all of them, as of `ppgen fit`.
    """

    name: str
    changed: dict[str, Any]
    options: Any


def members_of(room: Room, path: Path, args: Sequence[str]) -> list[Member]:
    """The combinations of a file, as if each had been typed after the other arguments.

    Args:
        room: the model.
        path: a TOML or JSON file: a value, or a list of values, for each option.
        args: the arguments of `ppgen fit MODEL`.

    Raises:
        CommandError: there is no such option, or it cannot have such a value.
    """
    content = read_options(path)
    if not content:
        raise CommandError(f"{path} names no options")
    for name, value in content.items():
        check_known(room, name, str(path), groups=("recipe", "training"))
        if value == [] or isinstance(value, dict):
            raise CommandError(f"{path}: {name} must be a value or a list of values")
    values = {name: x if isinstance(x, list) else [x] for name, x in content.items()}
    varying = [name for name, each in values.items() if len(each) > 1]
    combinations = list(itertools.product(*values.values()))
    width = len(str(len(combinations)))
    found = []
    for number, combination in enumerate(combinations, 1):
        given = dict(zip(values, combination, strict=True))
        try:
            options = parse_fit(room, [*args, *arguments_of(given)])
            check_options(options)
        except CommandError as error:
            raise CommandError(f"{path}: {error}") from None
        changed = {name: given[name] for name in varying}
        found.append(Member(f"{number:0{width}d}{_named(changed)}", changed, options))
    return found


def _named(changed: dict[str, Any]) -> str:
    text = "".join(f"-{name}={value}" for name, value in changed.items())
    return re.sub(r"[^\w.=+-]+", "_", text)[:_LONGEST]


def fit_anew(room: Room, options: Any, args: Sequence[str], workers: Workers) -> None:
    """Fits each combination in turn, in a new folder.

    Args:
        room: the model.
        options: of `ppgen fit`.
        args: the arguments that they were parsed from.
        workers: the devices and processes.
    """
    members = members_of(room, options.repeats.sweep, args)
    # What is wrong with any of them is found before the first one is fitted.
    ready: Run | None = None
    for member in members:
        run = _drive.prepared_first(_first_seed(member.options), workers)
        ready = ready or run
    folder = _drive.shared_folder(options.files.out, room.name, workers)
    if workers.leads:
        seeds = list(options.repeats.seeds)
        runs = [
            {"name": m.name, "changed": m.changed, "options": record_of(m.options)} for m in members
        ]
        write_json(folder / SWEEP, {"model": room.name, "seeds": seeds, "runs": runs} | room.place)
    _fit(room, folder, members, workers, ready)


def fit_on(command: Any) -> None:
    """`ppgen resume` of such a folder: what was not fitted is, and what was begun goes on.

    Raises:
        CommandError: the folder is damaged.
    """
    folder: Path = command.run
    source = str(folder / SWEEP)
    config = read_entries(folder / SWEEP, {"model": str, "seeds": list, "runs": list})
    room, members = room_of_run(folder, config), []
    try:
        for run in config["runs"]:
            options = from_record(room, run["options"], source)
            repeats = dataclasses.replace(options.repeats, seeds=tuple(config["seeds"]))
            options = dataclasses.replace(options, repeats=repeats)
            members.append(Member(run["name"], dict(run["changed"]), options))
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{source} is damaged: {error!r}") from error
    if not members:
        raise CommandError(f"{source} is damaged: it has no runs")
    _fit(room, folder, members, command.start(members[0].options.machine.devices))


def _first_seed(options: Any) -> Any:
    seeds = options.repeats.seeds
    return _seeds.of_seed(options, seeds[0]) if seeds else options


def _fit(
    room: Room,
    folder: Path,
    members: Sequence[Member],
    workers: Workers,
    first: Run | None = None,
) -> None:
    failed: dict[str, str] = {}
    for member in members:
        place = folder / member.name
        ready, first = first, None  # it is that of the first member
        workers.say(member.name)
        with within(folder):
            try:
                if member.options.repeats.seeds:
                    if workers.leads:
                        place.mkdir(exist_ok=True)
                    _seeds.fit_in(room, member.options, place, workers, ready)
                else:
                    _drive.fit_in(room, member.options, place, workers, ready)
            except FitError as error:  # a rate that is too high, say: others may do
                failed[member.name] = str(error).splitlines()[0]
                workers.say(f"failed: {failed[member.name]}")
    if workers.leads:
        _summarize(folder, members, failed)
    if len(failed) == len(members):
        raise CommandError(f"no fit of {folder} succeeded; {next(iter(failed.values()))}")


def _summarize(folder: Path, members: Sequence[Member], failed: dict[str, str]) -> None:
    """Writes the figures of all members into one file, and shows the last one of each."""
    config = read_json(folder / SWEEP)
    runs = list(_with_figures(folder, config["runs"], failed))
    write_json(folder / SWEEP, config | {"runs": runs})
    done = [run["figures"] for run in runs if run.get("figures")]
    if not done:
        return
    label, last = list(done[0].items())[-1]
    changed = list(members[0].changed)
    rows = []
    for run in runs:
        cells = [str(run["changed"][name]) for name in changed] or [run["name"]]
        figure = run.get("figures", {}).get(label)
        numbers = ["failed"] if figure is None else [_seeds.shown(figure.get(x)) for x in last]
        rows.append(cells + numbers + [""] * (len(last) - len(numbers)))
    heads = [*(changed or ["run"]), *last]
    spread = "standard deviation over the seeds" if config["seeds"] else "standard error"
    right = range(len(heads) - len(last), len(heads))
    print(f"{len(runs)} runs; {label} ± {spread}")
    print("\n".join(table(heads, rows, what="runs", right=right)))
    print(f"wrote {SWEEP} and a folder for each run to {folder}")


def _with_figures(
    folder: Path, runs: Sequence[dict[str, Any]], failed: dict[str, str]
) -> Iterator[dict[str, Any]]:
    for run in runs:
        kept = {name: run[name] for name in ("name", "changed", "options")}
        if run["name"] in failed:
            yield kept | {"failed": failed[run["name"]]}
            continue
        of_all_seeds = folder / run["name"] / SEEDS
        source = of_all_seeds if of_all_seeds.is_file() else folder / run["name"] / FIGURES
        yield kept | {"figures": read_json(source)["figures"]}
