"""Where the numbers and pictures of a fit go: CSV, TensorBoard, Weights & Biases."""

from __future__ import annotations

import abc
import csv
import importlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from ppgen.inference.fitting._streams import DataError


class AbstractLogger(abc.ABC):
    """Takes what is said of a fit, under names, at steps that only grow.

    To add one: take numbers in `log`, and images in `picture` if it can; open what it writes to in
    `begin`, which may come again after `end`, for a fit that goes on. What was said of steps after
    the one that it begins with is void.
    """

    @abc.abstractmethod
    def begin(self, step: int) -> None:
        """A fit begins, or goes on, with `step` steps taken."""

    @abc.abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after so many steps. Those that were not finite are left out."""

    @abc.abstractmethod
    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """A picture, in red, green and blue."""

    @abc.abstractmethod
    def end(self) -> None:
        """The fit is over, or failed: write what there is, and close."""


class CSVLogger(AbstractLogger):
    """A table: a row at each time, a column for each name. Pictures are not for it.

    Args:
        path: the file; its folder must exist.

    Example:
        >>> import jax, optax, tempfile
        >>> from pathlib import Path
        >>> from ppgen.inference import CSVLogger, fit
        >>> path = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = fit(lambda x: x**2, 1.0, optax.sgd(0.1), key=jax.random.key(0), steps=4, chunk=2,
        ...         loggers=[CSVLogger(path)])
        >>> print(path.read_text().split()[0])
        step,objective,gradient_norm,seconds
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._rows: list[dict[str, Any]] = []

    def begin(self, step: int) -> None:
        """Keep the rows up to `step` of the file, if there is one."""
        self._rows = []
        if step and self._path.exists():
            with self._path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if not (row.get("step") or "").isdigit() or int(row["step"]) > step:
                        break  # of later steps, or cut short
                    self._rows.append({k: v for k, v in row.items() if k and v not in (None, "")})
        self._write()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row; a new name makes a new column of the whole file."""
        row = {"step": step, **values}
        known = self._names()
        self._rows.append(row)
        if not set(row) <= set(known):
            self._write()
            return
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, known).writerow(row)

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Leave it out."""

    def end(self) -> None:
        """Nothing is open."""

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def _write(self) -> None:
        """The file is there whole, as it was or as it is now."""
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._names())
            if self._rows:
                writer.writeheader()
            writer.writerows(self._rows)
        os.replace(partial, self._path)


class TensorBoardLogger(AbstractLogger):
    """Event files that TensorBoard shows; of the package tensorboardX (the extra `tensorboard`).

    Args:
        folder: of the events.

    Raises:
        DataError: the package is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._package = _package("tensorboardX", "tensorboard")
        self._folder = Path(folder)
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """Open a new file, which takes the place of what others say of later steps."""
        again = step + 1 if step else None
        self._writer = self._package.SummaryWriter(str(self._folder), purge_step=again)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar for each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """An image."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def end(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class WandbLogger(AbstractLogger):
    """A run of Weights & Biases (the extra `wandb`), offline unless told otherwise.

    Args:
        folder: where it is kept; it must exist.
        project: its name.
        mode: "offline" for files that `wandb sync` can send later, "online" to send them at once.
        config: what the run is: options by name.

    Raises:
        DataError: the package is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str = "ppgen",
        mode: Literal["offline", "online"] = "offline",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._package = _package("wandb", "wandb")
        self._options = {"dir": str(folder), "project": project, "mode": mode}
        self._config = dict(config or {})
        self._run: Any = None

    def begin(self, step: int) -> None:
        """Begin a run: also where a fit goes on, for what a run has is never taken back."""
        quiet = self._package.Settings(silent=True, console="off")
        self._run = self._package.init(
            **self._options, config=self._config, settings=quiet, reinit="create_new"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """An image, at the same step as the numbers."""
        self._run.log({name: self._package.Image(image)}, step=step)

    def end(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are numbers."""
    return {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"logs of this kind need the package {name}, which cannot be imported: {error}",
            instead=f"pip install 'ppgen[{extra}]'",
        ) from error
