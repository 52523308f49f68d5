"""What a model has to say so that the command line can fit, evaluate and sample it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

# Not for the type checker alone: tyro evaluates the annotations.
from ppgen.models.parts.training import Training

if TYPE_CHECKING:
    from jaxtyping import Array, Key, PyTree

    from ppgen.inference import Estimate

Split = Literal["held-out", "train"]


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One call of `ppgen.inference.fit`, whose arguments these are.

    Attributes:
        objective: of the parameters and a batch: in `unit`, a mean over the batch.
        params: initial parameters, those of `AbstractRecipe.params`.
        optimizer: from optax.
        data: arrays, an iterable of batches, or a program that draws one.
        draws: draws of the objective to average.
        maximize: whether the objective is a bound.
        label: the name of the objective, for the picture of its history.
        unit: of the objective, say "nats per image".
        steps: gradient steps; those of `--steps` if None.
        batch_size: rows of a batch; those of `--batch-size` if None.
        allow_biased: as for `fit`.
        validation: what to stop early by; a tenth of the rows of `data`, which are not fitted to
            then, if None.
    """

    objective: Callable[..., Any]
    params: PyTree
    optimizer: Any
    data: Any = None
    draws: int = 1
    maximize: bool = False
    label: str = "objective"
    unit: str = "nats"
    steps: int | None = None
    batch_size: int | None = None
    allow_biased: bool = False
    validation: Any = None


class Report(NamedTuple):
    """Figures on data.

    Attributes:
        title: which data.
        columns: the unit of each column and how many decimals it is shown with.
        rows: a label and an estimate for each column, None where there is none. The first rows are
            floors: what any model has to beat.
        references: for the stages whose objective is comparable with some figures: those, with
            labels, to be drawn into the picture of its history.
    """

    title: str
    columns: Sequence[tuple[str, int]]
    rows: Sequence[tuple[str, Sequence[Estimate | None]]]
    references: Mapping[str, Sequence[tuple[str, float]]]

    def table(self) -> str:
        """The figures for people."""
        left = max(22, *(len(label) + 2 for label, _ in self.rows))
        widths = [len(unit) + 4 for unit, _ in self.columns]
        heads = (f"{unit:>{w}}" for (unit, _), w in zip(self.columns, widths, strict=True))
        lines = [self.title, " " * left + "".join(heads)]
        for label, estimates in self.rows:
            shown = f"{label:<{left}}"
            for estimate, (_, digits), width in zip(estimates, self.columns, widths, strict=True):
                mean, error = ("", "") if estimate is None else estimate
                text = "" if estimate is None else f"{mean:.{digits}f} ± {error:.{digits}f}"
                shown += f"{text:>{width}}"
            lines.append(shown.rstrip())
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """The figures for programs: by label, then by unit."""
        units = [unit for unit, _ in self.columns]
        return {
            label: {
                unit: estimate._asdict()
                for unit, estimate in zip(units, estimates, strict=True)
                if estimate is not None
            }
            for label, estimates in self.rows
        }


class AbstractRecipe(abc.ABC):
    """How to fit, evaluate and sample one model: a frozen dataclass of the options of its own.

    Everything else, run folders, checkpoints, resuming, options that all models share, is the same
    for all. A model may be fitted in several stages, one after the other, each with all those
    before it at hand.

    The fields and their docstrings become options and their help. They are of types that a command
    line and JSON can hold, and their names differ from those in `_training` and `_machine`. The
    file of a recipe imports JAX, and all that does, within methods, so that help is fast.

    Attributes:
        training: the defaults of the options that all models share.
        evaluation_particles: the default of `evaluate --particles`, and what figures after a fit
            are with.
        tiny: options of a run of seconds, for tests, by name; any of the shared ones as well.
        stages: their names, each the name of a folder within the run; "" is the run's own.
    """

    training: ClassVar[Training]
    evaluation_particles: ClassVar[int]
    tiny: ClassVar[Mapping[str, Any]] = {}
    stages: ClassVar[tuple[str, ...]] = ("",)

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse options that do not go together, before anything is read or written.

        Bounds of single ones are in their types: see `ppgen.models.parts.bounds`.

        Raises:
            CommandError: for the user.
        """

    @abc.abstractmethod
    def load(self) -> Any:
        """The data, held-out ones included: what other methods call `data`."""

    @abc.abstractmethod
    def facts(self, data: Any) -> dict[str, Any]:
        """What must be known of the data without them, to make parameters and pictures.

        It is written to config.json, and compared when a run goes on: `fingerprint(data)` in it
        makes sure that they are the same.
        """

    @abc.abstractmethod
    def params(self, stage: str, facts: dict[str, Any], key: Key[Array, ""]) -> PyTree:
        """Initial parameters of a stage."""

    @abc.abstractmethod
    def stage(
        self,
        name: str,
        training: Training,
        params: PyTree,
        data: Any,
        fitted: Mapping[str, PyTree],
    ) -> Stage:
        """What to fit.

        Args:
            name: of the stage.
            training: the options that all models share.
            params: initial parameters.
            data: what `load` gave.
            fitted: the parameters of the stages before.
        """

    @abc.abstractmethod
    def evaluate(
        self,
        data: Any,
        fitted: Mapping[str, PyTree],
        *,
        particles: int,
        split: Split,
        key: Key[Array, ""],
    ) -> Report:
        """Figures with standard errors, and those of a trivial model."""

    @abc.abstractmethod
    def sample(
        self,
        path: Path,
        facts: dict[str, Any],
        fitted: Mapping[str, PyTree],
        *,
        count: int,
        key: Key[Array, ""],
    ) -> None:
        """Write a picture of `count` samples."""

    @abc.abstractmethod
    def pictures(
        self, folder: Path, data: Any, fitted: Mapping[str, PyTree], key: Key[Array, ""]
    ) -> None:
        """Write further pictures, with the data, to the folder of the run."""
