"""A run of the command line in Python."""

from __future__ import annotations

from pathlib import Path

from ppgen.models.cli._drive import load
from ppgen.models.cli._options import options_of
from ppgen.models.parts.runs import Run


def load_run(folder: str | Path) -> Run:
    """Loads a run of `ppgen fit` into Python.

    Args:
        folder: the run folder, finished or not; its last checkpoints are read.

    Returns:
        The run: `model` has the parameters, `recipe` and `training` the options, `data` the data,
        which must be those that it was fitted to; `figures()` evaluates, `sample(key, num)` draws.

    Raises:
        CommandError: there is no such run, its model is not installed, or its data have changed.
        CheckpointError: the checkpoints are damaged.

    Example:
        >>> from ppgen.models import load_run
        >>> load_run("runs/nothing-here")
        Traceback (most recent call last):
            ...
        ppgen.models.cli._main.CommandError: runs/nothing-here is not the folder of a run: ...
    """
    folder = Path(folder)
    options = options_of(folder)
    return load(options.recipe, options.training, folder)
