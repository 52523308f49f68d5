"""Distances between sets of images, to say how far a model's are from the data."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist


def frechet_distance(one: Float[np.ndarray, "m pixels"], other: Float[np.ndarray, "n pixels"]):
    pass
