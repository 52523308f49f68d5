"""The options of a fit that all models share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

from ppgen.models.parts.bounds import Bounds, Count, Positive
from ppgen.models.parts.errors import CommandError


@dataclasses.dataclass(frozen=True)
class Training:
    """The fit."""

    steps: Count
    """Gradient steps."""
    batch_size: Count
    """Rows of the data in a step."""
    learning_rate: Positive
    """Highest learning rate."""
    chunk: Count
    """Steps between two lines of metrics; an interrupted run ends after the chunk that it is in."""
    checkpoint_every: Count
    """Steps between checkpoints: what a run loses at most when it is killed."""
    keep: Count = 2
    """Number of checkpoints to keep of each stage."""
    seed: int = 0
    """Seed of everything random, except for the choice of the held-out data."""
    ema: Annotated[float, Bounds(0, 1, inside=True)] | None = None
    """Decay of a moving average of the parameters, .999 say. Evaluation and samples use it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the networks. Parameters and densities are float32."""
    on_nonfinite: Literal["raise", "skip"] = "raise"
    """What to do at a step whose value or gradient is not finite: stop, or skip and count it."""
    early_stopping: Count | None = None
    """Evaluations without improvement after which to stop, on a tenth of the training data, which
    is then not fitted to. The best parameters are kept."""
    evaluate_every: Count = 100
    """Steps between such evaluations."""

    def rate(self, warmup: int = 0) -> Any:
        """The learning rate of each step, for optax: it falls to zero along a cosine.

        Args:
            warmup: steps in which it rises from zero before.

        Raises:
            CommandError: the warm-up takes all steps.
        """
        import optax

        if warmup >= self.steps:
            raise CommandError(f"--warmup must be below --steps {self.steps}, not {warmup}")
        start = 0.0 if warmup else self.learning_rate
        return optax.warmup_cosine_decay_schedule(start, self.learning_rate, warmup, self.steps)

    def optimizer(self, make: Callable[..., Any], *, warmup: int = 0, **options: Any) -> Any:
        """An optimizer of optax at `rate(warmup)`, which logs can tell.

        Args:
            make: `optax.adam`, say.
            warmup: as for `rate`.
            **options: others of `make`.

        Raises:
            CommandError: the rate would never fall.
        """
        return with_known_rate(make, self.rate(warmup), **options)

    def check(self) -> None:
        """Refuse an invalid seed; bounds of the other options are in their types.

        Raises:
            CommandError: it states the valid seeds.
        """
        check_seed(self.seed)


def with_known_rate(make: Callable[..., Any], rate: Any, **options: Any) -> Any:
    """An optimizer of optax that has its learning rate as an attribute, for logs.

    Its state is that of the optimizer of optax, with which older versions wrote checkpoints.

    Args:
        make: `optax.adam`, say.
        rate: a number, or a schedule.
        **options: others of `make`.
    """
    import optax

    class Rated(optax.GradientTransformationExtraArgs):
        learning_rate: Any = staticmethod(rate) if callable(rate) else rate

    return Rated(*optax.with_extra_args_support(make(learning_rate=rate, **options)))


def flag(name: str) -> str:
    """The command-line option of a field."""
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
    """Refuse an invalid seed.

    Raises:
        CommandError: it states the valid seeds.
    """
    if not 0 <= seed < 2**32:
        raise CommandError(f"--seed must be from 0 to 2**32 - 1, not {seed}")
