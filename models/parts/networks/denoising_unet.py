"""A convolutional network that predicts the noise in an image, at several resolutions."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks._parts import zeroed
from ppgen.models.parts.networks.time_features import sinusoidal_features

FREQUENCIES = 16
GROUPS = 8


class _Block(eqx.Module):
    """Two convolutions around a shift and scale by the condition, added to the input.

    The second convolution starts at zero, so that the block starts as its shortcut.
    """

    norms: tuple[eqx.nn.GroupNorm, eqx.nn.GroupNorm]
    convolutions: tuple[eqx.nn.Conv2d, eqx.nn.Conv2d]
    condition: eqx.nn.Linear
    shortcut: eqx.nn.Conv2d

    def __init__(self, inputs: int, outputs: int, embedding: int, *, key: Key[Array, ""]) -> None:
        keys = jax.random.split(key, 4)
        self.norms = (eqx.nn.GroupNorm(GROUPS, inputs), eqx.nn.GroupNorm(GROUPS, outputs))
        first = eqx.nn.Conv2d(inputs, outputs, 3, padding=1, key=keys[0])
        second = eqx.nn.Conv2d(outputs, outputs, 3, padding=1, key=keys[1])
        self.convolutions = (first, zeroed(second))
        self.condition = eqx.nn.Linear(embedding, 2 * outputs, key=keys[2])
        self.shortcut = eqx.nn.Conv2d(inputs, outputs, 1, key=keys[3])

    def __call__(
        self, h: Float[Array, "inputs height width"], embedding: Float[Array, " embedding"]
    ) -> Float[Array, "outputs height width"]:
        shift, scale = jnp.split(self.condition(embedding)[:, None, None], 2)
        inner = self.convolutions[0](jax.nn.silu(self.norms[0](h)))
        inner = self.norms[1](inner) * (1 + scale) + shift
        return self.shortcut(h) + self.convolutions[1](jax.nn.silu(inner))


class DenoisingUNet(eqx.Module):
    """Maps a noisy image, its time, and what it is conditioned on to the noise in it.

    A block at each resolution on the way down, one in the middle, and one at each resolution on the
    way up, which also reads what the way down had there. It computes in the precision of its
    weights, and takes and gives flat images, as `DenoisingMLP` does.

    References:
        Ronneberger, Fischer, Brox. U-Net. MICCAI 2015.
        Ho, Jain, Abbeel. Denoising diffusion probabilistic models. NeurIPS 2020.
    """

    embed: eqx.nn.MLP
    enter: eqx.nn.Conv2d
    down: list[_Block]
    middle: _Block
    up: list[_Block]
    leave: eqx.nn.Conv2d
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        features: int = 1,
        channels: int = 32,
        halvings: int = 2,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            shape: Height and width of an image: 8x8 and 28x28 can be halved twice.
            features: Numbers to be conditioned on, beside an image.
            channels: At the full resolution, a multiple of 8; twice as many below.
            halvings: How many times the resolution is halved.
            key: Draws the weights.

        Raises:
            ValueError: The shape cannot be halved that often, or the channels do not fit.
        """
        if any(side % 2**halvings for side in shape):
            raise ValueError(f"sides {shape} must be multiples of {2**halvings}, to halve them")
        if channels % GROUPS:
            raise ValueError(f"channels must be a multiple of {GROUPS}, not {channels}")
        keys = iter(jax.random.split(key, 4 + 2 * halvings))
        embedding, deep = 4 * channels, 2 * channels
        widths = [channels] + [deep] * halvings
        self.embed = eqx.nn.MLP(
            features + 2 * FREQUENCIES, embedding, embedding, 1, jax.nn.silu, key=next(keys)
        )
        self.enter = eqx.nn.Conv2d(2, channels, 3, padding=1, key=next(keys))
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = [_Block(a, b, embedding, key=next(keys)) for a, b in pairs]
        self.middle = _Block(widths[-1], widths[-1], embedding, key=next(keys))
        self.up = [_Block(2 * b, a, embedding, key=next(keys)) for a, b in reversed(pairs)]
        self.leave = zeroed(eqx.nn.Conv2d(channels, 1, 3, padding=1, key=next(keys)))
        self.shape = shape

    def __call__(
        self,
        x: Float[Array, " pixels"],
        time: Float[Array, ""],
        image: Float[Array, " pixels"],
        features: Float[Array, " features"],
    ) -> Float[Array, " pixels"]:
        """Evaluates the network; see `DenoisingMLP.__call__`."""
        dtype = self.enter.weight.dtype
        known = [features, sinusoidal_features(time, FREQUENCIES)]
        embedding = jax.nn.silu(self.embed(jnp.concatenate([part.astype(dtype) for part in known])))
        h = self.enter(jnp.stack([part.reshape(self.shape).astype(dtype) for part in (x, image)]))
        before = []
        for block in self.down:
            h = block(h, embedding)
            before.append(h)
            h = h.reshape(h.shape[0], h.shape[1] // 2, 2, h.shape[2] // 2, 2).mean((2, 4))
        h = self.middle(h, embedding)
        for block in self.up:
            h = h.repeat(2, 1).repeat(2, 2)
            h = block(jnp.concatenate([h, before.pop()]), embedding)
        return self.leave(jax.nn.silu(h)).ravel()
