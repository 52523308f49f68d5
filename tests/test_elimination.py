"""Sums over dependent enumerated choices, one at a time: no joint values where costs factorise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.errors import PpgenError

KEY = jax.random.key(0)
THETA = jnp.array([0.7, -0.4])


def chain(k, estimator=None):
    """Each choice depends on the one before, and so does its cost."""

    def f(theta):
        z, total = 0.3, 0.0
        for i in range(k):
            flip = dist.Bernoulli(logits=theta[0] * z + theta[1])
            new = ppgen.draw(flip, name=f"z{i}", grad=estimator or ppgen.Enumerate()) * 1.5
            total += jnp.sin(z + 2.0 * new)
            z = new
        return total

    return f


def chain_by_hand(k, theta):
    values = np.array([0.0, 1.5])
    weights, z, total = np.ones(1), np.array([0.3]), 0.0
    for _ in range(k):
        p = 1 / (1 + np.exp(-(theta[0] * z + theta[1])))
        pairs = weights[:, None] * np.stack([1 - p, p], axis=1)
        total += np.sum(pairs * np.sin(z[:, None] + 2 * values))
        weights, z = pairs.sum(0), values
    return total


def tree(depth):
    """Each choice has two children."""

    def f(theta):
        def grow(z, level, name):
            if level == depth:
                return 0.0
            total = 0.0
            for side in (0, 1):
                flip = dist.Bernoulli(logits=theta[0] * z + theta[1] * side)
                child = ppgen.draw(flip, name=f"{name}{side}", grad=ppgen.Enumerate()) * 1.0
                total += jnp.cos(z - child) + grow(child, level + 1, f"{name}{side}")
            return total

        return grow(0.5, 0, "z")

    return f


def tree_by_hand(depth, theta, z=0.5, level=0):
    if level == depth:
        return 0.0
    total = 0.0
    for side in (0, 1):
        p = 1 / (1 + np.exp(-(theta[0] * z + theta[1] * side)))
        for value, weight in ((0.0, 1 - p), (1.0, p)):
            rest = tree_by_hand(depth, theta, value, level + 1)
            total += weight * (np.cos(z - value) + rest)
    return total


@pytest.mark.parametrize(
    "f, by_hand",
    [(chain(24), lambda t: chain_by_hand(24, t)), (tree(4), lambda t: tree_by_hand(4, t))],
)
def test_chains_and_trees_are_exact(f, by_hand):
    value, slope = jax.jit(jax.value_and_grad(ppgen.expectation(f), 1))(KEY, THETA)
    theta = np.asarray(THETA, np.float64)
    np.testing.assert_allclose(value, by_hand(theta), rtol=1e-5)
    h = 1e-5
    for i, step in enumerate(h * np.eye(2)):
        numerical = (by_hand(theta + step) - by_hand(theta - step)) / (2 * h)
        np.testing.assert_allclose(slope[i], numerical, rtol=1e-3)


def flops(f):
    g = jax.jit(jax.value_and_grad(ppgen.expectation(f), 1))
    return g.lower(KEY, THETA).compile().cost_analysis()["flops"]


def test_a_chain_costs_the_square_of_its_length_at_most():
    # Each of the k costs sums over the choices before it; 2^24 joint values would be 10^7 times k.
    assert flops(chain(24)) < 30 * flops(chain(6))


def test_what_does_not_factorise_is_refused_with_its_size_before_anything_is_compiled():
    def f(theta):
        flips = [
            ppgen.draw(dist.Bernoulli(logits=theta[0]), name=f"z{i}", grad=ppgen.Enumerate())
            for i in range(40)
        ]
        return jnp.sin(sum(flips) * theta[1])

    with pytest.raises(PpgenError, match=r"(?s)21 enumerated choices.*1,048,576 joint values.*z2"):
        jax.eval_shape(ppgen.expectation(f), KEY, THETA)
