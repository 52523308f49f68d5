"""A network with two heads of a partly known vector on a square torus, the same at every site."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks._parts import read_sites, zeroed


class DualTorus(eqx.Module):
    """Reads the known values around each site of a square torus, with the same weights everywhere.

    A layer sees the eight neighbours of a site, `depth` layers as far as `depth` sites. The log
    density is uniform (−log `values` for each known site), plus a number from every site; so it
    fits targets whose distant sites are independent given those between them. The weights do not
    depend on the size of the torus, so a network trained on a small torus applies to a large one.

    Everything begins at the uniform distribution, and both results are as those of `DualMLP`.
    """

    first: eqx.nn.Linear
    blocks: list[eqx.nn.Linear]
    last: eqx.nn.Linear

    def __init__(self, values: int, hidden: int, depth: int, *, key: Key[Array, ""]) -> None:
        keys = jax.random.split(key, depth + 1)
        self.first = eqx.nn.Linear(9 * values, hidden, key=keys[0])
        self.blocks = [eqx.nn.Linear(9 * hidden, hidden, key=k) for k in keys[1:depth]]
        self.last = zeroed(eqx.nn.Linear(hidden, 1 + values, key=keys[-1]))

    def __call__(
        self, seen: Float[Array, "sites values"]
    ) -> tuple[Float[Array, ""], Float[Array, "sites values"]]:
        """Evaluates the network on one vector, no batch axis."""
        side = math.isqrt(len(seen))
        h = seen.astype(self.last.weight.dtype).reshape(side, side, -1)
        h = jax.nn.gelu(_everywhere(self.first, _neighbours(h)))
        for block in self.blocks:
            h = h + jax.nn.gelu(_everywhere(block, _neighbours(h)))
        return read_sites(_everywhere(self.last, h).reshape(len(seen), -1), seen)


def _neighbours(h: Float[Array, "side side c"]) -> Float[Array, "side side nine_c"]:
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return jnp.concatenate([jnp.roll(h, shift, (0, 1)) for shift in shifts], -1)


def _everywhere(layer: eqx.nn.Linear, h: Float[Array, "side side c"]) -> Array:
    return jax.vmap(jax.vmap(layer))(h)
