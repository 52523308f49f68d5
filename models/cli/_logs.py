"""Logs of a run that the command line was asked for, and pictures in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np

from ppgen.inference import (
    AbstractLogger,
    CSVLogger,
    Progress,
    TensorBoardLogger,
    WandbLogger,
)
from ppgen.models.cli._machine import Workers
from ppgen.models.cli._options import Logs
from ppgen.models.parts.runs import Prepared, Run, named_key

TABLE, EVENTS, DRAWN = "metrics.csv", "tensorboard", "pictures"
SAMPLES = 36
"""In each picture."""


def loggers_of(logs: Logs, place: Path, config: dict[str, Any]) -> list[AbstractLogger]:
    """What `--log` names. Nothing is written before a fit begins.

    Args:
        logs: the options.
        place: folder of the stage.
        config: options of the run by name.

    Raises:
        DataError: a package is not installed.
    """
    make: dict[str, Callable[[], AbstractLogger]] = {
        "csv": lambda: CSVLogger(place / TABLE),
        "tensorboard": lambda: TensorBoardLogger(place / EVENTS),
        "wandb": lambda: WandbLogger(place, config=config),
    }
    return [make[name]() for name in dict.fromkeys(logs.log)]


def pictures_at_intervals(
    ready: Prepared,
    run: Run,
    place: Path,
    workers: Workers,
    loggers: Sequence[AbstractLogger],
    every: int | None,
) -> Callable[[Progress], None]:
    """A callback that draws samples of the model as it is: into a folder, and into the logs.

    Args:
        ready: the stage.
        run: the model before it.
        place: folder of the stage.
        workers: the first one draws.
        loggers: which are told.
        every: steps between two pictures, or None for no pictures.
    """
    # The same draws each time: what changes is the model.
    key = named_key(run.training, "samples")

    def draw(progress: Progress) -> None:
        before = progress.step - len(progress.values)
        if every is None or not workers.leads or progress.step // every == before // every:
            return
        folder = place / DRAWN
        folder.mkdir(exist_ok=True)
        path = folder / f"samples-{progress.step:06d}.png"
        model = workers.local(ready.whole(progress.params))
        dataclasses.replace(run, model=model).draw_samples(path, key, SAMPLES)
        image = matplotlib.image.imread(path)[..., :3]
        for logger in loggers:
            logger.picture(progress.step, "samples", (255 * image).astype(np.uint8))

    return draw
