"""ARM and DisARM against exact derivatives, each other, and the score function."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.nn import sigmoid

import ppgen
from ppgen.distrax import from_distrax
from ppgen.errors import DerivativeError
from ppgen.estimators import ARM, DisARM, MeasureValued, ScoreFunction
from ppgen.testing import assert_unbiased

pytestmark = pytest.mark.sweep(of=3)

BOTH = pytest.mark.parametrize("estimator", [DisARM(), ARM()], ids=["disarm", "arm"])
LOGITS = jnp.array([-1.5, -0.2, 0.4, 2.0])


class Wrong(DisARM):
    """Without the sign `(-1)^b'`: as if the sample were always a one."""

    def __call__(self, key, dist):
        points = super().__call__(key, dist)
        a = jnp.where(points.value[0] == 1, points.weight[1], -points.weight[1])
        return type(points)(points.value, weight=jnp.stack([1 - a, a]))


def total(b):
    """Elementwise terms, and one that mixes."""
    return jnp.sum((b - 0.499) ** 2) + 0.5 * jnp.prod(b + 0.3) + 0.1 * jnp.sum(b) ** 2


def flips(estimator):
    def f(theta):
        return total(ppgen.draw(dist.Bernoulli(logits=LOGITS * theta), name="b", grad=estimator))

    return f


def slopes(f, args, n, key=0):
    """Many estimates of the gradient."""
    g = jax.grad(ppgen.expectation(f), argnums=1)
    keys = jax.random.split(jax.random.key(key), n)
    return np.asarray(jax.jit(jax.vmap(g, (0, None)))(keys, args))


def closed_form(logits, u, formula):
    """The estimators of the papers, of all logits, for a cost of all elements."""
    p = sigmoid(logits)
    b, other = 1.0 * (u < p), 1.0 * (1 - u < p)
    gap = total(b) - total(other)
    if formula == "ARM":
        return gap * (0.5 - u)
    return 0.5 * gap * (-1.0) ** other * (b != other) * sigmoid(jnp.abs(logits))


@BOTH
def test_is_the_formula_of_the_paper(estimator):
    """The same number, draw by draw, where the cost mixes all elements."""
    name = type(estimator).__name__
    for seed in range(3):
        key = jax.random.key(seed)
        u = jax.random.uniform(key, (4,))

        def surrogate(logits, key=key):
            points = estimator(key, dist.Bernoulli(logits=logits))
            weight = 1 + jnp.sum(points.weight - jnp.array([[1.0], [0.0]]), axis=1)
            weight = weight - jnp.array([0.0, 1.0])
            return weight[0] * total(points.value[0]) + weight[1] * total(points.value[1])

        value, slope = jax.jit(jax.value_and_grad(surrogate))(LOGITS)
        np.testing.assert_allclose(value, total(1.0 * (u < sigmoid(LOGITS))), rtol=1e-6)
        np.testing.assert_allclose(slope, closed_form(LOGITS, u, name), rtol=1e-5, atol=1e-7)


@BOTH
@pytest.mark.parametrize("x64", [False, True])
def test_unbiased(estimator, x64):
    """Elementwise and mixing terms, of logits, in either precision."""
    with jax.enable_x64(x64):
        assert_unbiased(flips(estimator), jnp.linspace(0.6, 1.2, 4), order=1, samples=20_000)


@pytest.mark.long
def test_planted_bug_is_found():
    """A wrong sign at one of the two outcomes."""
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(flips(Wrong()), jnp.linspace(0.6, 1.2, 4), order=1, samples=10_000)


@BOTH
@pytest.mark.parametrize("family", ["probs", "distrax"])
def test_other_parameters(estimator, family):
    """Probabilities, whatever they come from, and Distrax."""

    def f(theta):
        p = theta**2
        d = (
            dist.Bernoulli(probs=p)
            if family == "probs"
            else from_distrax(distrax.Bernoulli(probs=p))
        )
        b = ppgen.draw(d, name="b", grad=estimator)
        return jnp.sum(jnp.array([1.0, -2.0, 0.5]) * b) ** 2

    assert_unbiased(f, jnp.array([0.4, 0.6, 0.9]), order=1, samples=20_000)


@BOTH
def test_certain_flips(estimator):
    """At the ends of the range a coin does not flip, and nothing is NaN."""
    p = jnp.array([0.0, 1.0, 1e-42, 0.5])
    points = estimator(jax.random.key(0), dist.Bernoulli(p))
    np.testing.assert_array_equal(points.value[:, :3], [[0, 1, 0]] * 2)
    assert points.value[0, 3] != points.value[1, 3]
    weights = jax.jacobian(lambda p: estimator(jax.random.key(0), dist.Bernoulli(p)).weight)
    assert np.all(np.isfinite(jax.jit(weights)(p)))
    logits = jnp.array([-200.0, 200.0, 0.0])
    weights = jax.jacobian(lambda x: estimator(jax.random.key(0), dist.Bernoulli(logits=x)).weight)
    assert np.all(np.isfinite(jax.jit(weights)(logits)))


@BOTH
def test_uniforms_at_the_ends(estimator, monkeypatch):
    """A uniform variable can be zero: coins with p = 0 and p = 1 stay as they are."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.zeros(shape, dtype))
    points = estimator(jax.random.key(0), dist.Bernoulli(jnp.array([0.0, 1.0])))
    np.testing.assert_array_equal(points.value, [[0, 1]] * 2)


def test_variance():
    """DisARM below ARM below the plain score function, on the toy cost with a mixing term."""
    theta = jnp.linspace(0.6, 1.2, 4)
    plain = ScoreFunction(baseline=0.0)
    variance = {
        type(e).__name__: slopes(flips(e), theta, 4000).var(axis=0).sum()
        for e in (DisARM(), ARM(), plain)
    }
    assert 1.2 * variance["DisARM"] < variance["ARM"]
    assert 1.2 * variance["ARM"] < variance["ScoreFunction"]


def chain(estimators, network=lambda x: jnp.sum(jnp.sin(x)) ** 2, size=2):
    """Sites in sequence, each from all elements of the one before; the cost takes the last."""

    def f(theta):
        x, cost = jnp.ones(size), 0.0
        for i, estimator in enumerate(estimators):
            logits = theta * jnp.linspace(-1.0, 1.0, size) + 0.5 * jnp.mean(x)
            x = 1.0 * ppgen.draw(dist.Bernoulli(logits=logits), name=f"x{i}", grad=estimator)
            cost = cost + 0.1 * x[0]
        return cost + network(x)

    return f


@pytest.mark.parametrize(
    "estimators", [[DisARM(), ARM(), DisARM()], [MeasureValued(), DisARM(), ScoreFunction()]]
)
def test_sites_in_sequence(estimators):
    """Several sites, also with other estimators between them."""
    assert_unbiased(chain(estimators), 0.8, order=1, samples=30_000)


def flops(f):
    compiled = jax.jit(jax.grad(ppgen.expectation(f), 1)).lower(jax.random.key(0), 0.8).compile()
    return compiled.cost_analysis()["flops"]


@BOTH
def test_evaluations(estimator):
    """Two for one site of 20 elements that a cost mixes, and `1 + k` for `k` sites."""
    a, b = jax.random.normal(jax.random.key(1), (2, 128, 128))

    def network(x):
        return jnp.sum(jnp.tanh(b @ jnp.tanh(a[:, :20] @ x)))

    def cost(n, e):
        return flops(chain([e] * n, network, 20))

    once = cost(1, ScoreFunction())
    assert once > 2 * 128**2
    assert 1.8 * once < cost(1, estimator) < 2.2 * once
    assert 3.6 * once < cost(3, estimator) < 4.4 * once


@BOTH
def test_control_flow(estimator):
    """In a scan, in a branch, and under `vmap`."""

    def f(theta):
        def step(x, a):
            b = ppgen.draw(dist.Bernoulli(logits=theta[:2] * a + x), name="z", grad=estimator)
            return jnp.sum(b) * 0.5, jnp.prod(b + 0.5)

        x, costs = jax.lax.scan(step, 0.0, jnp.array([1.0, -0.5]))
        y = jax.lax.cond(
            x > 0.4,
            lambda t: ppgen.draw(dist.Bernoulli(logits=t), name="y", grad=estimator) * 2.0,
            lambda t: jnp.sin(t),
            theta[2],
        )
        lanes = jax.vmap(
            lambda t: ppgen.draw(dist.Bernoulli(logits=t), name="l", grad=estimator) * t
        )(theta[:2])
        return jnp.sum(costs) * y + jnp.sum(lanes) ** 2

    assert_unbiased(f, jnp.array([0.8, -0.6, 0.5]), order=1, samples=30_000)


@BOTH
def test_draws_and_plates(estimator):
    """With several draws, in a program with a plate that the cost mixes along one axis only."""

    def f(theta):
        with numpyro.plate("N", 3, dim=-2), numpyro.plate("M", 2, dim=-1):
            b = numpyro.sample("b", dist.Bernoulli(logits=theta[0]), infer={"grad": estimator})
        return jnp.sum(jnp.prod(b + theta[1], axis=1) ** 2)

    def exact(theta):
        p = sigmoid(theta[0])
        return 3 * (p * (1 + theta[1]) ** 2 + (1 - p) * theta[1] ** 2) ** 2

    assert_unbiased(f, jnp.array([0.4, 0.7]), order=1, exact=exact, samples=4000, draws=3)


@BOTH
def test_second_derivative_raises(estimator):
    """A second derivative is refused, with a way out."""
    g = ppgen.expectation(flips(estimator))
    with pytest.raises(DerivativeError, match="first order") as error:
        jax.hessian(g, argnums=1)(jax.random.key(0), jnp.ones(4))
    assert "ScoreFunction()" in str(error.value)


@BOTH
def test_misfit(estimator):
    """Only coin flips; the error names the family and the class."""

    class Fair(dist.BernoulliProbs):
        pass

    name = type(estimator).__name__
    for d in (dist.Categorical(jnp.ones(2) / 2), dist.Normal(), Fair(0.5)):
        assert estimator.misfit(d) == f"{name}() is for Bernoulli, not for {type(d).__name__}"
    for d in (dist.Bernoulli(0.3), dist.Bernoulli(logits=0).expand([2])):
        assert estimator.misfit(d) is None
        points = estimator(jax.random.key(0), d)
        assert points.value.dtype == d.sample(jax.random.key(0)).dtype
        assert points.weight.shape == points.value.shape == (2, *d.batch_shape)
