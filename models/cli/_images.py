"""Images as the data of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppgen.models.datasets import Images


def load(path: Path | None) -> Images:
    """The images of a file, or the digits of scikit-learn without one."""
    from ppgen.models.datasets import load_digits, load_images

    return load_digits() if path is None else load_images(path)


def facts_of(images: Images) -> dict[str, Any]:
    """What images look like, and a fingerprint of them."""
    from ppgen.models.cli._drive import fingerprint

    parts = (images.train, images.held_out)
    return {"shape": list(images.shape), "levels": images.levels, "sha256": fingerprint(parts)}
