"""Scattered values interpolated onto a fixed grid by kernels."""

from __future__ import annotations

import string

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FLOOR = 1e-6
"""Added to the sum of the weights of a node, so that one far from all points holds a zero."""


class KernelInterpolation(eqx.Module):
    r"""Interpolates scattered values onto a fixed grid, each channel with a length of its own.

    .. math:: h_k(g) = \frac{\sum_j K_{\ell_k}(g, x_j) v_{jk}}{\sum_j K_{\ell_k}(g, x_j) + 10^{-6}},
              \qquad K_\ell(g, x) = \exp(-\|g - x\|^2 / 2 \ell^2)

    at the nodes g of an even grid over the box [−1, 1]ᵈ. It is a sum over the points, so their
    order does not matter, and their number may change. The kernel is a product over dimensions, and
    is evaluated as one. In mixed precision, kernels and sums stay in single precision at least.
    """

    log_lengths: Float[Array, " channels"]
    nodes: int = eqx.field(static=True)

    def __init__(self, channels: int, nodes: int) -> None:
        # From the distance of two nodes to half the box: a length far below that distance would
        # reach no node, and its channel would have no gradient either.
        self.log_lengths = jnp.linspace(np.log(2 / (nodes - 1)), 0.0, channels)
        self.nodes = nodes

    def __call__(
        self, points: Float[Array, "points d"], values: Float[Array, "points channels"]
    ) -> Float[Array, "channels ..."]:
        """Interpolates.

        Args:
            points: Where the values are, in [−1, 1]ᵈ.
            values: One for each channel at each point.

        Returns:
            The channels on the grid, `(channels, nodes, ..., nodes)`, of the type of `values`.
        """
        dtype = jnp.promote_types(values.dtype, jnp.float32)
        grid = jnp.linspace(-1, 1, self.nodes, dtype=dtype)
        lengths = jnp.exp(self.log_lengths.astype(dtype))
        # For each dimension: (nodes, points, channels).
        apart = grid[:, None, None] - points.astype(dtype).T[:, None, :, None]
        kernels = list(jnp.exp(-0.5 * (apart / lengths) ** 2))
        axes = string.ascii_lowercase[: len(kernels)]
        rule = ",".join(f"{axis}NC" for axis in axes) + f",NC->C{axes}"
        sums = jnp.einsum(rule, *kernels, values.astype(dtype))
        weights = jnp.einsum(rule, *kernels, jnp.ones_like(values, dtype))
        return (sums / (weights + FLOOR)).astype(values.dtype)
