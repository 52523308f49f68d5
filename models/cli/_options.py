"""Options: from the command line, from a file, and from the configuration of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from ppgen.models.cli._machine import Compiler, Machine
from ppgen.models.cli._rooms import Room, room_of_run
from ppgen.models.cli._run_folder import CONFIG, check_unchanged, read_config
from ppgen.models.parts.bounds import Count, check_bounds
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.training import check_seed, flag


@dataclasses.dataclass(frozen=True)
class Files:
    """Files."""

    out: Path | None = None
    """Folder of the run, new or empty. None means the next free runs/MODEL-001."""
    config: Path | None = None
    """JSON or TOML file of options by name, or the config.json of a run, to repeat it. Options on
    the command line win."""


@dataclasses.dataclass(frozen=True)
class Checks:
    """Checks before the fit."""

    audit: bool = False
    """Before the fit, compare the gradient on the first batch with slopes of the objective's value,
    for at most a minute, and stop if they disagree."""


@dataclasses.dataclass(frozen=True)
class Logs:
    """Logs of the fit, in the folder of the run. There is always metrics.jsonl."""

    log: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ()
    """Also a table, events for TensorBoard, or an offline run of Weights & Biases: the objective,
    the norm of its gradient, the learning rate and metrics that the objective names. They need the
    extras of their names, but for csv."""
    pictures_every: Count | None = None
    """Steps between pictures of samples, up to the next multiple of --chunk: in the folder
    `pictures`, and in the logs."""


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Several fits."""

    seeds: tuple[int, ...] = ()
    """In place of --seed: a run for each of them, in the folders seed-N of one folder, with means
    and spreads of the figures over the seeds."""

    def check(self) -> None:
        """Refuse what is no seed, and one that comes twice.

        Raises:
            CommandError: it says which.
        """
        for seed in self.seeds:
            check_seed(seed)
        if len(set(self.seeds)) < len(self.seeds):
            raise CommandError(f"--seeds {' '.join(map(str, self.seeds))} has one seed twice")


@functools.cache
def fit_options(room: Room) -> type:
    """The options of `ppgen fit MODEL`: a frozen dataclass of groups of options.

    Its fields are `recipe`, `training`, `files`, `logs`, `repeats`, `checks`, `machine` and
    `compiler`.
    """
    recipe = room.recipe()
    groups: list[Any] = [
        ("recipe", recipe()),
        ("training", recipe.training),
        ("files", Files()),
        ("logs", Logs()),
        ("repeats", Repeats()),
        ("checks", Checks()),
        ("machine", Machine()),
        ("compiler", Compiler()),
    ]
    return dataclasses.make_dataclass(
        f"Fit_{room.name}",
        [(name, type(x), dataclasses.field(default=x)) for name, x in groups],
        frozen=True,
        namespace={
            "__doc__": "Fit a model. The run is a folder with config.json, metrics.jsonl, "
            "checkpoints, pictures and, once it is finished, figures.json."
        },
    )


def parse(kind: type, prog: str, args: Sequence[str], default: Any = None) -> Any:
    """Options from arguments, or None if these asked for help, which is printed.

    Tyro's boxed error messages are turned into one line.

    Raises:
        CommandError: the arguments are invalid.
    """
    box = io.StringIO()
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(box):
            flat = tyro.conf.OmitArgPrefixes[kind]
            return tyro.cli(flat, prog=prog, args=list(args), **given)
    except SystemExit as end:
        if not end.code:
            return None
        raise CommandError(f"{_unboxed(box.getvalue())} (see `{prog} --help`)") from None


def parse_fit(room: Room, args: Sequence[str]) -> Any:
    """The options of `ppgen fit MODEL`, those of `--config` and of the data included.

    What is typed wins, then what the file says, then the recipe's settings for the data.

    Returns:
        None after help.

    Raises:
        CommandError: the arguments are invalid.
    """
    kind, prog = fit_options(room), f"ppgen fit {room.name}"
    options = parse(kind, prog, args)
    if options is None:
        return options
    path = options.files.config
    content = {} if path is None else _file_options(room, path)
    source = options.recipe.__dict__.get("data")
    settings = options.recipe.settings.get(str(content.get("data") if source is None else source))
    if path is None and settings is None:
        return options
    default = from_record(room, {**(settings or {}), **content}, str(path or source))
    return parse(kind, prog, args, default)


def _file_options(room: Room, path: Path) -> dict[str, Any]:
    """What a file of options says, by their names with underscores."""
    content = _read(path)
    if isinstance(content.get("options"), dict):  # the config.json of a run
        if content.get("model") != room.name:
            raise CommandError(
                f"{path} is of the model {content.get('model')!r}, not {room.name!r}"
            )
        content = content["options"]
    return {name.replace("-", "_"): value for name, value in content.items()}


def record_of(options: Any) -> dict[str, Any]:
    """The options that determine a run, by name, for its config.json."""
    found = dataclasses.asdict(options.recipe) | dataclasses.asdict(options.training)
    found["devices"] = options.machine.devices
    if options.logs != Logs():
        found |= dataclasses.asdict(options.logs)
    shown = {Path: str, tuple: list}
    return {name: shown.get(_kind(x), lambda x: x)(x) for name, x in found.items()}


def _kind(value: Any) -> type:
    return Path if isinstance(value, Path) else type(value)


def from_record(room: Room, record: dict[str, Any], source: str) -> Any:
    """The options of `ppgen fit MODEL` with those of a file.

    Args:
        room: the model.
        record: the values, by name.
        source: the file, for errors.

    Raises:
        CommandError: there is no such option, or it cannot have such a value.
    """
    kind = fit_options(room)
    names = [
        field.name
        for group in dataclasses.fields(kind)
        for field in dataclasses.fields(group.default)  # pyright: ignore[reportArgumentType]
        if field.name not in ("config", "coordinator", "num_processes", "process_id")
    ]
    args = []
    for key, value in record.items():
        name = key.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise CommandError(f"{source}: `ppgen fit {room.name}` has no option {key!r}{hint}")
        args += _arguments(name, value)
    try:
        options = parse(kind, f"ppgen fit {room.name}", args)
        for group in (options.recipe, options.training):
            check_bounds(group)
            group.check()
    except CommandError as error:
        raise CommandError(f"{source}: {error}") from None
    return options


def options_of(run: Path) -> Any:
    """The options with which a run was started, parsed again from its config.json.

    Raises:
        CommandError: it is no run, or damaged.
    """
    config = read_config(run)
    options = from_record(room_of_run(run, config), config["options"], str(run / CONFIG))
    check_unchanged(run, config)
    return options


def differing(options: Any) -> dict[str, Any]:
    """The options of model and training that are not the defaults, by name."""
    found = {}
    for group, default in (
        (options.recipe, type(options.recipe)()),
        (options.training, options.recipe.training),
    ):
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if value != getattr(default, field.name):
                found[field.name] = value
    return found


def arguments_of(options: Mapping[str, Any]) -> list[str]:
    """Options by name, as command-line arguments."""
    return [word for name, value in options.items() for word in _arguments(name, value)]


def _arguments(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else flag("no_" + name)]
    if isinstance(value, list):
        return [flag(name), *map(str, value)]
    return [f"{flag(name)}={value}"]


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:  # of both parsers, and of bytes that are no text
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise CommandError(f"{path} is not valid {kind}: {error}") from error
    if not isinstance(content, dict):
        raise CommandError(f"{path} does not hold options by name")
    return content


def _unboxed(text: str) -> str:
    """The text in one of tyro's boxes: a title, the error, a rule, and advice.

    On some terminals the box is drawn in ASCII, with another rule after the title.
    """
    lines = [re.sub(r"[╭╮╰╯│]", "", line).strip() for line in text.splitlines()]
    _, *lines = [line for line in lines if line] or [""]
    is_rule = [set(line) <= {"─", "-"} for line in lines]
    start = 1 if is_rule[:1] == [True] else 0
    end = is_rule.index(True, start) if True in is_rule[start:] else len(lines)
    message = " ".join(lines[start:end]).rstrip(".")
    if "Perhaps you meant:" in lines:
        rest = lines[lines.index("Perhaps you meant:") :]
        near = [re.split(r"[ ,]", line)[0] for line in rest if line.startswith("--")]
        message += f"; did you mean {near[0]}?"
    return message
