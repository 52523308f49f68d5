"""Latent representations of an image, each as two programs: a prior and a posterior.

| name | prior | posterior |
| --- | --- | --- |
| `gaussian` | N(0, I) | Gaussian, diagonal |
| `flow` | N(0, I) | affine couplings of a diagonal Gaussian |
| `vmf` | uniform on a sphere | von Mises-Fisher |
| `binary` | fair flips | independent flips |
| `categorical` | uniform classes | independent classes |
| `hierarchical` | a Gaussian whose mean and scale another Gaussian decides | of the same form |
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, Key

from ppgen.models.parts.latents._discrete import BinaryLatent as BinaryLatent
from ppgen.models.parts.latents._discrete import CategoricalLatent as CategoricalLatent
from ppgen.models.parts.latents._flow import FlowLatent as FlowLatent
from ppgen.models.parts.latents._gaussian import GaussianLatent as GaussianLatent
from ppgen.models.parts.latents._hierarchical import HierarchicalLatent as HierarchicalLatent
from ppgen.models.parts.latents._latent import AbstractLatent as AbstractLatent
from ppgen.models.parts.latents._spherical import SphericalLatent as SphericalLatent

LATENTS: dict[str, Callable[[int, int, Key[Array, ""]], AbstractLatent]] = {
    "binary": lambda dimensions, hidden, key: BinaryLatent(dimensions),
    "categorical": lambda dimensions, hidden, key: CategoricalLatent(dimensions),
    "flow": lambda dimensions, hidden, key: FlowLatent(dimensions, hidden, key=key),
    "gaussian": lambda dimensions, hidden, key: GaussianLatent(dimensions),
    "hierarchical": lambda dimensions, hidden, key: HierarchicalLatent(dimensions, hidden, key=key),
    "vmf": lambda dimensions, hidden, key: SphericalLatent(dimensions),
}
"""Latent representations by name: functions of the dimensions, and of the width and the key of
their own networks."""
