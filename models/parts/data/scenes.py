"""Scenes of a few digits, each somewhere on an empty canvas: data to count, find and read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ppgen.inference import DataError
from ppgen.models.parts.data.digits import LEVELS, load_digits
from ppgen.models.parts.data.fingerprints import fingerprint

ATTEMPTS = 1000
"""Number of attempts to place the digits of a scene before it is an error."""


class Scenes(NamedTuple):
    """Scenes and what is in them.

    Attributes:
        images: Intensities in [0, 1].
        counts: How many digits there are.
        corners: Row and column of the upper left pixel of each digit; −1 for the digits that a
            scene has fewer than the most.
    """

    images: Float[np.ndarray, "scenes canvas canvas"]
    counts: Int[np.ndarray, " scenes"]
    corners: Int[np.ndarray, "scenes most 2"]


class SplitScenes(NamedTuple):
    """Scenes in two parts: see `ppgen.models.parts.recipe.Dataset`.

    Attributes:
        train: Scenes to fit to.
        held_out: Scenes never fitted to.
    """

    train: Scenes
    held_out: Scenes

    def facts(self) -> dict[str, Any]:
        """The size of a scene, and a fingerprint."""
        return {"canvas": self.train.images.shape[1], "sha256": fingerprint(self)}


def draw_scenes(
    digits: Float[np.ndarray, "digits side side"],
    number: int,
    *,
    canvas: int = 24,
    most: int = 2,
    seed: int = 0,
) -> Scenes:
    """Draws scenes: a uniform count, uniform digits, uniform places without overlap.

    Args:
        digits: Images of intensities in [0, 1] to draw from, with replacement.
        number: How many scenes.
        canvas: Height and width of a scene, in pixels.
        most: The highest count; each of 0, ..., `most` is as likely.
        seed: The same seed gives the same scenes on every machine.

    Returns:
        The scenes.

    Raises:
        DataError: If the canvas has no room for the digits.
    """
    side = digits.shape[-1]
    # RandomState rather than default_rng: only its stream is promised never to change.
    random = np.random.RandomState(seed)
    counts = random.randint(0, most + 1, number)
    which = random.randint(0, len(digits), (number, most))
    there = np.arange(most) < counts[:, None]
    corners = np.full((number, most, 2), -1)
    pending = np.arange(number)
    for _ in range(ATTEMPTS if side <= canvas else 0):
        corners[pending] = random.randint(0, canvas - side + 1, (len(pending), most, 2))
        pending = pending[_overlap(corners[pending], there[pending], side)]
        if not len(pending):
            break
    else:
        raise DataError(f"no room for {most} digits of {side} pixels on a canvas of {canvas}")
    corners = np.where(there[:, :, None], corners, -1)
    images = np.zeros((number, canvas, canvas), np.float32)
    for slot in range(most):
        scene = np.nonzero(there[:, slot])[0]
        rows, columns = corners[scene, slot].T[:, :, None] + np.arange(side)
        images[scene[:, None, None], rows[:, :, None], columns[:, None, :]] = digits[
            which[scene, slot]
        ]
    return Scenes(images, counts, corners)


def _overlap(
    corners: Int[np.ndarray, "scenes most 2"], there: Bool[np.ndarray, "scenes most"], side: int
) -> Bool[np.ndarray, " scenes"]:
    """Which scenes have two digits with a pixel in common."""
    apart = np.abs(corners[:, :, None] - corners[:, None]).max(-1) >= side
    pairs = there[:, :, None] & there[:, None] & ~np.eye(there.shape[1], dtype=bool)
    return (pairs & ~apart).any((1, 2))


def load_scenes(
    *, train: int = 20_000, held_out: int = 2_000, canvas: int = 24, most: int = 2, seed: int = 0
) -> SplitScenes:
    """Scenes of scikit-learn's handwritten digits: real 8x8 images, no download.

    Args:
        train: Scenes to fit to, of the 1,500 training digits.
        held_out: Scenes of the 297 digits that occur in none of the former.
        canvas: Height and width of a scene, in pixels.
        most: The highest count.
        seed: Chooses the scenes; the split of the digits is that of `load_digits`.

    Returns:
        The scenes to fit to and the held-out ones.

    References:
        Eslami, Heess, Weber, Tassa, Szepesvari, Kavukcuoglu, Hinton. Attend, infer, repeat: fast
        scene understanding with generative models. NeurIPS 2016, whose scenes are of MNIST.
    """
    digits = load_digits()
    parts = [
        (part.reshape(-1, *digits.shape) / np.float32(LEVELS - 1), number, 2 * seed + i)
        for i, (part, number) in enumerate([(digits.train, train), (digits.held_out, held_out)])
    ]
    return SplitScenes(
        *(draw_scenes(part, number, canvas=canvas, most=most, seed=s) for part, number, s in parts)
    )
