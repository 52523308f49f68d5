"""What a model has to say so that the command line can fit, evaluate and sample it."""

from __future__ import annotations

import abc
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

# Not for the type checker alone: tyro evaluates the annotations.
from ppgen.models.parts.training import Training

if TYPE_CHECKING:
    from jaxtyping import Array, Key, PyTree

    from ppgen.models.parts.figures import Figures
    from ppgen.models.parts.runs import Run

Split = Literal["held-out", "train"]


@runtime_checkable
class Dataset(Protocol):
    """Data of one kind, in two parts; `ppgen.models.parts.data.Images`, say."""

    @property
    def train(self) -> Any:
        """The rows to fit to, or None where a model is fitted to something else."""

    @property
    def held_out(self) -> Any:
        """The rows that are never fitted to, or None where there are none."""

    def facts(self) -> dict[str, Any]:
        """What must be known of the data without them, to make parameters and pictures.

        It is written to config.json, and compared when a run goes on: a `fingerprint` in it makes
        sure that they are the same.
        """
        ...


def training_rows(data: Any, model: Any) -> Any:
    """The rows to fit to: what a stage is fitted to unless it says otherwise."""
    return data.train


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One call of `ppgen.inference.fit`.

    Attributes:
        objective: a program of a model and one row of data, in `unit`; of a whole batch if not
            `each`, and of the model alone where there are no rows.
        optimizer: from optax.
        rows: what is fitted to, of the data and the model: arrays, an iterable of batches, a
            program that draws one, or None.
        part: the part of the model that is fitted, the rest being held; None for all of it.
        begin: what the model becomes before.
        each: whether the objective is of one row; its mean over a batch is fitted then.
        draws: draws of the objective to average.
        maximize: whether the objective is a bound.
        label: the name of the objective, for the picture of its history.
        unit: of the objective, say "nats per image".
        batch_size: rows of a batch; those of `--batch-size` if None.
        allow_biased: as for `fit`.
    """

    objective: Callable[..., Any]
    optimizer: Any
    rows: Callable[[Any, Any], Any] = training_rows
    part: Callable[[Any], Any] | None = None
    begin: Callable[[Any], Any] = lambda model: model
    each: bool = True
    draws: int = 1
    maximize: bool = False
    label: str = "objective"
    unit: str = "nats"
    batch_size: int | None = None
    allow_biased: bool = False


class Picture(NamedTuple):
    """A picture of what a program returns.

    Attributes:
        title: what it shows.
        program: of one datum, or of nothing. It may draw.
        draw: writes a file, from its path, what the program returned with a leading axis, and the
            title.
        most: data to run the program on.
    """

    title: str
    program: Callable[..., Any]
    draw: Callable[[Path, Any, str], None]
    most: int = 12


def image_picture(
    title: str,
    program: Callable[..., Any],
    shape: Sequence[int],
    top: int = 1,
    most: int = 12,
    *,
    bottom: int = 0,
) -> Picture:
    """A picture of images.

    Args:
        title: what they are.
        program: of one datum, or of nothing, that returns an image, or several by label: rows, one
            below the other.
        shape: height and width of an image.
        top: the value drawn as black.
        most: data to run the program on.
        bottom: the value drawn as white.
    """

    def ordered(*datum: Any) -> Any:
        images = program(*datum)
        # JAX sorts a dict by its keys.
        return OrderedDict(images) if isinstance(images, Mapping) else images

    def draw(path: Path, images: Any, title: str) -> None:
        from ppgen.models.parts.pictures import draw_images

        draw_images(path, images, title, shape=shape, top=top, bottom=bottom)

    return Picture(title, ordered, draw, most)


class Recipe(abc.ABC):
    """How to fit, evaluate and sample one model: a frozen dataclass of the options of its own.

    Objectives and samples are programs over *one* datum. Batches, keys, compilation, run folders,
    checkpoints, resuming, tables, files and the options that all models share are the same for
    all. A model may be fitted in several stages, one after the other.

    The fields and their docstrings become options and their help. They are of types that a command
    line and JSON can hold, with bounds from `ppgen.models.parts.bounds`, and their names differ
    from those of `Training`. What imports JAX is imported within methods, or is a name of a lazy
    package that methods look into, so that help is fast.

    Attributes:
        training: the defaults of the options that all models share.
        evaluation_particles: the default of `evaluate --particles`, and what figures after a fit
            are with.
        tiny: options of a run of seconds, for tests, by name; any of the shared ones as well.
        stages: their names, each the name of a folder within the run; "" is the run's own.
    """

    training: ClassVar[Training]
    evaluation_particles: ClassVar[int] = 100
    tiny: ClassVar[Mapping[str, Any]] = {}
    stages: ClassVar[tuple[str, ...]] = ("",)

    def check(self) -> None:  # noqa: B027  (most recipes have nothing to refuse)
        """Refuse options that do not go together, before anything is read or written.

        Bounds of single ones are in their types: see `ppgen.models.parts.bounds`.

        Raises:
            CommandError: for the user.
        """

    @abc.abstractmethod
    def load(self) -> Dataset:
        """The data, held-out ones included."""

    @abc.abstractmethod
    def model(self, facts: dict[str, Any], keys: Mapping[str, Key[Array, ""]]) -> PyTree:
        """Fresh parameters, of all stages.

        Args:
            facts: those of the data.
            keys: one for each stage.
        """

    @abc.abstractmethod
    def stage(self, name: str, training: Training) -> Stage:
        """What to fit.

        Args:
            name: of the stage.
            training: the options that all models share.
        """

    @abc.abstractmethod
    def figures(self, run: Run, rows: Any, particles: int, key: Key[Array, ""]) -> Figures:
        """What a fitted model reaches, and a trivial one.

        Args:
            run: its `model` and `data`.
            rows: of the data: those held out, or those fitted to.
            particles: draws in the tightest bound.
            key: everything random follows from it.
        """

    @abc.abstractmethod
    def sample(self, run: Run, key: Key[Array, ""]) -> Picture:
        """Samples, whose program draws one datum; what it is made of may depend on `key`."""

    def pictures(self, run: Run) -> Mapping[str, Picture]:
        """Further pictures, by name, whose programs are of one held-out datum each.

        They are of nothing where the data have none.
        """
        return {}
