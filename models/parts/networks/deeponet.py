"""The deep operator network: the baseline of networks between functions."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks.fourier import fourier_features


class DeepONet(eqx.Module):
    """A branch network of the input function times a trunk network of the query point.

    Each output is the inner product of `basis` numbers of the branch and as many of the trunk, plus
    a bias. It has the two methods of `GICNet`, and ignores the cloud of points: the context holds
    the parameters of the input function.

    References:
        Lu, Jin, Pang, Zhang, Karniadakis. Learning nonlinear operators via DeepONet based on the
        universal approximation theorem of operators. Nature Machine Intelligence 3, 2021.
    """

    branch: eqx.nn.MLP
    trunk: eqx.nn.MLP
    bias: Float[Array, " outputs"]
    frequencies: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        context: int,
        query: int,
        outputs: int,
        basis: int = 16,
        width: int = 96,
        depth: int = 3,
        frequencies: int = 0,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            context: Dimensions of the context.
            query: Dimensions of a query.
            outputs: Numbers at a query.
            basis: Functions that each output is a combination of.
            width: Width of the hidden layers.
            depth: Hidden layers of branch and trunk each.
            frequencies: Fourier features of a query, in each dimension.
            key: Draws the weights.
        """
        branch, trunk = jax.random.split(key)
        inputs = query * (1 + 2 * frequencies)
        self.branch = eqx.nn.MLP(context, basis * outputs, width, depth, jnp.tanh, key=branch)
        self.trunk = eqx.nn.MLP(inputs, basis * outputs, width, depth, jnp.tanh, key=trunk)
        self.bias = jnp.zeros(outputs)
        self.frequencies = frequencies

    def encode(
        self,
        points: Float[Array, "points d"],
        values: Float[Array, "points values"],
        context: Float[Array, " context"],
    ) -> Float[Array, " code"]:
        """The branch, of the context alone."""
        return self.branch(context)

    def decode(
        self, code: Float[Array, " code"], query: Float[Array, " query"]
    ) -> Float[Array, " outputs"]:
        """The outputs at a query in [−1, 1]."""
        trunk = self.trunk(fourier_features(query, self.frequencies))
        return (code * trunk).reshape(len(self.bias), -1).sum(1) + self.bias
