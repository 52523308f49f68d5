"""Attention among tokens: the formula, the symmetry, the precision."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import stirred

from ppgen.models.parts.networks import Transformer


def small(**options):
    sizes = {"width": 6, "depth": 2, "heads": 2} | options
    return Transformer(3, 4, **sizes, key=jax.random.key(0))


KEY = jax.random.key(7)
TOKENS = jax.random.normal(jax.random.key(1), (5, 3))


def test_it_is_the_formula():
    with jax.enable_x64(True):
        net = stirred(jax.tree.map(lambda w: w.astype(jnp.float64), small(depth=1)), KEY)
        (block,), tokens = net.blocks, np.asarray(TOKENS, np.float64)

        def affine(layer, x):
            y = x @ np.asarray(layer.weight).T
            return y if layer.bias is None else y + np.asarray(layer.bias)

        def norm(layer, x):
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + layer.eps)
            return x * np.asarray(layer.weight) + np.asarray(layer.bias)

        h = affine(net.first, tokens)
        projected = affine(block.attend, norm(block.norms[0], h)).reshape(5, 3, 2, 3)
        heads = []
        for i in range(2):
            q, k, v = projected[:, :, i].swapaxes(0, 1)
            weights = np.exp(q @ k.T / np.sqrt(3))
            heads.append(weights / weights.sum(1, keepdims=True) @ v)
        h = h + affine(block.project, np.concatenate(heads, 1))
        inner = affine(block.inner, norm(block.norms[1], h))
        h = h + affine(block.outer, np.asarray(jax.nn.gelu(inner)))
        expected = affine(net.last, norm(net.norm, h))
        np.testing.assert_allclose(net(jnp.asarray(tokens)), expected, rtol=1e-10, atol=1e-12)


def test_permuted_tokens_have_permuted_outputs_and_each_sees_all():
    net, order = stirred(small(), KEY), jnp.array([3, 0, 4, 1, 2])
    run = eqx.filter_jit(net)
    np.testing.assert_allclose(run(TOKENS[order]), run(TOKENS)[order], rtol=2e-5, atol=1e-5)
    changed = jnp.abs(run(TOKENS.at[2].add(1.0)) - run(TOKENS)).max(1)
    assert (changed > 1e-3).all()
    assert run(TOKENS[:2]).shape == (2, 4)


def test_depth_does_not_change_how_it_begins():
    one, three = small(depth=1), small(depth=3)
    three = eqx.tree_at(lambda n: (n.first, n.last), three, (one.first, one.last))
    np.testing.assert_array_equal(one(TOKENS), three(TOKENS))


def test_it_computes_in_the_precision_of_its_weights():
    net = stirred(small(), KEY, 0.1)
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), net)
    low = half(TOKENS)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), net(TOKENS), atol=0.1)


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="multiple of 4 heads, not 6"):
        small(heads=4)
