"""A transformer of two streams of tokens, which attend to each other."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks._parts import zeroed
from ppgen.models.parts.networks.transformer import check_heads

EPSILON = 1e-6


class _Stream(eqx.Module):
    """What one stream has of its own in a block: projections, modulation and perceptron.

    Without an output, it has keys and values alone to give.
    """

    norm: eqx.nn.LayerNorm
    modulate: eqx.nn.Linear
    attend: eqx.nn.Linear
    sizes: Float[Array, "2 channels"] | None
    project: eqx.nn.Linear | None
    perceptron: tuple[eqx.nn.Linear, eqx.nn.Linear] | None
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        features: int,
        *,
        normalised: bool,
        output: bool,
        key: Key[Array, ""],
    ) -> None:
        keys = jax.random.split(key, 5)
        self.norm = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
        self.modulate = zeroed(eqx.nn.Linear(features, 6 * width, key=keys[0]))
        self.attend = eqx.nn.Linear(width, 3 * width, key=keys[1])
        self.sizes = jnp.ones((2, width // heads)) if normalised else None
        self.project = eqx.nn.Linear(width, width, key=keys[2]) if output else None
        inner = eqx.nn.Linear(width, 4 * width, key=keys[3])
        outer = eqx.nn.Linear(4 * width, width, key=keys[4])
        self.perceptron = (inner, outer) if output else None
        self.heads = heads

    def modulation(self, features: Float[Array, " features"]) -> Float[Array, "6 width"]:
        """Shift, scale and gate of attention, then those of the perceptron."""
        return self.modulate(jax.nn.silu(features)).reshape(6, -1)

    def attended(
        self, h: Float[Array, "tokens width"], by: Float[Array, "6 width"]
    ) -> Float[Array, "3 tokens heads channels"]:
        """Queries, keys and values."""
        x = jax.vmap(self.norm)(h) * (1 + by[1]) + by[0]
        x = jax.vmap(self.attend)(x).reshape(len(h), 3, self.heads, h.shape[1] // self.heads)
        query, key, value = jnp.moveaxis(x, 1, 0)
        if self.sizes is not None:
            query, key = (_rms(a) * size for a, size in zip((query, key), self.sizes, strict=True))
        return jnp.stack([query, key, value])

    def moved(
        self,
        h: Float[Array, "tokens width"],
        seen: Float[Array, "tokens width"],
        by: Float[Array, "6 width"],
    ) -> Float[Array, "tokens width"]:
        """The tokens after attention and the perceptron; as they were, without an output."""
        if self.project is None or self.perceptron is None:
            return h
        inner, outer = self.perceptron
        h = h + by[2] * jax.vmap(self.project)(seen)
        x = jax.vmap(self.norm)(h) * (1 + by[4]) + by[3]
        return h + by[5] * jax.vmap(lambda x: outer(jax.nn.gelu(inner(x))))(x)


def _rms(x: Float[Array, "tokens heads channels"]) -> Float[Array, "tokens heads channels"]:
    """Vectors of a mean square of one, in float32 or more."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    scale = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + EPSILON)
    return (wide * scale).astype(x.dtype)


class _Block(eqx.Module):
    """One attention over the tokens of both streams. At first the identity."""

    image: _Stream
    text: _Stream

    def __call__(
        self,
        image: Float[Array, "tokens width"],
        text: Float[Array, "words width"],
        features: Float[Array, " features"],
    ) -> tuple[Float[Array, "tokens width"], Float[Array, "words width"]]:
        by, told = self.image.modulation(features), self.text.modulation(features)
        parts = self.image.attended(image, by), self.text.attended(text, told)
        query, key, value = jnp.concatenate(parts, axis=1)
        logits = jnp.einsum("qhc,khc->hqk", query, key) / math.sqrt(query.shape[-1])
        weights = jax.nn.softmax(logits.astype(jnp.promote_types(image.dtype, jnp.float32)))
        seen = jnp.einsum("hqk,khc->qhc", weights.astype(image.dtype), value)
        seen = seen.reshape(len(seen), image.shape[1])
        own, other = seen[: len(image)], seen[len(image) :]
        return self.image.moved(image, own, by), self.text.moved(text, other, told)


class JointTransformer(eqx.Module):
    """Maps tokens of an image to as many outputs, told tokens of a text and a vector of features.

    Both streams have their own projections, modulations and perceptrons, and one attention over
    all of their tokens. Shifts, scales and gates are linear in the features (those of the time, and
    a summary of the text), and zero at first: every block begins as the identity. Nothing says
    where a token is, unless it is in the token. The text has no output, and none in the last block.

    References:
        Esser et al. Scaling rectified flow transformers for high-resolution image synthesis. ICML
        2024. Peebles, Xie. Scalable diffusion models with transformers. ICCV 2023.
    """

    first: eqx.nn.Linear
    word: eqx.nn.Linear
    blocks: list[_Block]
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear

    def __init__(
        self,
        inputs: int,
        words: int,
        outputs: int,
        *,
        features: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        normalised: bool = True,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            inputs: Numbers of an image's token.
            words: Numbers of a text's token.
            outputs: Numbers of an output.
            features: Numbers of the vector of features.
            width: Width of the hidden states, a multiple of `heads`.
            depth: Blocks.
            heads: Attention heads.
            normalised: Whether queries and keys are normalised, by root mean squares: their sizes
                are learned then, and do not grow with the weights.
            key: Draws the weights.

        Raises:
            ValueError: The width is not a multiple of `heads`.
        """
        check_heads(width, heads)
        keys = jax.random.split(key, 2 * depth + 3)
        self.first = eqx.nn.Linear(inputs, width, key=keys[0])
        self.word = eqx.nn.Linear(words, width, key=keys[1])
        streams = [
            # The text of the last block is the only one that nobody reads any more.
            _Stream(width, heads, features, normalised=normalised, output=i < 2 * depth - 1, key=k)
            for i, k in enumerate(keys[3:])
        ]
        self.blocks = [_Block(*streams[i : i + 2]) for i in range(0, 2 * depth, 2)]
        self.norm = eqx.nn.LayerNorm(width)
        self.last = eqx.nn.Linear(width, outputs, key=keys[2])

    def __call__(
        self,
        image: Float[Array, "tokens inputs"],
        text: Float[Array, "words numbers"],
        features: Float[Array, " features"],
    ) -> Float[Array, "tokens outputs"]:
        """Evaluates the network on one image and one text, which may have no tokens."""
        dtype = self.first.weight.dtype
        h = jax.vmap(self.first)(image.astype(dtype))
        words = jax.vmap(self.word)(text.astype(dtype))
        for block in self.blocks:
            h, words = block(h, words, features.astype(dtype))
        return jax.vmap(lambda x: self.last(self.norm(x)))(h)
