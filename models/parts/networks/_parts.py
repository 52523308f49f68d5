"""What several networks have in common: layers that begin at zero, two heads at every site."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Layer = TypeVar("Layer", bound=Any)


def zeroed(layer: Layer) -> Layer:
    """The same layer with weights and biases of zero."""
    return jax.tree.map(jnp.zeros_like, layer)


def read_sites(
    out: Float[Array, "sites one_and_values"], seen: Float[Array, "sites values"]
) -> tuple[Float[Array, ""], Float[Array, "sites values"]]:
    """Log density and logits, in float32 or more, of a number and the logits at every site.

    The log density is uniform (−log `values` for each known site), plus the numbers of all sites.
    """
    out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
    return jnp.sum(out[:, 0]) - math.log(seen.shape[1]) * jnp.sum(seen), out[:, 1:]
