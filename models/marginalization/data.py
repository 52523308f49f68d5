"""Targets of a marginalization model: binary images, or an energy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int

from ppgen.models.parts.data import Ising, Molecules, fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class BinaryDigits:
    """Images of pixels that are on or off, as vectors: see `binary_digits`.

    Attributes:
        train: Images to fit to.
        held_out: Images never fitted to.
    """

    train: Int[np.ndarray, "train sites"]
    held_out: Int[np.ndarray, "held_out sites"]

    def facts(self) -> dict[str, Any]:
        """The number of sites and of their values, and a fingerprint: see `Dataset`."""
        parts = {"train": self.train, "held-out": self.held_out}
        return {"sites": self.train.shape[1], "values": 2, "sha256": fingerprint(parts)}


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
