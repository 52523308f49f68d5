"""A multilayer perceptron of residual blocks."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks._parts import zeroed


class ResidualMLP(eqx.Module):
    """h ← h + W₃ (gelu(W₁ norm(h)) · W₂ norm(h)), `depth` times, between two affine layers.

    The blocks begin as the identity (W₃ is zero), so that depth does not slow the first steps.
    Their gates multiply, so that interactions of two inputs take one block. It computes in the
    precision of its weights; normalisation, which sums squares, in float32 or more.

    References:
        Shazeer. GLU variants improve transformer. arXiv 2020, for the gates.
    """

    first: eqx.nn.Linear
    blocks: list[tuple[eqx.nn.LayerNorm, eqx.nn.Linear, eqx.nn.Linear]]
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear

    def __init__(
        self, inputs: int, outputs: int, hidden: int, depth: int, *, key: Key[Array, ""]
    ) -> None:
        keys = jax.random.split(key, 2 * depth + 2)
        self.first = eqx.nn.Linear(inputs, hidden, key=keys[0])
        self.blocks = [
            (
                eqx.nn.LayerNorm(hidden),
                eqx.nn.Linear(hidden, 2 * hidden, key=keys[2 * i + 1]),
                zeroed(eqx.nn.Linear(hidden, hidden, key=keys[2 * i + 2])),
            )
            for i in range(depth)
        ]
        self.norm = eqx.nn.LayerNorm(hidden)
        self.last = eqx.nn.Linear(hidden, outputs, key=keys[-1])

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """Evaluates the network on one input: no batch axis (`jax.vmap` gives one)."""
        h = self.first(x.astype(self.first.weight.dtype))
        for norm, inner, outer in self.blocks:
            gate, h_in = jnp.split(inner(norm(h)), 2)
            h = h + outer(jax.nn.gelu(gate) * h_in)
        return self.last(jax.nn.gelu(self.norm(h)))
