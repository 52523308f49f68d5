"""Pictures of a marginalization model: its draws, and its marginals against exact ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppgen.models.marginalization.model import MaM, any_order
from ppgen.models.marginalization.scores import MARGINALS, random_part
from ppgen.models.parts.data import Ising, Molecules, molecule_string
from ppgen.models.parts.pictures import draw_agreement, draw_strings
from ppgen.models.parts.recipe import Picture, image_picture


def samples(title: str, mam: MaM, shape: Sequence[int] | None = None) -> Picture:
    """Draws of the conditionals: binary images, or molecules if sites have more values.

    Args:
        title: What they are.
        mam: The model.
        shape: Height and width of an image; None for a square.
    """

    def draw(path: Path, vectors: Any, title: str) -> None:
        draw_strings(path, [molecule_string(x) or "–" for x in vectors], title=title)

    program = functools.partial(any_order, mam)
    if mam.values > 2:
        return Picture(title, program, draw)
    return image_picture(title, program, shape or [math.isqrt(mam.sites)] * 2)


def agreement(title: str, mam: MaM, target: Ising | Molecules | None = None) -> Picture:
    """The marginals of random parts of vectors, against reference values.

    Args:
        title: What they are.
        mam: The model.
        target: Gives the reference values; if None, the model's conditionals in a random order do.
    """

    def draw(path: Path, parts: Any, title: str) -> None:
        truth, what = parts.by_conditionals, "conditionals in a random order"
        if target is not None:
            truth, what = np.array(list(map(target.log_marginal, parts.x, parts.known))), "exact"
        labels = f"log probability, {what} (nats)", "log marginal, in one pass (nats)"
        draw_agreement(path, truth, parts.by_marginals, labels=labels, title=title)

    return Picture(title, functools.partial(random_part, mam), draw, MARGINALS)
