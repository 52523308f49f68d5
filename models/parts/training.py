"""The options of a fit that all models share: what its result depends on."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from ppgen.models.parts.errors import CommandError


@dataclasses.dataclass(frozen=True)
class Training:
    """The fit."""

    steps: int
    """Gradient steps."""
    batch_size: int
    """Rows of the data in a step."""
    learning_rate: float
    """Highest learning rate."""
    chunk: int
    """Steps between two lines of metrics; an interrupted run ends after the chunk that it is in."""
    checkpoint_every: int
    """Steps between checkpoints: what a run loses at most when it is killed."""
    keep: int = 2
    """Checkpoints to keep of each stage."""
    seed: int = 0
    """Seed of everything random, the choice of the held-out data apart."""
    ema: float | None = None
    """Decay of a moving average of the parameters, .999 say. Evaluation and samples use it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """In which the networks are computed. Parameters and densities are float32."""
    on_nonfinite: Literal["raise", "skip"] = "raise"
    """What to do at a step with a value or gradient that is not finite: end, or skip and count."""
    early_stopping: int | None = None
    """Evaluations without improvement after which to stop, on a tenth of the training data, which
    is then not fitted to. The best parameters count."""
    evaluate_every: int = 100
    """Steps between such evaluations."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            CommandError: it names the option.
        """
        counts = ("steps", "batch_size", "chunk", "checkpoint_every", "keep", "evaluate_every")
        at_least(self, 1, *counts)
        if self.early_stopping is not None:
            at_least(self, 1, "early_stopping")
        positive(self, "learning_rate")
        check_seed(self.seed)
        if self.ema is not None and not 0 < self.ema < 1:
            raise CommandError(f"--ema must be between 0 and 1, not {self.ema}")


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def at_least(options: Any, least: int, *names: str) -> None:
    """Refuse options below a least value.

    Raises:
        CommandError: it names the first of them.
    """
    for name in names:
        value = getattr(options, name)
        if not least <= value < float("inf"):
            raise CommandError(f"{flag(name)} must be at least {least}, not {value}")


def positive(options: Any, *names: str) -> None:
    """Refuse options that are not positive and finite.

    Raises:
        CommandError: it names the first of them.
    """
    for name in names:
        value = getattr(options, name)
        if not 0 < value < float("inf"):
            raise CommandError(f"{flag(name)} must be positive, not {value}")


def check_seed(seed: int) -> None:
    """Refuse what is no seed.

    Raises:
        CommandError: it says what is.
    """
    if not 0 <= seed < 2**32:
        raise CommandError(f"--seed must be from 0 to 2**32 - 1, not {seed}")
