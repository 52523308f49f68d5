"""The images of a command: by name, or from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ppgen.models.parts.data.digits import load_digits
from ppgen.models.parts.data.files import load_images
from ppgen.models.parts.data.images import Images
from ppgen.models.parts.data.labels import LabelledImages, labelled
from ppgen.models.parts.data.mnist import load_mnist5k

NAMED: dict[str, Callable[[], Images]] = {"digits": load_digits, "mnist5k": load_mnist5k}
"""Data sets that have a name, and that need no file."""


def images_or_digits(source: str | Path | None, condition: str = "none") -> Images | LabelledImages:
    """The images of a name or of a file, or the digits of scikit-learn without one.

    Args:
        source: `digits` or `mnist5k`, or a file as for `load_images`; one that has such a name is
            given by its absolute path.
        condition: What a model is told: "none", or "label" for images with their labels.

    Raises:
        DataError: the data cannot be used; or they have no labels, and are to have some.
    """
    load = NAMED["digits" if source is None else str(source)] if _is_named(source) else None
    if load is not None:
        images = load()
    else:
        images = load_images(Path(str(source)), labels=condition == "label")
    return labelled(images) if condition == "label" else images


def _is_named(source: str | Path | None) -> bool:
    return source is None or str(source) in NAMED
