"""Multilayer perceptrons between a flat image and a latent vector."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


class VectorMLP(eqx.Module):
    """Maps a vector to a vector, in the precision of its weights."""

    body: eqx.nn.MLP

    def __init__(
        self, inputs: int, outputs: int, hidden: int, depth: int, *, key: Key[Array, ""]
    ) -> None:
        self.body = eqx.nn.MLP(inputs, outputs, hidden, depth, jax.nn.gelu, key=key)

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """Evaluates the network on one vector."""
        return _applied(self.body, x)


class DiagonalGaussianMLP(eqx.Module):
    """Maps a vector to the mean and the scale of a diagonal Gaussian.

    The scale is `exp` of half of the second head, so that the network predicts a log variance: at
    initialisation it is close to 1, the scale of the prior of a VAE.
    """

    body: eqx.nn.MLP

    def __init__(
        self, inputs: int, outputs: int, hidden: int, depth: int, *, key: Key[Array, ""]
    ) -> None:
        self.body = eqx.nn.MLP(inputs, 2 * outputs, hidden, depth, jax.nn.gelu, key=key)

    def __call__(
        self, x: Float[Array, " inputs"]
    ) -> tuple[Float[Array, " outputs"], Float[Array, " outputs"]]:
        """Evaluates the network.

        Args:
            x: One input, no batch axis (`jax.vmap` gives one).

        Returns:
            Mean and scale (standard deviation), each of shape `(outputs,)`.
        """
        mean, log_variance = jnp.split(_applied(self.body, x), 2)
        return mean, jnp.exp(0.5 * log_variance)


class PixelMLP(eqx.Module):
    """Maps a latent vector to `channels` numbers for each pixel, shape `(pixels, channels)`."""

    body: eqx.nn.MLP
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        pixels: int,
        channels: int,
        hidden: int,
        depth: int,
        *,
        key: Key[Array, ""],
    ) -> None:
        self.body = eqx.nn.MLP(inputs, pixels * channels, hidden, depth, jax.nn.gelu, key=key)
        self.channels = channels

    def __call__(self, z: Float[Array, " inputs"]) -> Float[Array, "pixels {self.channels}"]:
        """Evaluates the network on one latent vector."""
        return _applied(self.body, z).reshape(-1, self.channels)


def _applied(body: eqx.nn.MLP, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
    """In the precision of the weights: choices have single precision, however low that is."""
    return body(x.astype(body.layers[0].weight.dtype))
