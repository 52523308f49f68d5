"""Weights that tests need."""

from __future__ import annotations

import jax


def stirred(net, key, scale=0.3):
    """The network with noise added to its weights, since networks begin with some at zero."""
    leaves, tree = jax.tree.flatten(net)
    keys = jax.random.split(key, len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return tree.unflatten([w + scale * jax.random.normal(k, w.shape) for w, k in pairs])
