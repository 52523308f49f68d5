"""The folder that a run writes to: never one that holds something already."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

from ppgen.models.cli._errors import CommandError

CONFIG = "config.json"
CHECKPOINT = "checkpoint"
METRICS = "metrics.jsonl"


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
        what = "holds another run" if (out / CONFIG).exists() else "is not empty"
        raise CommandError(f"--out {out} {what}; choose a folder that does not exist yet")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _next_free(model: str) -> Path:
    for number in itertools.count(1):
        folder = Path("runs") / f"{model}-{number:03d}"
        # Making it is the test whether it is free: two runs may start at the same time.
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
        if not folder.exists():  # the file in the way is not this folder but `runs`
            raise CommandError("runs is a file; move it, or choose an --out")
    raise AssertionError("there are infinitely many numbers")


def write_config(folder: Path, content: dict[str, Any]) -> None:
    """Writes what is needed to rebuild the model of a run."""
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """Reads what `write_config` wrote.

    Raises:
        CommandError: If the folder is not that of a run.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CommandError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CommandError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CommandError(f"{path} does not describe a run")
    return content
