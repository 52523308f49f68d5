"""REBAR and RELAX: unbiased, lower in variance, tuned by their variance."""

from __future__ import annotations

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import REBAR, RELAX, ScoreFunction
from ppgen.errors import DiscontinuityError, EstimatorError
from ppgen.estimators import _rebar
from ppgen.testing import assert_unbiased

pytestmark = pytest.mark.sweep(of=3)

THETA = np.array([0.3, -0.8], np.float32)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


class Quadratic(eqx.Module):
    """A control function with parameters."""

    a: jax.Array

    def __call__(self, z):
        return jnp.sum(self.a[0] * z + self.a[1] * z**2)


REBARS = {
    "default": REBAR(),
    "cold": REBAR(temperature=0.2, scale=0.4),
    "arrays": REBAR(temperature=jnp.array(0.8), scale=jnp.array(1.3)),
}
RELAXES = {
    "module": RELAX(Quadratic(jnp.array([-0.4, 0.9]))),
    "function": RELAX(lambda z: jnp.sum(jnp.sin(z)), temperature=jnp.array(1.0)),
}
BOTH = REBARS | RELAXES


def scalar(theta, estimator):
    """One choice; its probability and the cost depend on the parameters."""
    b = ppgen.draw(dist.Bernoulli(logits=theta[0]), grad=estimator)
    return (b - 0.4 + theta[1]) ** 2 + jnp.sin(2 * b)


def scalar_exact(theta, _):
    p = jax.nn.sigmoid(theta[0])
    return sum(
        q * ((b - 0.4 + theta[1]) ** 2 + jnp.sin(2.0 * b)) for q, b in ((1 - p, 0.0), (p, 1.0))
    )


@pytest.mark.parametrize("name", BOTH)
def test_bernoulli(name):
    assert_unbiased(scalar, THETA, BOTH[name], exact=scalar_exact, samples=8_000)


def one_hot(theta, estimator):
    d = dist.Multinomial(1, logits=jnp.array([theta[0], theta[1], 0.5]))
    b = ppgen.draw(d, grad=estimator)
    return jnp.sin(b @ jnp.array([1.0, -2.0, 0.7]) + theta[1] * b[0]) ** 2


def one_hot_exact(theta, _):
    p = jax.nn.softmax(jnp.array([theta[0], theta[1], 0.5]))
    x = jnp.array([1.0, -2.0, 0.7]) + theta[1] * jnp.array([1.0, 0, 0])
    return p @ jnp.sin(x) ** 2


@pytest.mark.parametrize("name", ["default", "arrays", "module"])
def test_one_hot(name):
    assert_unbiased(one_hot, THETA, BOTH[name], exact=one_hot_exact, samples=20_000)


@pytest.mark.parametrize("kind", ["probs", "distrax logits", "distrax probs"])
def test_one_hot_by_other_names(kind):
    def f(theta):
        logits = jnp.array([theta[0], theta[1], 0.5])
        if kind == "probs":
            d = dist.Multinomial(1, jax.nn.softmax(logits))
        elif kind == "distrax probs":
            d = distrax.OneHotCategorical(probs=jax.nn.softmax(logits))
        else:
            d = distrax.OneHotCategorical(logits=logits + 3.0)
        b = ppgen.draw(d, grad=REBAR())
        return jnp.sin(b @ jnp.array([1.0, -2.0, 0.7]) + theta[1] * b[0]) ** 2

    assert_unbiased(f, THETA, exact=lambda t: one_hot_exact(t, 0), order=1, samples=8_000)


WEIGHTS = np.array([1.0, -0.5])


def plate(theta, estimator):
    """Elementwise and mixing terms at once."""
    with numpyro.plate("n", 2):
        logits = jnp.stack([theta[0], 0.5 - 2 * theta[0]])
        b = numpyro.sample("b", dist.Bernoulli(logits=logits), infer={"grad": estimator})
    return jnp.sum(jnp.cos(b) * theta[1]) + jnp.sum((b - 0.4) * WEIGHTS) ** 2


def plate_exact(theta, _):
    p = jax.nn.sigmoid(jnp.stack([theta[0], 0.5 - 2 * theta[0]]))
    total = 0.0
    for index in np.ndindex(2, 2):
        b = np.array(index, float)
        cost = jnp.sum(jnp.cos(b) * theta[1]) + jnp.sum((b - 0.4) * WEIGHTS) ** 2
        total += jnp.prod(jnp.where(b == 1, p, 1 - p)) * cost
    return total


@pytest.mark.parametrize(
    "estimator",
    [
        REBAR(),
        REBAR(scale=jnp.array([0.2, 0.6])),
        RELAXES["module"],
        RELAX(lambda z: jnp.sum((z - 0.4) * WEIGHTS) ** 2, joint=1),
    ],
    ids=["REBAR", "REBAR, a scale each", "RELAX", "RELAX, joint"],
)
def test_plate_with_a_cost_that_mixes_it(estimator):
    assert_unbiased(plate, THETA, estimator, exact=plate_exact, samples=60_000)


def test_elements_are_relaxed_together():
    """Three evaluations of a term that mixes the elements, whatever their number."""

    def f(theta, n):
        b = ppgen.draw(dist.Bernoulli(logits=theta * jnp.ones(n)), grad=REBAR())
        return jnp.sum(jnp.tanh(jnp.full((50, n), 0.1) @ b)) ** 2

    def dots(n):
        jaxpr = jax.make_jaxpr(lambda key, t: ppgen.expectation(f)(key, t, n))(
            jax.random.key(0), 0.3
        )
        return [e.outvars[0].aval.size for e in jaxpr.eqns if e.primitive.name == "dot_general"]

    assert 150 in dots(20) and max(dots(20)) == 150


def test_two_sites_in_a_scan_and_a_branch():
    """A chain, unrolled; and a choice in a taken branch."""

    def f(theta, estimator):
        def step(x, t):
            b = ppgen.draw(dist.Bernoulli(logits=theta[0] + 0.5 * x), grad=estimator)
            return x + b * theta[1], b**2 * t

        x, terms = jax.lax.scan(step, 0.0, jnp.array([1.0, 2.0]))

        def branch(x):
            return x + ppgen.draw(dist.Bernoulli(logits=theta[1]), grad=estimator) * 0.7

        return jnp.sin(x) + jnp.sum(terms) + jax.lax.cond(theta[0] > 0, branch, lambda x: x, x) ** 2

    def exact(theta, _):
        def bernoulli(logit):
            return zip((0.0, 1.0), (1 - jax.nn.sigmoid(logit), jax.nn.sigmoid(logit)), strict=True)

        return sum(
            p1
            * p2
            * p3
            * (jnp.sin((a + b) * theta[1]) + a + 2 * b + ((a + b) * theta[1] + 0.7 * c) ** 2)
            for a, p1 in bernoulli(theta[0])
            for b, p2 in bernoulli(theta[0] + 0.5 * a * theta[1])
            for c, p3 in bernoulli(theta[1])
        )

    for estimator in (REBAR(), RELAXES["module"]):
        assert_unbiased(f, THETA, estimator, exact=exact, order=1, samples=20_000)


def test_elbo_of_a_program():
    """Both densities are evaluated at relaxed values."""

    def f(theta):
        # NumPyro would say that a relaxed value is out of support.
        q = dist.Bernoulli(logits=theta, validate_args=False)
        b = numpyro.sample("b", q, infer={"grad": REBAR()})
        prior = dist.Bernoulli(0.2, validate_args=False)
        return prior.log_prob(b) + dist.Normal(2.0 * b, 1.0).log_prob(1.4) - q.log_prob(b)

    def exact(theta):
        p = jax.nn.sigmoid(theta)
        ratio = jnp.log(jnp.array([0.8, 0.2]) / jnp.array([1 - p, p]))
        loglik = dist.Normal(jnp.array([0.0, 2.0]), 1.0).log_prob(1.4)
        return jnp.array([1 - p, p]) @ (ratio + loglik)

    assert_unbiased(f, np.float32(0.3), exact=exact, order=1, samples=20_000)


def test_float32_under_jit_vmap_and_draws():
    with jax.enable_x64(False):
        g = jax.jit(jax.grad(ppgen.expectation(lambda t: scalar(t, REBAR()), draws=8), 1))
        keys = jax.random.split(jax.random.key(0), 3)
        many = jax.vmap(g, (0, None))(keys, THETA)
        assert many.dtype == jnp.float32
        np.testing.assert_allclose(many, jnp.stack([g(k, THETA) for k in keys]), rtol=1e-5)


@pytest.mark.parametrize("make", [dist.BernoulliLogits, dist.BernoulliProbs, "one-hot"])
@pytest.mark.parametrize("precision", [False, True])
def test_extreme_parameters_stay_finite(make, precision):
    with jax.enable_x64(precision):
        if make is dist.BernoulliProbs:
            theta = jnp.array([0.0, 1e-30, 1.0, 1 - 1e-7])
        else:
            theta = jnp.array(
                [-1e4, -jnp.inf, 1e4, jnp.inf, 60.0, 0.0][: 4 if make == "one-hot" else 6]
            )
            theta = theta.at[3].set(0.0) if make == "one-hot" else theta

        def f(theta):
            d = dist.Multinomial(1, logits=theta) if make == "one-hot" else make(theta)
            b = ppgen.draw(d, grad=REBAR(temperature=0.1))
            return jnp.sum((b - 0.3) ** 2 * jnp.arange(b.shape[0]))

        keys = jax.random.split(jax.random.key(0), 500)
        g = jax.jit(jax.vmap(jax.value_and_grad(ppgen.expectation(f), 1), (0, None)))
        assert all(np.all(np.isfinite(x)) for x in g(keys, theta)), g(keys, theta)


def variances(estimators, f, theta, samples=4_000):
    keys = jax.random.split(jax.random.key(1), samples)

    def variance(estimator):
        g = jax.grad(ppgen.expectation(lambda t: f(t, estimator)), 1)
        return np.sum(np.var(jax.jit(jax.vmap(g, (0, None)))(keys, theta), axis=0))

    return [variance(e) for e in estimators]


def test_variance_falls():
    """By two ways of using the same control, which agree; also for twenty elements at once."""

    def single(theta, estimator):
        return jnp.exp(ppgen.draw(dist.Bernoulli(logits=theta), grad=estimator))

    control = RELAX(jnp.exp, temperature=1.0)
    plain, rebar, relax = variances([ScoreFunction(0.0), REBAR(1.0), control], single, 0.2)
    assert rebar < 0.12 * plain
    np.testing.assert_allclose(rebar, relax, rtol=1e-6)

    def mixed(theta, estimator):
        b = ppgen.draw(dist.Bernoulli(logits=theta * jnp.ones(20)), grad=estimator)
        return (jnp.sum(b) - 7) ** 2 / 50 + jnp.sin(b[0])

    control = RELAX(lambda z: (jnp.sum(z) - 7) ** 2 / 50 + jnp.sin(z[0]), joint=1)
    plain, rebar, relax = variances([ScoreFunction(0.0), REBAR(), control], mixed, 0.2)
    assert rebar < 0.2 * plain
    # `sin(b[0])` is a term of its own, with scores of all elements in the control function only.
    assert relax < 0.2 * plain


@pytest.mark.parametrize("what", ["scale", "temperature", "control"])
def test_tuning_by_the_variance(what):
    """`grad` of the squared gradient estimates the derivative of the variance."""
    make = {
        "scale": lambda x: REBAR(scale=x),
        "temperature": lambda x: REBAR(temperature=x),
        "control": lambda x: RELAX(Quadratic(jnp.stack([x, 0.5 * x]))),
    }[what]
    g = ppgen.expectation(lambda t, x: scalar(t, make(x)))
    keys = jax.random.split(jax.random.key(2), 10_000)

    def square(key, x):
        return jnp.sum(jax.grad(g, 1)(key, jnp.asarray(THETA, float), x) ** 2)

    @jax.jit
    def mean_square(x):  # the mean of the gradient does not depend on x: this is the variance
        return jnp.mean(jax.vmap(square, (0, None))(keys, x))

    x, h = jnp.array(0.6), 1e-4
    estimates = jax.jit(jax.vmap(jax.grad(square, 1), (0, None)))(keys, x)
    finite = (mean_square(x + h) - mean_square(x - h)) / (2 * h)
    # The same keys on both sides: rounding is all that differs.
    np.testing.assert_allclose(jnp.mean(estimates), finite, rtol=1e-4)
    # And far from zero, by its standard error.
    assert abs(finite) > 5 * jnp.std(estimates) / np.sqrt(len(keys))
    # It does not move the mean.
    moved = jax.vmap(jax.grad(g, 2), (0, None, None))(keys, jnp.asarray(THETA, float), x)
    assert abs(jnp.mean(moved)) < 5 * jnp.std(moved) / np.sqrt(len(keys)) + 1e-12


def test_relaxed_value_at_something_discontinuous():
    for f in (
        lambda b: jnp.floor(b),
        lambda b: (b > 0.5).astype(float),
        lambda b: jnp.array([1.0, 2.0])[b.astype(int)],
        lambda b: jax.lax.cond(b > 0.5, jnp.sin, jnp.cos, b),
    ):
        g = ppgen.expectation(lambda p, f=f: f(ppgen.draw(dist.Bernoulli(p), grad=REBAR())))
        with pytest.raises(DiscontinuityError, match="draw at test_rebar.py"):
            g(jax.random.key(0), 0.3)


def test_misfit_says_what_fits():
    for d, words in (
        (dist.Categorical(logits=jnp.zeros(3)), "one-hot"),
        (dist.Multinomial(3, jnp.ones(3) / 3), "total_count of one"),
        (dist.Poisson(1.0), "Bernoulli and Multinomial"),
    ):
        for estimator in (REBAR(), RELAXES["module"]):
            with pytest.raises(EstimatorError, match=words):
                ppgen.expectation(lambda d=d, e=estimator: 1.0 * jnp.sum(ppgen.draw(d, grad=e)))(
                    jax.random.key(0)
                )
    assert RELAX(jnp.sin, joint=1).misfit(dist.Bernoulli(0.2)) is not None
    with pytest.raises(ValueError, match="scalar"):
        RELAX(lambda z: z)(jax.random.key(0), dist.Multinomial(1, jnp.ones(3) / 3))


def test_control_function_may_close_over_traced_arrays():
    def f(theta):
        scale = theta[1] * 2
        return scalar(theta, RELAX(lambda z: scale * z))

    assert_unbiased(f, THETA, exact=lambda t: scalar_exact(t, 0), order=1, samples=8_000)


@pytest.mark.long
@pytest.mark.parametrize("bug", ["sign", "score", "derivative", "mean"])
def test_planted_bugs_are_found(bug, monkeypatch):
    right = REBAR.__call__

    def wrong(self, key, d):
        points = right(self, key, d)
        if bug == "sign":
            return eqx.tree_at(lambda p: p.weight, points, points.weight.at[2].multiply(-1))
        if bug == "score":
            return eqx.tree_at(lambda p: p.score, points, points.score.at[2].set(0.0))
        return eqx.tree_at(
            lambda p: p.value,
            points,
            points.value.at[2].set(jax.lax.stop_gradient(points.value[2])),
        )

    if bug == "mean":
        from ppgen._evaluation import make_choice as _points

        def unshared(weight, score, joint):
            return weight.mean(1, keepdims=True) * _points.magic_box(score.mean(1, keepdims=True))

        monkeypatch.setattr(_points, "_scored", unshared)
        with pytest.raises(AssertionError):
            assert_unbiased(
                plate, np.array([0.6, 1.2]), REBAR(), exact=plate_exact, order=1, samples=20_000
            )
        return
    monkeypatch.setattr(_rebar.REBAR, "__call__", wrong)
    with pytest.raises(AssertionError):
        assert_unbiased(scalar, THETA, REBAR(), exact=scalar_exact, order=1, samples=8_000)
