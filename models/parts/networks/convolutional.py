"""Convolutional networks between a flat image and a vector, halving its sides twice."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

HALVINGS = 2


class ConvolutionalEncoder(eqx.Module):
    """Maps an image to a vector: two convolutions of stride two, and a linear map of what is left.

    It computes in the precision of its weights, and takes flat images, as `VectorMLP` does.
    """

    convolutions: tuple[eqx.nn.Conv2d, eqx.nn.Conv2d]
    head: eqx.nn.Linear
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int],
        outputs: int,
        *,
        channels: int = 16,
        extra: int = 0,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            shape: Height and width of an image, multiples of four: 8x8 or 28x28.
            outputs: Length of the vector.
            channels: At half of the resolution; twice as many at a quarter.
            extra: Numbers that follow the pixels, and that only the last layer reads.
            key: Draws the weights.

        Raises:
            ValueError: The sides are not multiples of four.
        """
        keys = jax.random.split(key, 3)
        self.convolutions = (
            eqx.nn.Conv2d(1, channels, 3, stride=2, padding=1, key=keys[0]),
            eqx.nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, key=keys[1]),
        )
        features = 2 * channels * math.prod(_smallest(shape)) + extra
        self.head = eqx.nn.Linear(features, outputs, key=keys[2])
        self.shape = shape

    def __call__(self, x: Float[Array, " pixels_and_extra"]) -> Float[Array, " outputs"]:
        """Evaluates the network on one image (`jax.vmap` gives a batch)."""
        h, extra = jnp.split(x.astype(self.head.weight.dtype), [math.prod(self.shape)])
        h = h.reshape(1, *self.shape)
        for convolution in self.convolutions:
            h = jax.nn.gelu(convolution(h))
        return self.head(jnp.concatenate([h.ravel(), extra]))


class ConvolutionalDecoder(eqx.Module):
    """Maps a vector to `numbers` for each pixel: a linear map, then twice a doubling of the sides.

    Each pixel is repeated and then convolved, which leaves no chequered pattern, as strided
    transposed convolutions do. It computes in the precision of its weights.

    References:
        Odena, Dumoulin, Olah. Deconvolution and checkerboard artifacts. Distill, 2016.
    """

    enter: eqx.nn.Linear
    convolutions: tuple[eqx.nn.Conv2d, eqx.nn.Conv2d]
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        shape: tuple[int, int],
        numbers: int,
        *,
        channels: int = 16,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            inputs: Length of the vector.
            shape: Height and width of an image, multiples of four: 8x8 or 28x28.
            numbers: For each pixel, as its distribution needs.
            channels: At half of the resolution; twice as many at a quarter.
            key: Draws the weights.

        Raises:
            ValueError: The sides are not multiples of four.
        """
        keys = jax.random.split(key, 3)
        self.enter = eqx.nn.Linear(inputs, 2 * channels * math.prod(_smallest(shape)), key=keys[0])
        self.convolutions = (
            eqx.nn.Conv2d(2 * channels, channels, 3, padding=1, key=keys[1]),
            eqx.nn.Conv2d(channels, numbers, 3, padding=1, key=keys[2]),
        )
        self.shape = shape

    def __call__(self, z: Float[Array, " inputs"]) -> Float[Array, "pixels numbers"]:
        """Evaluates the network on one vector."""
        h = self.enter(z.astype(self.enter.weight.dtype)).reshape(-1, *_smallest(self.shape))
        for convolution in self.convolutions:
            h = convolution(jax.nn.gelu(h).repeat(2, 1).repeat(2, 2))
        return h.reshape(h.shape[0], -1).T


def _smallest(shape: tuple[int, int]) -> tuple[int, int]:
    """The sides after all halvings."""
    if any(side % 2**HALVINGS for side in shape):
        raise ValueError(f"sides {shape} must be multiples of {2**HALVINGS}, to be halved twice")
    height, width = shape
    return height // 2**HALVINGS, width // 2**HALVINGS
