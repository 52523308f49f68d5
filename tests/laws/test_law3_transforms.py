"""Law 3: `expectation` commutes with JAX's transformations, is linear, and nests."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from law_helpers import truth

import ppgen
from ppgen.testing import CASES, assert_unbiased, exact, planted

# One of each kind of program, with the estimators that take different paths.
NAMES = ["chain", "mixing", "lanes", "switch", "scan", "scanned elbo"]


def variants(name):
    found = list(CASES[name].variants().values())
    return [found[0], found[-1]]


def value_and_gradient(variant):
    g = jax.value_and_grad(ppgen.expectation(variant.function), argnums=1)
    return lambda key, theta: jnp.append(*g(key, theta)[::-1])


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_one_at_a_time(name):
    keys = jax.random.split(jax.random.key(1), 3)
    for variant in variants(name):
        g = value_and_gradient(variant)
        thetas = jnp.stack([variant.args[0] * s for s in (1.0, 0.5, -1.0)])
        single = jax.jit(g)
        expected = jnp.stack([single(k, t) for k, t in zip(keys, thetas, strict=True)])
        np.testing.assert_allclose(jax.jit(jax.vmap(g))(keys, thetas), expected, 2e-5, 2e-5)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", NAMES)
def test_jit_changes_nothing(name):
    variant = variants(name)[-1]
    g = value_and_gradient(variant)
    key, theta = jax.random.key(2), jnp.asarray(variant.args[0])
    np.testing.assert_allclose(jax.jit(g)(key, theta), g(key, theta), 2e-5, 2e-5)


@pytest.mark.parametrize("name", ["chain", "scan"])
def test_scan_and_remat_change_nothing(name):
    variant = variants(name)[-1]
    g = value_and_gradient(variant)
    keys, theta = jax.random.split(jax.random.key(3), 3), jnp.asarray(variant.args[0])

    def loop(keys):
        return jax.lax.scan(lambda c, key: (c, jax.checkpoint(g)(key, theta)), 0, keys)[1]

    np.testing.assert_allclose(jax.jit(loop)(keys), jax.vmap(g, (0, None))(keys, theta), 2e-5, 2e-5)


def test_forward_mode_is_reverse_mode():
    for variant in variants("chain"):
        g, theta = ppgen.expectation(variant.function), jnp.asarray(variant.args[0])
        forward = jax.jit(jax.jacfwd(g, argnums=1))(jax.random.key(4), theta)
        reverse = jax.jit(jax.jacrev(g, argnums=1))(jax.random.key(4), theta)
        np.testing.assert_allclose(forward, reverse, 2e-5, 2e-5)


def check_linearity():
    one, other = CASES["chain"], CASES["scan"]

    first, second = truth(one), truth(other)

    # The cases are expanded at their own points: `other` is moved to that of `one`.
    shift = other.args[0] - one.args[0]

    def moved(theta):
        return 2.0 * one.function(theta) - 3.0 * other.function(theta + shift)

    assert_unbiased(
        moved,
        *one.args,
        order=1,
        exact=lambda theta: 2.0 * first(theta) - 3.0 * second(theta + shift),
        samples=30_000,
    )


def test_linearity():
    check_linearity()


def inner(x, theta):
    b = ppgen.draw(dist.Bernoulli(logits=x + theta[1]))
    return (b - x) ** 2 * theta[0]


def flat(theta):
    return inner(ppgen.draw(dist.Normal(theta[0], 1.0)), theta)


def nested(theta):
    x = ppgen.draw(dist.Normal(theta[0], 1.0))
    return ppgen.expectation(inner, draws=2)(numpyro.prng_key(), x, theta)


def conditional(theta):
    x = ppgen.draw(dist.Normal(theta[0], 1.0))
    p = jax.nn.sigmoid(x + theta[1])
    return ((1 - p) * x**2 + p * (1 - x) ** 2) * theta[0]


@pytest.mark.parametrize("f", [flat, nested, conditional])
def test_tower(f):
    assert_unbiased(f, jnp.array([0.7, -0.4]), order=1, exact=exact(flat))


@pytest.mark.long
@pytest.mark.parametrize("check", [check_linearity, lambda: test_tower(nested)])
def test_power(check):
    with planted("score term scaled twice"), pytest.raises(AssertionError, match="biased"):
        check()
