"""A multilayer perceptron that predicts the noise in a flat image."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks.time_features import sinusoidal_features

FREQUENCIES = 16


class DenoisingMLP(eqx.Module):
    """Maps a noisy image, its time, and what it is conditioned on to the noise in it.

    The noisy image itself, times a number that depends on time, is part of the output. Where there
    is much noise, it is almost all of it, and an error is multiplied by √((1 − ᾱ) / ᾱ) in the image
    that is predicted: too much for a perceptron that has to learn to copy.

    It computes in the precision of its weights; the features of time are always made in at least
    single precision, since their phases need it.
    """

    body: eqx.nn.MLP
    gate: eqx.nn.Linear

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
        keys = jax.random.split(key)
        inputs = 2 * pixels + features + 2 * FREQUENCIES
        self.body = eqx.nn.MLP(inputs, pixels, hidden, depth, jax.nn.silu, key=keys[0])
        self.gate = eqx.nn.Linear(2 * FREQUENCIES, 1, key=keys[1])

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
        dtype = self.gate.weight.dtype
        times = sinusoidal_features(time, FREQUENCIES).astype(dtype)
        x = x.astype(dtype)
        inputs = jnp.concatenate([x, image.astype(dtype), features.astype(dtype), times])
        return self.gate(times) * x + self.body(inputs)
