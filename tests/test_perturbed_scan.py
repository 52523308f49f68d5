"""First-order estimators inside of scan: right, and of a size independent of its length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen._staging.primitives import equations
from ppgen.errors import PpgenError
from ppgen.testing import assert_unbiased, exact

pytestmark = pytest.mark.sweep(of=3)

KEY = jax.random.key(0)
THETA = jnp.array([0.6, -0.4])


def walk(estimator, length=3, family="flip", shape=()):
    """What is carried depends on all choices so far, and so do the costs."""

    def f(theta):
        def step(c, t):
            if family == "flip":
                d = dist.Bernoulli(logits=theta[0] * c + theta[1])
            elif family == "kinds":
                d = dist.Categorical(logits=jnp.stack([theta[0] * c, theta[1], 0.1 * t]))
            else:
                d = dist.Normal(theta[0] * c, jnp.exp(0.3 * theta[1]))
            x = ppgen.draw(d.expand(shape) if shape else d, name="x", grad=estimator)
            c = 0.5 * c + jnp.sum(x) - 0.3
            return c, jnp.sin(c) * jnp.mean(x)

        c, costs = jax.lax.scan(step, 0.2, jnp.arange(float(length)))
        return jnp.sum(costs) + 0.3 * c**2

    return f


ESTIMATORS = {
    "measure-valued": ppgen.MeasureValued(),
    "pruned": ppgen.MeasureValued(prune=True),
    "DisARM": ppgen.DisARM(),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_flips(name):
    f = walk(ESTIMATORS[name])
    assert_unbiased(f, THETA, order=1, exact=exact(f), samples=20_000)


@pytest.mark.parametrize("family", ["kinds", "normal"])
@pytest.mark.parametrize("name", ["measure-valued", "pruned"])
def test_families(family, name):
    f = walk(ESTIMATORS[name], family=family, length=2)
    assert_unbiased(f, THETA, order=1, exact=exact(f), samples=40_000, detect=0.3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_several_elements_in_a_step(name):
    f = walk(ESTIMATORS[name], length=2, shape=(2,))
    assert_unbiased(f, THETA, order=1, exact=exact(f), samples=20_000)


def test_independent_steps_are_perturbed_all_at_once():
    def f(theta):
        def step(_, t):
            b = ppgen.draw(dist.Bernoulli(logits=theta[0] * t), grad=ppgen.MeasureValued())
            return None, jnp.sin(theta[1] + 2.0 * b) * (1 + t)

        return jnp.sum(jax.lax.scan(step, None, jnp.arange(50.0))[1])

    g = ppgen.expectation(f)
    lanes = [
        v.aval.shape[0]
        for e in equations(jax.make_jaxpr(g)(KEY, THETA))
        if e.primitive.name == "scan"
        for v in e.outvars
        if len(v.aval.shape) == 2
    ]
    assert 50 in lanes and 2 * 50 not in lanes
    # A flip has no variance left, given the other choices.
    p = jax.nn.sigmoid(THETA[0] * jnp.arange(50.0))
    jump = (jnp.sin(THETA[1] + 2.0) - jnp.sin(THETA[1])) * (1 + jnp.arange(50.0))
    expected = jnp.sum(p * (1 - p) * jnp.arange(50.0) * jump)
    np.testing.assert_allclose(jax.grad(g, 1)(KEY, THETA)[0], expected, rtol=1e-4)


@pytest.mark.long
def test_choices_of_other_kinds_around_and_in_the_loop():
    def f(theta):
        k = ppgen.draw(dist.Bernoulli(logits=theta[1]), grad=ppgen.Enumerate())
        first = ppgen.draw(dist.Bernoulli(logits=theta[0]), grad=ppgen.MeasureValued())

        def step(c, t):
            b = ppgen.draw(dist.Bernoulli(logits=theta[0] * c), grad=ppgen.MeasureValued())
            s = ppgen.draw(dist.Bernoulli(logits=theta[1] - b), grad=ppgen.ScoreFunction())
            x = ppgen.draw(dist.Normal(theta[0], 0.1))
            return 0.5 * c + b + s * k, jnp.sin(c + x) * (1 + s)

        c, costs = jax.lax.scan(step, first * 1.0, jnp.arange(2.0))
        after = ppgen.draw(dist.Bernoulli(logits=c), grad=ppgen.MeasureValued())
        return jnp.sum(costs) + after * c

    assert_unbiased(f, THETA, order=1, exact=exact(f), samples=40_000, detect=0.3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_compiled_size_does_not_depend_on_the_length(name):
    def size(length):
        g = jax.grad(ppgen.expectation(walk(ESTIMATORS[name], length)), 1)
        return sum(1 for _ in equations(jax.make_jaxpr(g)(KEY, THETA)))

    assert size(7) == size(200)


def lanes(estimator, length):
    jaxpr = jax.make_jaxpr(ppgen.expectation(walk(estimator, length)))(KEY, THETA)
    (loop,) = (e for e in equations(jaxpr) if e.primitive.name == "scan")
    return loop.outvars[0].aval.shape[0]


def test_a_pruned_estimator_runs_the_loop_twice():
    assert lanes(ppgen.MeasureValued(), 40) == 41
    assert lanes(ppgen.MeasureValued(prune=True), 40) == 2


def test_the_variance_of_a_long_loop_is_far_below_that_of_the_score_function():
    f = walk(ppgen.MeasureValued(), 200)
    g = jax.jit(jax.vmap(jax.grad(ppgen.expectation(f), 1), (0, None)))
    slopes = g(jax.random.split(KEY, 40), THETA)
    f = walk(ppgen.ScoreFunction(), 200)
    g = jax.jit(jax.vmap(jax.grad(ppgen.expectation(f), 1), (0, None)))
    scores = g(jax.random.split(KEY, 40), THETA)
    assert jnp.all(10 * slopes.var(0) < scores.var(0))


def test_too_many_lanes_are_refused():
    with pytest.raises(PpgenError, match="(?s)evaluate the scan 2,000,000 times.*prune=True"):
        f = walk(ppgen.MeasureValued(), 2_000_000)
        jax.eval_shape(ppgen.expectation(f), KEY, THETA)
