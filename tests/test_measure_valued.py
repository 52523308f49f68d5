"""Measure-valued derivatives against the exact derivative of an expectation."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import OrderedTransform

from ppgen._errors import DerivativeError
from ppgen.estimators import MeasureValued, Points

ESTIMATOR = MeasureValued()


@pytest.fixture(autouse=True)
def x64():
    """An exact oracle needs double precision."""
    with jax.enable_x64(True):
        yield


def estimate(make, f, theta, key):
    """The derivative by `theta` of the weighted sum of costs."""

    def total(theta):
        points = ESTIMATOR(key, make(theta))
        return jnp.sum(points.weight * f(points.value), axis=0).sum()

    return jax.jit(jax.grad(total))(theta)


def cost(x):
    """Neither linear nor continuous."""
    return jnp.sin(2.0 * x) + x**2 * 0.3 + (x > 1.3)


def quadrature(a, b):
    """Gauss-Legendre nodes and weights."""
    x, w = np.polynomial.legendre.leggauss(120)
    return (b - a) / 2 * x + (a + b) / 2, (b - a) / 2 * w


# Split where the cost jumps.
NODES, WEIGHTS = np.concatenate([quadrature(-9.0, 1.3), quadrature(1.3, 11.0)], axis=1)


def exact(make, theta):
    """The derivative of the expected cost, by summation or quadrature."""

    def expectation(theta):
        d = make(theta)
        if isinstance(d, dist.Normal):
            return jnp.sum(jnp.exp(d.log_prob(NODES)) * cost(NODES) * WEIGHTS)
        if isinstance(d, dist.Poisson):
            x = jnp.arange(60)
        else:
            x = d.enumerate_support()
        return jnp.sum(jnp.exp(d.log_prob(x)) * cost(x))

    return jax.jit(jax.grad(expectation))(theta)


CASES = {
    "bernoulli_probs": (lambda t: dist.Bernoulli(probs=t), 0.3),
    "bernoulli_logits": (lambda t: dist.Bernoulli(logits=t), 0.7),
    "categorical_probs": (lambda t: dist.Categorical(probs=t), np.array([0.2, 0.5, 0.3])),
    "categorical_logits": (lambda t: dist.Categorical(logits=t), np.array([0.2, -0.5, 0.3, 1.0])),
    "ordered_logistic": (
        lambda t: dist.OrderedLogistic(t, OrderedTransform()(jnp.array([-1.0, 0.3]))),
        0.4,
    ),
    "poisson": (lambda t: dist.Poisson(t), 1.7),
    "normal": (lambda t: dist.Normal(t[0], t[1]), np.array([0.4, 1.3])),
}


def batched(name, n):
    """`n` independent copies of the parameter, and the axis that they are along."""
    make, theta = CASES[name]
    theta = jnp.asarray(theta)
    if name == "normal":
        return make, theta, jnp.broadcast_to(theta[:, None], (2, n)), 1
    return make, theta, jnp.broadcast_to(theta, (n, *theta.shape)), 0


@pytest.mark.parametrize("name", CASES)
def test_derivative_is_unbiased(name):
    """The mean over draws agrees with the exact derivative within its standard error."""
    n = 40_000
    make, theta, thetas, axis = batched(name, n)
    draws = estimate(make, cost, thetas, jax.random.key(0))
    error = jnp.abs(draws.mean(axis) - exact(make, theta))
    assert jnp.all(error < 4.5 * draws.std(axis) / np.sqrt(n) + 1e-9), (error, draws.mean(axis))


@pytest.mark.parametrize("name", CASES)
def test_point_zero_is_the_sample(name):
    """Weights are 1, 0, 0, ... in value, and point 0 follows the distribution."""
    make, _, thetas, _ = batched(name, 10_000)
    points = jax.jit(ESTIMATOR)(jax.random.key(1), make(thetas))
    np.testing.assert_array_equal(points.weight[0], 1)
    np.testing.assert_array_equal(points.weight[1:], 0)
    reference = make(thetas).sample(jax.random.key(2))
    assert points.value.dtype == reference.dtype
    for f in (lambda x: x, np.square):
        a, b = (f(np.asarray(x, float)) for x in (points.value[0], reference))
        assert abs(a.mean() - b.mean()) < 4.5 * (a.std() + b.std()) / 100


def test_categorical_has_no_variance():
    """All classes are visited, so nothing is left to chance."""
    make, theta = CASES["categorical_logits"]
    got = estimate(make, cost, jnp.asarray(theta), jax.random.key(0))
    np.testing.assert_allclose(got, exact(make, jnp.asarray(theta)), rtol=1e-10)


def families(batch, dtype):
    """One distribution of every family."""
    p, probs = jnp.full(batch, 0.3, dtype), jnp.full((*batch, 4), 0.25, dtype)
    return [
        dist.Bernoulli(p),
        dist.Bernoulli(logits=p),
        dist.Categorical(probs),
        dist.Categorical(logits=probs),
        dist.Poisson(p),
        dist.Normal(p, 2 * p),
        dist.Normal(0.0, 2 * p),
        dist.Normal(p, 1),
    ]


@pytest.mark.parametrize(
    "batch,small,dtype",
    [((), (), "float32"), ((2, 3), (2, 3), "float64"), ((2, 3), (2, 1), "float32")],
)
def test_batches_and_dtypes(batch, small, dtype):
    """Any batch shape, also one that is expanded as under a plate, in either precision."""
    ds = [d if small == batch else d.expand(batch) for d in families(small, dtype)]
    assert all(ESTIMATOR.misfit(d) is None for d in ds)
    many = jax.jit(lambda key, ds: [ESTIMATOR(key, d) for d in ds])(jax.random.key(0), ds)
    for d, points in zip(ds, many, strict=True):
        assert isinstance(points, Points)
        assert points.value.shape[1:] == batch == points.weight.shape[1:]
        assert points.value.shape[0] == points.weight.shape[0]
        assert points.value.dtype == jax.eval_shape(d.sample, jax.random.key(0)).dtype
        if d.support.is_discrete:
            assert points.weight.dtype == dtype
        else:
            assert points.weight.dtype == points.value.dtype
            assert len(np.unique(points.value[0])) == max(1, np.prod(batch))


def test_vmap_over_keys_and_parameters():
    """Under `vmap`, as without it."""
    keys, p = jax.random.split(jax.random.key(0), 3), jnp.array([0.2, 0.5, 0.7])
    got = jax.vmap(lambda key, p: ESTIMATOR(key, dist.Normal(p, p)))(keys, p)
    for i in range(3):
        one = ESTIMATOR(keys[i], dist.Normal(p[i], p[i]))
        np.testing.assert_allclose(got.value[i], one.value, rtol=1e-12)


def test_batched_derivative_is_per_element():
    """Nothing leaks from one batch element to another."""
    theta = jnp.array([0.1, 0.5, 0.9])

    def weights(theta):
        return ESTIMATOR(jax.random.key(0), dist.Bernoulli(theta)).weight

    jacobian = jax.jacobian(weights)(theta)
    np.testing.assert_array_equal(jacobian * (1 - jnp.eye(3)), 0)
    np.testing.assert_array_equal(jacobian.sum(0), 0)


@pytest.mark.parametrize("name", ["bernoulli_logits", "categorical_probs", "poisson", "normal"])
def test_second_derivative_raises(name):
    """Products of first-order surrogates are not second derivatives."""
    make, theta = CASES[name]
    theta = jnp.asarray(theta)

    def total(theta):
        points = ESTIMATOR(jax.random.key(0), make(theta))
        return jnp.sum(points.weight * cost(points.value))

    with pytest.raises(DerivativeError, match="first order"):
        jax.make_jaxpr(jax.hessian(total))(theta)


def test_samples_are_frozen():
    """The value of a Normal carries no pathwise derivative: the weights carry all of it."""
    jacobian = jax.jacobian(lambda t: ESTIMATOR(jax.random.key(0), dist.Normal(t, t)).value)(2.0)
    np.testing.assert_array_equal(jacobian, 0)


def test_python_numbers_as_parameters():
    """Parameters need not be arrays."""
    for d in (dist.Bernoulli(0.3), dist.Bernoulli(logits=0), dist.Normal(), dist.Poisson(2)):
        assert np.all(np.isfinite(ESTIMATOR(jax.random.key(0), d).value))


def test_misfit_says_what_fits():
    """Families without a decomposition are refused, subclasses with a density of their own too."""

    class Rounded(dist.Normal):
        def sample(self, key, sample_shape=()):
            return jnp.round(super().sample(key, sample_shape))

    for d in (dist.Laplace(), dist.Beta(1.0, 1.0), Rounded()):
        assert "Bernoulli, Categorical, Normal and Poisson" in ESTIMATOR.misfit(d)
        assert type(d).__name__ in ESTIMATOR.misfit(d)


def test_is_a_static_module():
    """It has no arrays, so it can be closed over or passed through `jit`."""
    assert jax.tree.leaves(ESTIMATOR) == []
    assert eqx.filter_jit(lambda e, k: e(k, dist.Poisson(2.0)))(
        ESTIMATOR, jax.random.key(0)
    ).value.shape == (2,)
