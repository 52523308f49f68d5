"""Image data sets: grey levels, a shape, and a fixed split."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from ppgen.inference import DataError
from ppgen.models.parts.data.fingerprints import fingerprint


class Images(NamedTuple):
    """A data set of images, flattened, as whole numbers 0, ..., `levels - 1` stored as floats.

    Attributes:
        train: Images to fit to.
        held_out: Images never fitted to.
        shape: Height and width.
        levels: Number of grey levels.
        labels: Of the images to fit to and of those held out, whole numbers from 0 on, where they
            have any.
    """

    train: Float[np.ndarray, "train pixels"]
    held_out: Float[np.ndarray, "held_out pixels"]
    shape: tuple[int, int]
    levels: int
    labels: tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held_out"]] | None = None

    @property
    def pixels(self) -> int:
        """Pixels of one image."""
        return math.prod(self.shape)

    def facts(self) -> dict[str, Any]:
        """The shape, the levels and a fingerprint of the images: see `Dataset`."""
        parts = (self.train, self.held_out)
        return {"shape": list(self.shape), "levels": self.levels, "sha256": fingerprint(parts)}


def centred(images: Any, levels: int) -> Any:
    """Grey levels 0, ..., `levels - 1` on [-1, 1], the scale of noise.

    Example:
        >>> import numpy as np
        >>> from ppgen.models.parts.data import centred
        >>> centred(np.array([0.0, 8.0, 16.0]), 17).tolist()
        [-1.0, 0.0, 1.0]
    """
    return 2 * images / (levels - 1) - 1


def split(
    images: Num[np.ndarray, "n height width"],
    *,
    levels: int,
    held_out: int,
    seed: int = 0,
    labels: Int[np.ndarray, " n"] | None = None,
) -> Images:
    """Splits images into a part to fit to and a held-out part.

    Args:
        images: Grey levels, whole numbers from 0 to `levels - 1`.
        levels: Number of grey levels.
        held_out: Images to hold out, fewer than there are.
        seed: Chooses which. The same seed and count give the same split on every machine and with
            every version of NumPy.
        labels: Of the images, whole numbers from 0 on.

    Returns:
        The data set.

    Raises:
        DataError: If either part would be empty.

    Example:
        >>> import numpy as np
        >>> from ppgen.models.parts.data import split
        >>> images = np.arange(40).reshape(10, 2, 2) % 4
        >>> split(images, levels=4, held_out=10)
        Traceback (most recent call last):
            ...
        ppgen.inference.DataError: cannot hold out 10 of 10 images: need 1 to 9
          See: ppgen.inference.DataError

        Leave something to fit to:

        >>> split(images, levels=4, held_out=3).train.shape
        (7, 4)
    """
    count, height, width = images.shape
    if not 0 < held_out < count:
        raise DataError(f"cannot hold out {held_out} of {count} images: need 1 to {count - 1}")
    # RandomState rather than default_rng: only its stream is promised never to change.
    order = np.random.RandomState(seed).permutation(count)
    flat = images.reshape(count, height * width).astype(np.float32)
    parts = order[held_out:], order[:held_out]
    train, rest = (flat[part] for part in parts)
    told = None
    if labels is not None:
        told = (labels[parts[0]].astype(np.int32), labels[parts[1]].astype(np.int32))
    return Images(train, rest, (height, width), levels, told)
