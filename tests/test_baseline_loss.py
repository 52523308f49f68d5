"""Baselines that are trained along: their loss, its gradient, and what they do to the variance."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen.errors import EstimatorError
from ppgen.testing import assert_unbiased, exact

KEY = jax.random.key(0)


def plates(theta, phi):
    """Two plates; the costs of the second choice are one for each element."""
    with numpyro.plate("N", 3):
        first = ppgen.ScoreFunction(baseline=phi[0])
        a = numpyro.sample("a", dist.Bernoulli(logits=theta[0]), infer={"grad": first})
        second = ppgen.ScoreFunction(baseline=phi[1] * a + phi[2])
        b = numpyro.sample("b", dist.Bernoulli(logits=theta[1] + a), infer={"grad": second})
    return jnp.sum(jnp.sin(a + 2.0 * b)) + jnp.sum(a) * 0.5 + 3.0


def test_the_loss_is_the_squared_error_of_the_costs_that_each_choice_influences():
    theta, phi = jnp.array([0.3, -0.2]), jnp.array([0.4, 0.1, -0.3])

    def both(theta):
        with numpyro.plate("N", 3):
            a = numpyro.sample("a", dist.Bernoulli(logits=theta[0]), infer=SCORE)
            b = numpyro.sample("b", dist.Bernoulli(logits=theta[1] + a), infer=SCORE)
        return jnp.sum(jnp.sin(a + 2.0 * b)) + jnp.sum(a) * 0.5 + 3.0, (a, b)

    _, (a, b) = ppgen.expectation(both, has_aux=True)(KEY, theta)
    downstream = jnp.sin(a + 2.0 * b)
    expected = jnp.sum((downstream + 0.5 * a - phi[0]) ** 2)
    expected += jnp.sum((downstream - phi[1] * a - phi[2]) ** 2)
    np.testing.assert_allclose(ppgen.baseline_loss(plates)(KEY, theta, phi), expected, rtol=1e-5)


SCORE = {"grad": ppgen.ScoreFunction(baseline=0.0)}


def test_the_two_gradients_are_kept_apart():
    theta, phi = jnp.array([0.3, -0.2]), jnp.array([0.4, 0.1, -0.3])
    by_baseline = jax.grad(ppgen.expectation(plates), 2)(KEY, theta, phi)
    assert jnp.all(by_baseline == 0)
    assert jnp.all(jax.grad(ppgen.baseline_loss(plates), 2)(KEY, theta, phi) != 0)
    f = lambda theta: plates(theta, phi)  # noqa: E731
    assert_unbiased(f, theta, order=2, exact=exact(f), samples=60_000, detect=0.5)


def test_training_finds_the_conditional_expectation():
    # The costs of `b` given `a` have these means.
    theta = jnp.array([0.3, -0.2])
    loss = jax.jit(jax.value_and_grad(ppgen.baseline_loss(plates, draws=64), 2))
    phi, optimiser = jnp.zeros(3), optax.adam(optax.exponential_decay(0.1, 200, 0.3))
    state = optimiser.init(phi)
    for key in jax.random.split(KEY, 600):
        _, slope = loss(key, theta, phi)
        updates, state = optimiser.update(slope, state)
        phi = optax.apply_updates(phi, updates)
    p = jax.nn.sigmoid(theta[1] + jnp.arange(2.0))
    means = p * jnp.sin(jnp.arange(2.0) + 2.0) + (1 - p) * jnp.sin(jnp.arange(2.0))
    np.testing.assert_allclose([phi[2], phi[1] + phi[2]], means, atol=0.05)


def test_a_trained_network_lowers_the_variance():
    x = jnp.linspace(-2.0, 2.0, 8)

    def f(theta, net):
        baseline = ppgen.ScoreFunction(baseline=jax.vmap(net)(x[:, None])[:, 0])
        with numpyro.plate("N", 8):
            b = numpyro.sample("b", dist.Bernoulli(logits=theta * x), infer={"grad": baseline})
        return jnp.sum(10.0 * jnp.cos(x) + b)

    def spread(net):
        g = jax.grad(ppgen.expectation(f), 1)
        return jax.vmap(g, (0, None, None))(jax.random.split(KEY, 2000), 0.5, net).var()

    net = eqx.nn.MLP(1, 1, 16, 1, key=KEY)
    moving, still = eqx.partition(net, eqx.is_inexact_array)
    optimiser = optax.adam(0.02)
    state = optimiser.init(moving)

    @jax.jit
    def step(moving, state, key):
        loss = ppgen.baseline_loss(f, draws=8)
        slope = jax.grad(lambda m: loss(key, 0.5, eqx.combine(m, still)))(moving)
        updates, state = optimiser.update(slope, state)
        return optax.apply_updates(moving, updates), state

    before = spread(net)
    for key in jax.random.split(KEY, 400):
        moving, state = step(moving, state, key)
    assert spread(eqx.combine(moving, still)) < 0.05 * before


def test_in_a_loop():
    def f(theta, phi):
        def step(c, t):
            estimator = ppgen.ScoreFunction(baseline=phi * t)
            b = ppgen.draw(dist.Bernoulli(logits=theta * c), grad=estimator)
            return 0.5 * c + b, (jnp.sin(c + b), b)

        _, (costs, b) = jax.lax.scan(step, 0.2, jnp.arange(4.0))
        return jnp.sum(costs), costs

    _, costs = ppgen.expectation(f, has_aux=True)(KEY, 0.4, 0.3)
    to_go = jnp.cumsum(costs[::-1])[::-1]
    expected = jnp.sum((to_go - 0.3 * jnp.arange(4.0)) ** 2)
    loss = ppgen.baseline_loss(f, has_aux=True)(KEY, 0.4, 0.3)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_nothing_to_train_is_said():
    with pytest.raises(EstimatorError, match="no choice has a baseline"):
        ppgen.baseline_loss(lambda p: ppgen.draw(dist.Bernoulli(p)) * 1.0)(KEY, 0.3)


def test_a_branch_is_refused():
    def f(theta, phi):
        def flip():
            estimator = ppgen.ScoreFunction(baseline=phi)
            return ppgen.draw(dist.Bernoulli(logits=theta), name="b", grad=estimator) * 1.0

        return jax.lax.cond(theta > 0, flip, lambda: 0.0)

    with pytest.raises(EstimatorError, match="b"):
        ppgen.baseline_loss(f)(KEY, 0.3, 0.1)
