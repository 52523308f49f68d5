"""Options that several recipes have, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

ImageSource = Annotated[
    Path | None,
    tyro.conf.arg(
        help="Images in an .npz, .npy or IDX file, of shape (n, height, width) with whole grey "
        "levels; or mnist5k, for 5,000 of MNIST (needs the extra `datasets`). None stands for the "
        "1,797 digits of scikit-learn."
    ),
]
"""Where images come from: see `ppgen.models.parts.data.images_or_digits`."""
Condition = Annotated[
    Literal["none", "label"],
    tyro.conf.arg(
        help="What the model is told of each datum: nothing, or its label, of which it then draws "
        "(`ppgen sample RUN --label 3`). A file has labels as an array `labels` in an .npz."
    ),
]
"""What a model is conditional on."""
