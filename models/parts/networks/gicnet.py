"""A network of values at scattered points: kernels onto a fixed grid, then convolutions."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks.fourier import fourier_features
from ppgen.models.parts.networks.kernel_interpolation import KernelInterpolation


class GICNet(eqx.Module):
    """A grid-invariant convolutional network: a function of a cloud of points with values.

    The values are lifted pointwise, interpolated onto a fixed grid, convolved there, and mapped,
    with a context, to one vector: the code of the cloud. A trunk network of a query scales the
    entries of the code, about `offset`, and a head reads them. Permuting the points changes
    nothing, and any number of them will do.

    The layers up to the code are initialised without biases and with weights that preserve
    variance; otherwise all clouds have almost the same code, and training is slow.

    References:
        Vadeboncoeur, Kazlauskaite, Papandreou, Cirak, Girolami, Akyildiz. Random grid neural
        processes for parametric partial differential equations. ICML 2023.
    """

    lift: eqx.nn.Linear
    interpolate: KernelInterpolation
    convolutions: list[eqx.nn.Conv]
    dense: eqx.nn.MLP
    trunk: eqx.nn.MLP
    head: eqx.nn.MLP
    frequencies: int = eqx.field(static=True)
    offset: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        dimensions: int,
        values: int,
        context: int,
        query: int,
        outputs: int,
        width: int = 96,
        channels: int = 16,
        nodes: int = 16,
        frequencies: int = 0,
        offset: float = 0.0,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            dimensions: Dimensions of a point.
            values: Numbers at a point.
            context: Dimensions of the context; may be zero.
            query: Dimensions of a query.
            outputs: Numbers at a query.
            width: Width of the dense layers, and of the code.
            channels: Channels on the grid.
            nodes: Nodes of the grid, in each dimension.
            frequencies: Fourier features of a query, in each dimension.
            offset: Added to what scales the code, which is in (−1, 1): 0 where a query is a point,
                at which the code is read, 1 where it is a condition, which may matter or not.
            key: Draws the weights.
        """
        keys = iter(jax.random.split(key, 6))

        def layers(inputs: int, outputs: int) -> eqx.nn.MLP:
            return eqx.nn.MLP(inputs, outputs, width, 1, jnp.tanh, key=next(keys))

        self.lift = _unbiased(eqx.nn.Linear(values, channels, key=next(keys)))
        self.interpolate = KernelInterpolation(channels, nodes)
        self.convolutions = [
            _unbiased(
                eqx.nn.Conv(dimensions, channels, channels, 5, padding="SAME", key=next(keys))
            )
            for _ in range(2)
        ]
        self.dense = _unbiased(layers(channels * nodes**dimensions + context, width))
        self.trunk = layers(query * (1 + 2 * frequencies), width)
        self.head = layers(width, outputs)
        self.frequencies, self.offset = frequencies, offset

    def encode(
        self,
        points: Float[Array, "points d"],
        values: Float[Array, "points values"],
        context: Float[Array, " context"],
    ) -> Float[Array, " width"]:
        """The code of a cloud of points in [−1, 1]ᵈ and their values, and of a context."""
        grid = self.interpolate(points, jax.vmap(self.lift)(values))
        for convolution in self.convolutions:
            grid = grid + jax.nn.gelu(convolution(grid))
        return jnp.tanh(self.dense(jnp.concatenate([grid.ravel(), context])))

    def decode(
        self, code: Float[Array, " width"], query: Float[Array, " query"]
    ) -> Float[Array, " outputs"]:
        """The outputs for a code at a query in [−1, 1], a smooth function of the query."""
        trunk = self.trunk(fourier_features(query, self.frequencies))
        return self.head(code * (self.offset + jnp.tanh(trunk)))


Layers = TypeVar("Layers", eqx.nn.Linear, eqx.nn.Conv, eqx.nn.MLP)


def _unbiased(layers: Layers) -> Layers:
    """With biases of zero, and weights of variance 1 / inputs: equinox draws them of a third."""
    kinds = (eqx.nn.Linear, eqx.nn.Conv)

    def begin(layer: Any) -> Any:
        if not isinstance(layer, kinds):
            return layer
        weights = math.sqrt(3.0) * layer.weight, jax.tree.map(jnp.zeros_like, layer.bias)
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, weights)

    return jax.tree.map(begin, layers, is_leaf=lambda x: isinstance(x, kinds))
