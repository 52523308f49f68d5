"""Straight-through and Gumbel-softmax: biased, by as much as theory says."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.distrax import from_distrax
from ppgen.errors import BiasedEstimatorError
from ppgen.estimators import GumbelSoftmax, StraightThrough
from ppgen.testing import assert_unbiased

pytestmark = pytest.mark.sweep(of=3)

KEY = jax.random.key(0)
PROBS = jnp.array([0.2, 0.5, 0.3])
ESTIMATORS = {
    "straight through": StraightThrough(),
    "soft": GumbelSoftmax(0.5),
    "hard": GumbelSoftmax(temperature=0.5, hard=True),
}
ONE_HOT = {
    "probs": lambda p: dist.Multinomial(1, probs=p),
    "logits": lambda p: dist.Multinomial(1, logits=jnp.log(p)),
    "distrax": lambda p: from_distrax(distrax.OneHotCategorical(probs=p)),
}


def mean_gradient(f, theta, n=4000):
    g = jax.grad(ppgen.expectation(f, draws=n, allow_biased=True), argnums=1)
    return jax.jit(g)(KEY, theta)


def test_straight_through_is_exact_for_linear_costs():
    def f(t):
        b = ppgen.draw(dist.Bernoulli(t), grad=StraightThrough())
        return 3 * b + t**2

    g = ppgen.expectation(f, allow_biased=True)
    np.testing.assert_allclose(jax.grad(g, argnums=1)(KEY, 0.3), 3.6, rtol=1e-6)
    exact = lambda t: 3 * t + t**2  # noqa: E731
    assert_unbiased(f, jnp.array(0.3), order=1, exact=exact, samples=4000, allow_biased=True)


def test_straight_through_of_a_quadratic_has_the_known_bias():
    """The derivative of E[(b - c)^2] is 1 - 2c; straight-through has E[2 (b - c)] = 2p - 2c."""

    def f(t):
        return (ppgen.draw(dist.Bernoulli(t), grad=StraightThrough()) - 0.4) ** 2

    np.testing.assert_allclose(mean_gradient(f, 0.3), 2 * 0.3 - 0.8, atol=0.05)
    with pytest.raises(AssertionError, match="biased"):
        exact = lambda t: t * 0.36 + (1 - t) * 0.16  # noqa: E731
        assert_unbiased(f, jnp.array(0.3), order=1, exact=exact, samples=4000, allow_biased=True)


@pytest.mark.parametrize("make", ONE_HOT.values(), ids=ONE_HOT)
def test_one_hot(make):
    """Values and derivatives of every relaxation, expanded and in either precision."""
    for x64 in (False, True):
        with jax.enable_x64(x64):
            p = jnp.asarray(PROBS, float)
            for name, estimator in ESTIMATORS.items():
                d = make(p).expand((2000,))
                assert estimator.misfit(d) is None
                x = jax.jit(estimator)(KEY, d).value
                assert x.shape == (2000, 3) and x.dtype == jnp.result_type(float)
                np.testing.assert_allclose(x.sum(-1), 1, rtol=1e-5)
                if name != "soft":
                    assert set(np.unique(x)) == {0.0, 1.0}
                    np.testing.assert_allclose(x.mean(0), PROBS, atol=0.05)
            jacobian = jax.jacobian(lambda p: StraightThrough()(KEY, make(p)).value)(p)
            moved = jax.jvp(lambda p: StraightThrough()(KEY, make(p)).value, (p,),
                            (jnp.array([0.1, -0.1, 0.0]),))[1]  # fmt: skip
            assert jacobian.shape == (3, 3)
            np.testing.assert_allclose(moved, [0.1, -0.1, 0.0], atol=1e-6)


def test_soft_samples_are_concrete():
    """The distribution of NumPyro's `RelaxedBernoulli`; more logit, more of it."""
    d = dist.Bernoulli(logits=0.4)
    x = GumbelSoftmax(0.7)(KEY, d.expand((20_000,))).value
    theirs = dist.RelaxedBernoulliLogits(0.7, 0.4).sample(jax.random.key(1), (20_000,))
    levels = np.array([0.05, 0.3, 0.5, 0.7, 0.95])
    np.testing.assert_allclose(np.quantile(x, levels), np.quantile(theirs, levels), atol=0.02)

    def value(logits):
        return GumbelSoftmax(0.7)(KEY, dist.Bernoulli(logits=logits)).value

    y, slope = jax.value_and_grad(value)(0.4)
    np.testing.assert_allclose(slope, y * (1 - y) / 0.7, rtol=1e-5)
    # A planted bug, which the same comparison finds: the logits without noise of the right scale.
    wrong = jax.nn.sigmoid((0.4 + jax.random.gumbel(KEY, (20_000,))) / 0.7)
    assert np.max(abs(np.quantile(wrong, levels) - np.quantile(theirs, levels))) > 0.05


@pytest.mark.parametrize("d", [dist.Bernoulli(0.3), dist.Multinomial(1, probs=PROBS)])
def test_limit_of_temperature_zero(d):
    """It becomes the sample that the hard variant has; the temperature may be traced."""
    d = d.expand((500,))
    cold = jax.jit(lambda t: GumbelSoftmax(t)(KEY, d).value)(jnp.array(1e-4))
    hard = GumbelSoftmax(0.5, hard=True)(KEY, d).value
    assert np.mean(abs(np.asarray(cold - hard)) < 1e-3) > 0.99
    soft = jax.jit(lambda t: GumbelSoftmax(t)(KEY, d).value)(jnp.array(1.0))
    assert np.mean(abs(np.asarray(soft - hard)) < 1e-3) < 0.1


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_only_if_bias_is_allowed(estimator):
    def f(t):
        return numpyro.sample("b", dist.Bernoulli(t), infer={"grad": estimator}) ** 2

    with pytest.raises(BiasedEstimatorError, match="allow_biased=True"):
        ppgen.expectation(f)(KEY, 0.3)
    assert jnp.isfinite(jax.grad(ppgen.expectation(f, allow_biased=True), argnums=1)(KEY, 0.3))


def test_what_does_not_fit():
    for estimator in ESTIMATORS.values():
        assert "one-hot" in estimator.misfit(dist.Categorical(PROBS))
        assert "one-hot" in estimator.misfit(dist.Categorical(logits=PROBS).expand((2,)))
        for d in (dist.Normal(), dist.Poisson(1.0), dist.Multinomial(2, probs=PROBS)):
            assert "cannot be relaxed" in estimator.misfit(d)


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_programs(estimator):
    """`seed`, `simulate`, `log_density`; a plate, a scan and a cost that mixes elements."""
    soft = estimator is ESTIMATORS["soft"]

    def program(t):
        with numpyro.plate("N", 3):
            # Validated, NumPyro's density is zero between zero and one.
            d = dist.Bernoulli(t, validate_args=False if soft else None)
            return numpyro.sample("b", d, infer={"grad": estimator})

    value = ppgen.seed(program)(KEY, 0.3)
    assert value.dtype == jnp.float32 and value.shape == (3,)
    if not soft:
        assert set(np.unique(value)) <= {0.0, 1.0}

    def density(t):
        trace = ppgen.simulate(program)(t)
        return trace.log_density, (trace["b"], ppgen.log_density(program)(trace.choices, t))

    total, (b, again) = ppgen.seed(density)(KEY, 0.3)
    np.testing.assert_allclose(total, again, rtol=1e-6)
    wanted = jnp.sum(b * jnp.log(0.3) + (1 - b) * jnp.log(0.7))
    np.testing.assert_allclose(total, wanted, rtol=1e-5)

    def f(t):
        def step(total, scale):
            return total + scale * jnp.sum(program(t)) ** 2, None

        return jax.lax.scan(step, 0.0, jnp.array([1.0, 0.5]))[0]

    assert mean_gradient(f, 0.3, 50) > 0
