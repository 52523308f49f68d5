"""Recipes: what the command line needs to fit, evaluate and sample a model."""

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
        """Facts about the data from which parameters and pictures can be made without them.

        They are written to config.json, and compared when a run is resumed: include a `fingerprint`
        to detect changed data. `classes` is the number of labels, where rows are
        `ppgen.models.parts.data.Labelled`.
        """
        ...


def training_rows(data: Any, model: Any) -> Any:
    """The training rows: the default of `Stage.rows`."""
    return data.train


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One call of `ppgen.inference.fit`.

    Attributes:
        objective: a function of a model and one row of data that may draw, in `unit`; of a whole
            batch if not `each`, and of the model alone if there are no rows.
        optimizer: from optax.
        rows: a function of the data and the model that returns the rows to fit to: arrays, an
            iterable of batches, a program that draws a batch, or None.
        part: the part of the model that is fitted, the rest being held; None for all of it.
        begin: a function applied to the model before the stage.
        each: whether the objective is of one row; its mean over a batch is fitted then.
        draws: draws of the objective to average.
        maximize: whether the objective is a bound.
        label: the name of the objective, for the picture of its history.
        unit: of the objective, say "nats per image".
        batch_size: rows of a batch; those of `--batch-size` if None.
        allow_biased: as for `fit`.
        has_aux: whether the objective returns `(value, metrics)`, the latter named numbers for
            logs.
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
    has_aux: bool = False


class Picture(NamedTuple):
    """A picture of what a program returns.

    Attributes:
        title: what it shows.
        program: a function of one datum, or without arguments. It may draw.
        draw: writes a file, given its path, the stacked results of the program, and the title.
        most: the largest number of data to run the program on.
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
        program: a function of one datum, or without arguments, that returns an image, or several by
            label, which are drawn as rows.
        shape: height and width of an image.
        top: the value drawn as black.
        most: the largest number of data to run the program on.
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
    checkpoints, resuming, tables, files and shared options are handled for all models alike. A
    model may be fitted in several stages, one after the other.

    The fields and their docstrings become options and their help. They are of types that a command
    line and JSON can hold, with bounds from `ppgen.models.parts.bounds`, and their names differ
    from those of `Training`. Import modules that need JAX within methods, or through a lazy
    package, so that help is fast.

    Attributes:
        training: the defaults of the options that all models share.
        evaluation_particles: the number of particles in figures after a fit, and the default of
            `evaluate --particles`.
        settings: options that suit a data set better than the defaults, by its name in `--data`;
            options that are given, or read with `--config`, override them.
        tiny: options for a run of seconds, for tests, by name; shared options may be included.
        stages: their names, each the name of a folder within the run; "" is the run's own.
    """

    training: ClassVar[Training]
    evaluation_particles: ClassVar[int] = 100
    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    tiny: ClassVar[Mapping[str, Any]] = {}
    stages: ClassVar[tuple[str, ...]] = ("",)

    def check(self) -> None:  # noqa: B027  (most recipes have nothing to refuse)
        """Refuse incompatible options, before anything is read or written.

        Bounds of single options are in their types: see `ppgen.models.parts.bounds`.

        Raises:
            CommandError: options are incompatible.
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
        """Figures of a fitted model, and of trivial baselines.

        Args:
            run: its `model` and `data`.
            rows: the held-out rows of the data, or the training rows.
            particles: draws in the tightest bound.
            key: everything random follows from it.
        """

    @abc.abstractmethod
    def sample(self, run: Run, key: Key[Array, ""]) -> Picture:
        """A picture whose program draws one sample; `key` is for setting it up, if need be.

        Where the data have labels, it is a program of a label.
        """

    def pictures(self, run: Run) -> Mapping[str, Picture]:
        """Further pictures, by name, whose programs take one held-out datum.

        If there are no held-out data, the programs take no argument.
        """
        return {}
