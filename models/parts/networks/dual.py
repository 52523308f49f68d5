"""Networks of a partly known vector with two heads: its log density, and logits of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks._parts import zeroed
from ppgen.models.parts.networks.residual_mlp import ResidualMLP


class DualMLP(eqx.Module):
    """Maps the known values of some sites to a log density and to logits of all sites.

    The input s is one-hot, with a row of zeros for a site that is not known. The log density is
    uniform (−log `values` for each known site), plus sᵀ `pairs` s, plus a number from the network.
    The logits are the change of the former with one more value, plus those from the network. So
    pairwise interactions need no hidden layer, and there both heads agree up to normalisation.

    Everything begins at the uniform distribution. Both results are in float32 or more, whatever
    the precision of the weights.
    """

    body: ResidualMLP
    pairs: Float[Array, "inputs inputs"]
    sites: int = eqx.field(static=True)
    values: int = eqx.field(static=True)

    def __init__(
        self, sites: int, values: int, hidden: int, depth: int, *, key: Key[Array, ""]
    ) -> None:
        inputs = sites * values
        body = ResidualMLP(inputs, 1 + inputs, hidden, depth, key=key)
        self.body = eqx.tree_at(lambda net: net.last, body, zeroed(body.last))
        self.pairs = jnp.zeros((inputs, inputs))
        self.sites, self.values = sites, values

    def __call__(
        self, seen: Float[Array, "sites values"]
    ) -> tuple[Float[Array, ""], Float[Array, "sites values"]]:
        """Evaluates the network on one vector, no batch axis."""
        s = seen.astype(self.pairs.dtype).ravel()
        field = self.pairs @ s
        out = self.body(s).at[0].add(s @ field)
        out = out.at[1:].add(field + s @ self.pairs + jnp.diag(self.pairs))
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
