"""The digits that come with scikit-learn: 1,797 real handwritten digits of 8x8 pixels."""

from __future__ import annotations

import numpy as np

from ppgen.models.parts.data.images import Images, split

LEVELS = 17
"""Grey levels of a pixel: each counts the ink in a 4x4 block of the scan, 0 to 16."""


def load_digits(*, held_out: int = 297, seed: int = 0) -> Images:
    """Loads the digits: no download, they are part of scikit-learn.

    Args:
        held_out: Images to hold out of the 1,797.
        seed: Chooses which ones, see `split`.

    Returns:
        1,500 training and 297 held-out images of 64 pixels and 17 grey levels, unless `held_out`
        says otherwise; their labels are the digits.

    References:
        Alpaydin, Kaynak. Optical recognition of handwritten digits. UCI repository, 1998.
    """
    from sklearn.datasets import load_digits as load

    pixels, labels = map(np.asarray, load(return_X_y=True))
    images = np.reshape(pixels, (-1, 8, 8))
    return split(images, levels=LEVELS, held_out=held_out, seed=seed, labels=labels)
