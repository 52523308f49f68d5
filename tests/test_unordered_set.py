"""Sampling without replacement: unbiased, exact for small supports, lower in variance."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import Enumerate, ScoreFunction, UnorderedSet
from ppgen.errors import EstimatorError
from ppgen.estimators._unordered_set import _ratios
from ppgen.testing import assert_unbiased

pytestmark = pytest.mark.sweep(of=3)

THETA = np.array([0.6, -0.3], np.float32)
COSTS = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 0.3])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def logits(theta):
    return (
        jnp.array([0.2, -1.0, 0.7, 0.0, -2.0, 0.4])
        + theta[0] * np.arange(6) / 3
        + jnp.sin(theta[1] * np.arange(6))
    )


def categorical(theta, estimator):
    x = ppgen.draw(dist.Categorical(logits=logits(theta)), grad=estimator)
    return jnp.asarray(COSTS)[x] + theta[1] * x**2 / 5


@pytest.mark.parametrize("size", [2, 3, 5])
def test_categorical(size):
    assert_unbiased(categorical, THETA, UnorderedSet(size), samples=40_000)


def test_other_supports():
    def f(theta):
        p = jax.nn.sigmoid(theta[0])
        x = ppgen.draw(dist.Binomial(5, p), grad=UnorderedSet(3))
        probs = jax.nn.softmax(logits(theta))
        y = ppgen.draw(dist.Categorical(probs), grad=UnorderedSet(4))
        return jnp.sin(x) + jnp.cos(y) * theta[1] + 0.2 * x * y

    assert_unbiased(f, THETA, order=1, samples=20_000)


@pytest.mark.long
def test_plate_with_terms_that_mix_it():
    def f(theta):
        with numpyro.plate("n", 2):
            d = dist.Categorical(logits=jnp.stack([logits(theta), -logits(theta)]))
            x = numpyro.sample("x", d, infer={"grad": UnorderedSet(2)})
        return jnp.sum(jnp.asarray(COSTS)[x]) + (jnp.sum(x) - 5) ** 2 / 10

    assert_unbiased(f, THETA, samples=160_000)


def test_scan_and_cond():
    def f(theta):
        def step(x, t):
            d = dist.Categorical(logits=logits(theta) + x / 4)
            x = ppgen.draw(d, grad=UnorderedSet(2))
            return x, jnp.asarray(COSTS)[x] * t

        x, terms = jax.lax.scan(step, 0, jnp.array([1.0, 2.0]))
        return jnp.sum(terms) + jax.lax.cond(
            theta[0] > 0,
            lambda: ppgen.draw(dist.Categorical(logits=logits(theta) * x), grad=UnorderedSet(3)),
            lambda: x,
        )

    assert_unbiased(f, THETA, order=1, samples=20_000)


@pytest.mark.parametrize("size", [6, 9])
def test_the_whole_support_has_no_variance(size):
    """Then it is enumeration."""
    g, h = (
        jax.jit(jax.hessian(ppgen.expectation(lambda t, e=e: categorical(t, e)), 1))
        for e in (UnorderedSet(size), Enumerate())
    )
    theta = jnp.asarray(THETA, float)
    np.testing.assert_allclose(g(jax.random.key(3), theta), h(jax.random.key(4), theta), rtol=1e-12)


def by_permutations(q, subset, removed=()):
    """The probability to draw `subset` first, in any order, once `removed` has been."""
    total = 0.0
    for order in itertools.permutations(subset):
        p, left = 1.0, 1 - sum(q[list(removed)])
        for i in order:
            p, left = p * q[i] / left, left - q[i]
        total += p
    return total


def test_ratios_are_the_definition():
    q = np.random.default_rng(0).dirichlet(np.ones(7))
    chosen = (1, 3, 4, 6)
    others = np.delete(q, chosen).sum()
    ratio, second = _ratios(jnp.log(q[list(chosen)]), jnp.asarray(others))
    for i, s in enumerate(chosen):
        rest = [c for c in chosen if c != s]
        first = by_permutations(q, rest, [s])
        np.testing.assert_allclose(ratio[i], first / by_permutations(q, chosen), rtol=1e-9)
        assert second[i, i] == 1
        for j, t in enumerate(chosen):
            if t != s:
                expected = by_permutations(q, [c for c in rest if c != t], [s, t]) / first
                np.testing.assert_allclose(second[i, j], expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_sum_to_one_and_their_derivatives_to_zero(dtype):
    """At the largest size, for probabilities over many orders of magnitude, and of zero."""
    with jax.enable_x64(dtype == "float64"):
        keys = jax.random.split(jax.random.key(0), 50)
        many = (
            jax.random.normal(jax.random.key(1), (50, 30), dtype)
            * jnp.linspace(0, 60, 50, dtype=dtype)[:, None]
        )
        many = many.at[-1, 3:].set(-jnp.inf)

        @jax.jit
        @jax.vmap
        def weights(key, logits, direction):
            run = lambda x: UnorderedSet(10)(key, dist.Categorical(logits=x)).weight  # noqa: E731
            return jax.jvp(run, (logits,), (direction,))

        direction = jax.random.normal(jax.random.key(2), many.shape, dtype)
        value, slope = weights(keys, many, direction)
        tolerance = 5e-5 if dtype == "float32" else 1e-9
        assert value.dtype == dtype
        np.testing.assert_allclose(value.sum(-1), 1, rtol=tolerance)
        # Where a logit is -inf, JAX's derivative of the probabilities is not a number.
        slope = slope[:-1]
        scale = np.abs(slope).sum(axis=1) + 1
        np.testing.assert_array_less(np.abs(slope.sum(axis=1)), tolerance * scale)


def test_values_are_different_and_of_the_right_type():
    d = dist.Categorical(logits=jnp.zeros((2, 3, 8)))
    points = jax.jit(UnorderedSet(4))(jax.random.key(0), d)
    assert points.value.shape == points.weight.shape == (4, 2, 3)
    assert points.value.dtype == d.sample(jax.random.key(0)).dtype
    assert np.all(np.diff(np.sort(points.value, axis=0), axis=0) > 0)


def variance(f, theta, samples=3_000, **kwargs):
    g = jax.grad(ppgen.expectation(f, **kwargs), 1)
    keys = jax.random.split(jax.random.key(1), samples)
    return np.sum(np.var(jax.jit(jax.vmap(g, (0, None)))(keys, theta), axis=0))


def test_variance_is_below_that_of_as_many_draws():
    theta = jnp.asarray(THETA, float)
    ours = variance(lambda t: categorical(t, UnorderedSet(4)), theta)
    draws = variance(lambda t: categorical(t, ScoreFunction()), theta, draws=4)
    assert ours < 0.7 * draws


def test_misfit():
    for size, d, words in (
        (1, dist.Categorical(logits=jnp.zeros(3)), "from 2 to 10"),
        (11, dist.Categorical(logits=jnp.zeros(30)), "from 2 to 10"),
        (3, dist.Poisson(1.0), "no finite support"),
    ):
        f = ppgen.expectation(lambda d=d, k=size: 1.0 * ppgen.draw(d, grad=UnorderedSet(k)))
        with pytest.raises(EstimatorError, match=words):
            f(jax.random.key(0))


@pytest.mark.long
@pytest.mark.parametrize("bug", ["independent weights", "baseline of itself", "moving ratios"])
def test_planted_bugs_are_found(bug, monkeypatch):
    from ppgen.estimators import _unordered_set

    right = UnorderedSet.__call__

    def wrong(self, key, d):
        points = right(self, key, d)
        p = jnp.exp(d.log_prob(points.value))
        w = points.weight
        if bug == "independent weights":
            w = p / jnp.sum(p, axis=0)
        elif bug == "moving ratios":
            w = w * (p / jax.lax.stop_gradient(p))
        return eqx.tree_at(lambda x: x.weight, points, w)

    if bug == "baseline of itself":
        ratios = _unordered_set._ratios
        monkeypatch.setattr(
            _unordered_set,
            "_ratios",
            lambda *args: (lambda r, s: (r, jnp.broadcast_to(r, s.shape)))(*ratios(*args)),
        )
    else:
        monkeypatch.setattr(UnorderedSet, "__call__", wrong)
    with pytest.raises(AssertionError):
        assert_unbiased(categorical, THETA, UnorderedSet(3), order=1, samples=20_000)
