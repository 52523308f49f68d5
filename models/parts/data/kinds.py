"""Images as the data of a recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import PyTree

    from ppgen.models.parts.data import Images


def load(path: Path | None) -> Images:
    """The images of a file, or the digits of scikit-learn without one."""
    from ppgen.models.parts.data import load_digits, load_images

    return load_digits() if path is None else load_images(path)


def fingerprint(data: PyTree) -> str:
    """A hash of arrays, to tell whether they have changed."""
    import jax
    import numpy as np

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(data):
        x = np.ascontiguousarray(leaf)
        digest.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())
    return digest.hexdigest()


def facts_of(images: Images) -> dict[str, Any]:
    """What images look like, and a fingerprint of them."""
    parts = (images.train, images.held_out)
    return {"shape": list(images.shape), "levels": images.levels, "sha256": fingerprint(parts)}
