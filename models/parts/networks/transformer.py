"""A transformer of tokens, every one of which sees all others."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks._parts import zeroed


class _Block(eqx.Module):
    """h ← h + attention(norm(h)), then h ← h + W₂ gelu(W₁ norm(h)): at first the identity."""

    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]
    attend: eqx.nn.Linear
    project: eqx.nn.Linear
    inner: eqx.nn.Linear
    outer: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: Key[Array, ""]) -> None:
        keys = jax.random.split(key, 4)
        self.norms = (eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width))
        self.attend = eqx.nn.Linear(width, 3 * width, use_bias=False, key=keys[0])
        self.project = zeroed(eqx.nn.Linear(width, width, use_bias=False, key=keys[1]))
        self.inner = eqx.nn.Linear(width, 4 * width, key=keys[2])
        self.outer = zeroed(eqx.nn.Linear(4 * width, width, key=keys[3]))
        self.heads = heads

    def __call__(self, h: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        x = jax.vmap(self.attend)(jax.vmap(self.norms[0])(h))
        query, key, value = jnp.moveaxis(x.reshape(len(h), 3, self.heads, -1), 1, 0)
        logits = jnp.einsum("qhc,khc->hqk", query, key) / math.sqrt(query.shape[-1])
        weights = jax.nn.softmax(logits.astype(jnp.promote_types(h.dtype, jnp.float32)))
        seen = jnp.einsum("hqk,khc->qhc", weights.astype(h.dtype), value)
        h = h + jax.vmap(self.project)(seen.reshape(h.shape))
        x = jax.vmap(self.inner)(jax.vmap(self.norms[1])(h))
        return h + jax.vmap(self.outer)(jax.nn.gelu(x))


def check_heads(width: int, heads: int) -> None:
    """Refuse a width that cannot be divided among the heads."""
    if width % heads:
        raise ValueError(f"a width that is a multiple of {heads} heads, not {width}")


class Transformer(eqx.Module):
    """Maps tokens to as many outputs, in which each has seen all others.

    Normalisation comes before attention and before the perceptron. The blocks begin as the
    identity, so that depth does not slow the first steps. Permuting the tokens permutes the
    outputs: where their order matters, it has to be in them. It computes in the precision of its
    weights; normalisation and the softmax of attention, which sum, in float32 or more.

    References:
        Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin. Attention is all you
        need. NeurIPS 2017.
        Xiong, Yang, He, Zheng, Zheng, Xing, Zhang, Lan, Wang, Liu. On layer normalization in the
        transformer architecture. ICML 2020, for the place of the normalisation.
    """

    first: eqx.nn.Linear
    blocks: list[_Block]
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            inputs: Numbers of a token.
            outputs: Numbers of an output.
            width: Width of the hidden states, a multiple of `heads`.
            depth: Blocks.
            heads: Attention heads.
            key: Draws the weights.

        Raises:
            ValueError: The width is not a multiple of `heads`.
        """
        check_heads(width, heads)
        keys = jax.random.split(key, depth + 2)
        self.first = eqx.nn.Linear(inputs, width, key=keys[0])
        self.blocks = [_Block(width, heads, key=k) for k in keys[1:-1]]
        self.norm = eqx.nn.LayerNorm(width)
        self.last = eqx.nn.Linear(width, outputs, key=keys[-1])

    def __call__(self, tokens: Float[Array, "tokens inputs"]) -> Float[Array, "tokens outputs"]:
        """Evaluates the network on one sequence, no batch axis."""
        h = jax.vmap(self.first)(tokens.astype(self.first.weight.dtype))
        for block in self.blocks:
            h = block(h)
        return jax.vmap(lambda x: self.last(self.norm(x)))(h)
