"""Targets of a marginalization model: binary images, or an energy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ppgen.models.parts.data import Ising, Molecules, fingerprint, images_or_digits


@dataclasses.dataclass(frozen=True, eq=False)
class BinaryDigits:
    """Images of pixels that are on or off, as vectors: see `binary_images`.

    Attributes:
        train: Images to fit to.
        held_out: Images never fitted to.
        shape: Height and width; None for a square.
    """

    train: Int[np.ndarray, "train sites"]
    held_out: Int[np.ndarray, "held_out sites"]
    shape: tuple[int, int] | None = None

    def facts(self) -> dict[str, Any]:
        """The number of sites and of their values, and a fingerprint: see `Dataset`."""
        parts = {"train": self.train, "held-out": self.held_out}
        found = {"sites": self.train.shape[1], "values": 2, "sha256": fingerprint(parts)}
        return found if self.shape is None else found | {"shape": list(self.shape)}


def binary_images(source: str | Path | None = None) -> BinaryDigits:
    """Images, a pixel on if it is at least half as dark as possible.

    Args:
        source: As for `images_or_digits`.

    Raises:
        DataError: The data cannot be used.

    Example:
        >>> from ppgen.models.marginalization import binary_images
        >>> data = binary_images()
        >>> data.train.shape, data.held_out.shape
        ((1500, 64), (297, 64))
    """
    images: Any = images_or_digits(source)  # without labels
    train, held_out = (
        (x >= 0.5 * (images.levels - 1)).astype(np.int32) for x in (images.train, images.held_out)
    )
    height, width = images.shape
    return BinaryDigits(train, held_out, None if height == width else images.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Energy:
    """An unnormalised target; there are no rows of data.

    Attributes:
        target: Its energy, and exact answers where they are known.
        train: None.
        held_out: None.
    """

    target: Ising | Molecules
    train: None = None
    held_out: None = None

    def facts(self) -> dict[str, Any]:
        """The number of sites and of their values: see `Dataset`."""
        return {"sites": self.target.sites, "values": self.target.values}
