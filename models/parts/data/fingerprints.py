"""Fingerprints of data, to tell whether they have changed."""

from __future__ import annotations

import hashlib

import jax
import numpy as np
from jaxtyping import PyTree


def fingerprint(data: PyTree) -> str:
    """A hash of arrays, of their shapes and of their types."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(data):
        x = np.ascontiguousarray(leaf)
        digest.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())
    return digest.hexdigest()
