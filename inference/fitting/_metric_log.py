"""A file of metrics: one JSON object a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float


class MetricLog:
    """Lines `{"step": ..., ...}`, each written whole before the next step is taken.

    Args:
        path: the file; its folder must exist.
        step: lines of later steps are cut off, and so is a line that was not finished.
    """

    def __init__(self, path: str | Path, step: int) -> None:
        path = Path(path)
        end = _end(path, step) if path.exists() and step else 0
        self._file: IO[bytes] = path.open("r+b" if path.exists() else "xb")
        self._file.truncate(end)
        self._file.seek(end)

    def write(self, record: dict[str, Any]) -> None:
        """Append a line."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def mean_of_finite(values: Float[np.ndarray, " n"]) -> float | None:
    """The mean of the finite values; `None` if there are none."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def _end(path: Path, step: int) -> int:
    """The position after the last complete line of a step up to `step`."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return end
            if not isinstance(record, dict) or record.get("step", 0) > step:
                return end
            end += len(line)
    return end
