"""Networks of a partly known vector with two heads: how likely it is, and what the rest may be."""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.networks.residual_mlp import ResidualMLP


class DualMLP(eqx.Module):
    """Maps the known values of some sites to a log density and to logits of all sites.

    The input is one-hot, with a row of zeros for a site that is not known. The log density counts
    from that of the uniform distribution, where it therefore begins: −log `values` for each known
    site. Both results are in float32 or more, whatever the precision of the weights.
    """

    body: ResidualMLP
    sites: int = eqx.field(static=True)
    values: int = eqx.field(static=True)

    def __init__(
        self, sites: int, values: int, hidden: int, depth: int, *, key: Key[Array, ""]
    ) -> None:
        body = ResidualMLP(sites * values, 1 + sites * values, hidden, depth, key=key)
        # Both heads begin at zero: uniform conditionals that agree with the uniform density.
        self.body = eqx.tree_at(
            lambda net: net.last, body, jax.tree.map(jnp.zeros_like, body.last)
        )
        self.sites, self.values = sites, values

    def __call__(
        self, seen: Float[Array, "sites values"]
    ) -> tuple[Float[Array, ""], Float[Array, "sites values"]]:
        """Evaluates the network on one vector, no batch axis."""
        out = self.body(seen.ravel())
        out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        return out[0] - math.log(self.values) * jnp.sum(seen), out[1:].reshape(seen.shape)


class Paired(eqx.Module):
    """Two such networks, of which one answers for the marginals, the other for the conditionals."""

    marginals: Callable[[Array], tuple[Array, Array]]
    conditionals: Callable[[Array], tuple[Array, Array]]

    def __call__(
        self, seen: Float[Array, "sites values"]
    ) -> tuple[Float[Array, ""], Float[Array, "sites values"]]:
        """Evaluates both on one vector, no batch axis."""
        return self.marginals(seen)[0], self.conditionals(seen)[1]
