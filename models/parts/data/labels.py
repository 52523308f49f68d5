"""Labels of data: rows that carry one, and networks that read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ppgen.inference import DataError
from ppgen.models.parts.data.fingerprints import fingerprint
from ppgen.models.parts.data.images import Images
from ppgen.models.parts.errors import CommandError


class Labelled(NamedTuple):
    """One datum with its label, or a leading axis of several: what a conditional model learns.

    Attributes:
        x: The datum.
        label: A whole number from 0 on.
    """

    x: Any
    label: Any


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images whose rows are `Labelled`.

    Attributes:
        images: The images, with labels.
        classes: Number of labels: 0, ..., `classes - 1`.
    """

    images: Images
    classes: int

    @property
    def train(self) -> Labelled:
        """Images to fit to, and their labels."""
        return Labelled(self.images.train, self.images.labels[0])  # pyright: ignore

    @property
    def held_out(self) -> Labelled:
        """Images never fitted to, and their labels."""
        return Labelled(self.images.held_out, self.images.labels[1])  # pyright: ignore

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.images.shape

    @property
    def levels(self) -> int:
        """Number of grey levels."""
        return self.images.levels

    @property
    def pixels(self) -> int:
        """Pixels of one image."""
        return self.images.pixels

    def facts(self) -> dict[str, Any]:
        """Those of the images; the number of labels, and a fingerprint of them."""
        labels = {"classes": self.classes, "labels": fingerprint(self.images.labels)}
        return self.images.facts() | labels


def labelled(images: Images) -> LabelledImages:
    """Images whose rows carry their labels.

    Raises:
        DataError: They have none.

    Example:
        >>> from ppgen.models.parts.data import labelled, load_digits
        >>> digits = labelled(load_digits())
        >>> digits.classes, digits.train.x.shape, digits.train.label.shape
        (10, (1500, 64), (1500,))
    """
    if images.labels is None:
        raise DataError(
            "the images have no labels to be told: an .npz has them as an array 'labels'"
        )
    return LabelledImages(images, int(max(part.max() for part in images.labels)) + 1)


def datum_and_label(datum: Any) -> tuple[Any, Any]:
    """A datum, or several, and what it is labelled with: None if it is not."""
    return tuple(datum) if isinstance(datum, Labelled) else (datum, None)


def with_label(
    x: Float[Array, " x"], label: Int[Array, ""] | int | None, classes: int
) -> Float[Array, " x_and_classes"]:
    """What a conditional network reads: a vector, then a one at the place of the label.

    Args:
        x: The vector.
        label: Of a label that there is not, all places are zero.
        classes: Number of labels; with 0 the vector is left as it is.

    Raises:
        ValueError: There are labels, and none was given.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.models.parts.data import with_label
        >>> with_label(jnp.array([0.5]), 2, 3).tolist()
        [0.5, 0.0, 0.0, 1.0]
    """
    if not classes:
        return x
    if label is None:
        raise ValueError(f"a network that is told one of {classes} labels needs one")
    return jnp.concatenate([x, jax.nn.one_hot(label, classes, dtype=x.dtype)])


def labels_of_samples(facts: dict[str, Any], num: int, label: int | None) -> Any:
    """What the samples of a model are told.

    Args:
        facts: Those of the data.
        num: How many samples.
        label: That of all of them; None for all labels in turn.

    Returns:
        A label for each, or None for a model that is told nothing.

    Raises:
        CommandError: There is no such label.
    """
    classes = facts.get("classes")
    if classes is None:
        if label is not None:
            raise CommandError("--label needs a model that was fitted with --condition label")
        return None
    if label is None:
        return np.arange(num) % classes
    if not 0 <= label < classes:
        raise CommandError(f"--label must be from 0 to {classes - 1}, not {label}")
    return np.full(num, label)


def within_labels(
    score: Callable[[Any, Any], Float[np.ndarray, " n"]], train: Any, rows: Any
) -> Float[np.ndarray, " n"]:
    """Scores rows by the training data; labelled ones, by those with the same label alone.

    Args:
        score: Of training data and rows without labels: one number for each row.
        train: What to score by.
        rows: What to score.
    """
    if not isinstance(train, Labelled):
        return score(train, rows)
    found = np.zeros(len(rows.label))
    for label in np.unique(rows.label):
        found[rows.label == label] = score(
            train.x[train.label == label], rows.x[rows.label == label]
        )
    return found
