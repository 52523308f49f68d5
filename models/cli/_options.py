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
from typing import Any

import tyro

from ppgen.models.cli._machine import Compiler, Machine
from ppgen.models.cli._rooms import Room
from ppgen.models.parts.bounds import check_bounds
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.training import flag


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


@functools.cache
def fit_options(room: Room) -> type:
    """The options of `ppgen fit MODEL`: a frozen dataclass of groups of options.

    Its fields are `recipe`, `training`, `files`, `checks`, `machine` and `compiler`.
    """
    recipe = room.recipe()
    groups: list[Any] = [
        ("recipe", recipe()),
        ("training", recipe.training),
        ("files", Files()),
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
    """The options of `ppgen fit MODEL`, those of `--config` included; None after help.

    Raises:
        CommandError: the arguments are invalid.
    """
    kind, prog = fit_options(room), f"ppgen fit {room.name}"
    options = parse(kind, prog, args)
    if options is None or options.files.config is None:
        return options
    path = options.files.config
    content = _read(path)
    if isinstance(content.get("options"), dict):  # the config.json of a run
        if content.get("model") != room.name:
            raise CommandError(
                f"{path} is of the model {content.get('model')!r}, not {room.name!r}"
            )
        content = content["options"]
    default = from_record(room, content, str(path))
    return parse(kind, prog, args, default)


def record_of(options: Any) -> dict[str, Any]:
    """The options that determine a run, by name, for its config.json."""
    found = dataclasses.asdict(options.recipe) | dataclasses.asdict(options.training)
    found["devices"] = options.machine.devices
    return {name: str(x) if isinstance(x, Path) else x for name, x in found.items()}


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
