"""The images of a command: from a file, or the default ones."""

from __future__ import annotations

from pathlib import Path

from ppgen.models.parts.data.digits import load_digits
from ppgen.models.parts.data.files import load_images
from ppgen.models.parts.data.images import Images


def images_or_digits(path: Path | None) -> Images:
    """The images of a file, or the digits of scikit-learn without one.

    Args:
        path: as for `load_images`.

    Raises:
        DataError: the file cannot be used.
    """
    return load_digits() if path is None else load_images(path)
