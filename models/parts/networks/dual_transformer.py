"""A network with two heads of a partly known vector, by attention among its sites."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks._parts import read_sites, zeroed
from ppgen.models.parts.networks.transformer import Transformer


class DualTransformer(eqx.Module):
    """Reads one token for each site: its value, none if it is not known, and where it is.

    The log density is uniform (−log `values` for each known site), plus a number from every site.
    Everything begins at the uniform distribution, and both results are as those of `DualMLP`.
    """

    body: Transformer
    sites: int = eqx.field(static=True)

    def __init__(
        self,
        sites: int,
        values: int,
        hidden: int,
        depth: int,
        *,
        heads: int = 4,
        key: Key[Array, ""],
    ) -> None:
        body = Transformer(
            values + sites, 1 + values, width=hidden, depth=depth, heads=heads, key=key
        )
        self.body = eqx.tree_at(lambda net: net.last, body, zeroed(body.last))
        self.sites = sites

    def __call__(
        self, seen: Float[Array, "sites values"]
    ) -> tuple[Float[Array, ""], Float[Array, "sites values"]]:
        """Evaluates the network on one vector, no batch axis."""
        out = self.body(jnp.concatenate([seen, jnp.eye(self.sites, dtype=seen.dtype)], 1))
        return read_sites(out, seen)
