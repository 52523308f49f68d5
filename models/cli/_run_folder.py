"""The run folder: made for one run, with everything that is needed to resume it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ppgen.models.parts.errors import CommandError

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
FIGURES = "figures.json"
"""The file that is written last: a run that has it is finished."""
SEEDS = "seeds.json"
"""In a folder of several runs, one for each seed, in place of a configuration."""


def make_run_folder(out: Path | None, model: str) -> Path:
    """Makes the folder of a run.

    Args:
        out: A folder that does not exist or is empty, or None for the next free `runs/MODEL-001`.
        model: The name of the model.

    Returns:
        The folder.

    Raises:
        CommandError: If `out` holds anything.
    """
    if out is None:
        return _next_free(model)
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file; it must be a folder")
    if out.is_dir() and any(out.iterdir()):
        what = "is not empty"
        if (out / CONFIG).exists() or (out / SEEDS).exists():
            what = f"holds another run (`ppgen resume {out}` goes on with it)"
        raise CommandError(f"--out {out} {what}; choose a folder that does not exist yet")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _next_free(model: str) -> Path:
    for number in itertools.count(1):
        folder = Path("runs") / f"{model}-{number:03d}"
        # Making the folder tests whether the name is free: two runs may start at the same time.
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
        if not folder.exists():  # the file in the way is not this folder but `runs`
            raise CommandError("runs is a file; move it, or choose an --out")
    raise AssertionError("there are infinitely many numbers")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file atomically; numbers that are not finite become null."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CommandError: If the file does not hold one.
    """
    try:
        content = json.loads(path.read_text(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CommandError(f"{path} does not hold an object")
    return content


def read_entries(path: Path, entries: Mapping[str, type]) -> dict[str, Any]:
    """Reads a JSON object that has these entries at least, of these types.

    Raises:
        CommandError: If it does not.
    """
    content = read_json(path)
    for name, kind in entries.items():
        if not isinstance(content.get(name), kind):
            raise CommandError(f"{path} is damaged: it has no {name!r}")
    return content


def write_config(folder: Path, content: dict[str, Any]) -> None:
    """Writes what a run is, and by what it is known again."""
    write_json(folder / CONFIG, content | {"fingerprint": _fingerprint(content)})


def _fingerprint(content: dict[str, Any]) -> str:
    """Of all that decides what the parameters of a run mean.

    Not of where the data are: they may be moved, and are known again by the facts about them.
    """
    options = {name: x if name != "data" else "" for name, x in content["options"].items()}
    known = [content["model"], options, content["facts"]]
    text = json.dumps(_finite(known), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_unchanged(folder: Path, content: dict[str, Any]) -> None:
    """Refuses a configuration that is not that of the fit: its parameters would mean another model.

    Raises:
        CommandError: If it was changed.
    """
    if "fingerprint" not in content:
        return  # an older version wrote it
    data = content["options"].get("data")
    if content["fingerprint"] != _fingerprint(content) or not isinstance(data, str | None):
        raise CommandError(
            f"{folder / CONFIG} is damaged or is of another fit than its checkpoints: it is not as "
            f"it was written (`ppgen fit {content['model']} --config {folder / CONFIG}` fits anew)"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the config.json of a run.

    Raises:
        CommandError: If the folder is not that of a run.
    """
    if (folder / SEEDS).is_file():
        runs = ", ".join(str(path) for path in sorted(folder.glob("seed-*"))) or "none yet"
        raise CommandError(f"{folder} holds a run for each of several seeds: {runs}")
    if not (folder / CONFIG).is_file():
        raise CommandError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    content = read_entries(folder / CONFIG, _ENTRIES)
    damaged = content.keys() - _ENTRIES.keys() - _OPTIONAL
    damaged |= {k for k in _OPTIONAL if not isinstance(content.get(k), str | None)}
    if damaged:
        raise CommandError(f"{folder / CONFIG} is damaged: it has {min(damaged)!r}")
    return content


_ENTRIES = {"model": str, "options": dict, "facts": dict}
_OPTIONAL = {"path", "began", "fingerprint"}  # older versions wrote no more than the first


def last_metrics(folder: Path) -> dict[str, Any] | None:
    """The last whole line of the metrics of a stage, if there is one."""
    path = folder / METRICS
    if not path.is_file():
        return None
    for line in reversed(path.read_text(errors="replace").splitlines()):
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and "step" in record:
                return record
    return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a run for writing. The lock is released when the process ends, however it ends.

    Raises:
        CommandError: If another process holds the lock.
    """
    with (folder / CONFIG).open("rb") as file:
        if not _lock(file):
            raise CommandError(f"{folder} is being fitted by another process")
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process is writing to a run."""
    with (folder / CONFIG).open("rb") as file:
        return not _lock(file)


def _lock(file: Any) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, where nothing is locked
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
