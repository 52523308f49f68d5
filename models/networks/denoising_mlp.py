"""A multilayer perceptron that predicts the noise in a flat image."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.networks.time_features import sinusoidal_features

FREQUENCIES = 16


class DenoisingMLP(eqx.Module):
    """Maps a noisy image, its time, and what it is conditioned on to the noise in it.

    It computes in the precision of its weights; the features of time are always made in at least
    single precision, since their phases need it.
    """

    body: eqx.nn.MLP

    def __init__(
        self,
        pixels: int,
        *,
        features: int = 1,
        hidden: int = 256,
        depth: int = 3,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            pixels: Pixels of an image.
            features: Numbers to be conditioned on, beside an image.
            hidden: Width.
            depth: Hidden layers.
            key: Draws the weights.
        """
        inputs = 2 * pixels + features + 2 * FREQUENCIES
        self.body = eqx.nn.MLP(inputs, pixels, hidden, depth, jax.nn.silu, key=key)

    def __call__(
        self,
        x: Float[Array, " pixels"],
        time: Float[Array, ""],
        image: Float[Array, " pixels"],
        features: Float[Array, " features"],
    ) -> Float[Array, " pixels"]:
        """Evaluates the network.

        Args:
            x: The noisy image.
            time: Its noise level, t / T.
            image: An image to be conditioned on.
            features: Numbers to be conditioned on.

        Returns:
            The noise in `x`, in units of its standard deviation.
        """
        inputs = [x, image, features, sinusoidal_features(time, FREQUENCIES)]
        dtype = self.body.layers[0].weight.dtype
        return self.body(jnp.concatenate([part.astype(dtype) for part in inputs]))
