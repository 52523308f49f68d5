"""Measure-valued derivatives against the exact derivative of an expectation."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import OrderedTransform

import ppgen
from ppgen.errors import DerivativeError
from ppgen.estimators import MeasureValued, Points, ScoreFunction
from ppgen.testing import assert_unbiased, planted

ESTIMATOR = MeasureValued()


@pytest.fixture(autouse=True)
def x64():
    """An exact oracle needs double precision."""
    with jax.enable_x64(True):
        yield


def estimate(make, f, theta, key):
    """The derivative by `theta` of the weighted sum of costs, and the points."""

    def total(theta):
        points = ESTIMATOR(key, make(theta))
        return jnp.sum(points.weight * f(points.value), axis=0).sum(), points

    return jax.jit(jax.grad(total, has_aux=True))(theta)


def cost(x):
    """Neither linear nor continuous."""
    return jnp.sin(2.0 * x) + x**2 * 0.3 + (x > 1.3)


def quadrature(a, b):
    """Gauss-Legendre nodes and weights."""
    x, w = np.polynomial.legendre.leggauss(120)
    return (b - a) / 2 * x + (a + b) / 2, (b - a) / 2 * w


# Split where the cost jumps; of a positive variable in its logarithm.
NODES, WEIGHTS = np.concatenate([quadrature(-9.0, 1.3), quadrature(1.3, 11.0)], axis=1)
LOG_NODES, LOG_WEIGHTS = np.concatenate(
    [quadrature(-25.0, np.log(1.3)), quadrature(np.log(1.3), 4.5)], axis=1
)
POSITIVE, POSITIVE_WEIGHTS = np.exp(LOG_NODES), np.exp(LOG_NODES) * LOG_WEIGHTS


def exact(make, theta):
    """The derivative of the expected cost, by summation or quadrature."""

    def expectation(theta):
        d = make(theta)
        if d.support is dist.constraints.real:
            return jnp.sum(jnp.exp(d.log_prob(NODES)) * cost(NODES) * WEIGHTS)
        if d.support is dist.constraints.positive:
            density = jnp.exp(d.log_prob(POSITIVE))
            return jnp.sum(density * cost(POSITIVE) * POSITIVE_WEIGHTS)
        if not d.has_enumerate_support:
            x = jnp.arange(80)
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
    "geometric_probs": (lambda t: dist.Geometric(probs=t), 0.4),
    "geometric_logits": (lambda t: dist.Geometric(logits=t), 0.7),
    "binomial_probs": (lambda t: dist.Binomial(3, probs=t), 0.3),
    "binomial_logits": (lambda t: dist.Binomial(2, logits=t), 0.7),
    "exponential": (lambda t: dist.Exponential(t), 0.9),
    "gamma": (lambda t: dist.Gamma(1.7, t), 1.4),
    "weibull": (lambda t: dist.Weibull(t, 1.6), 1.2),
    "log_normal": (lambda t: dist.LogNormal(t[0], t[1]), np.array([0.2, 0.4])),
    "affine": (
        lambda t: dist.TransformedDistribution(
            dist.Exponential(t), dist.transforms.AffineTransform(0.0, jnp.array(0.7))
        ),
        0.9,
    ),
}
TWO_PARAMETERS = ("normal", "log_normal")


def batched(name, n):
    """`n` independent copies of the parameter, and the axis that they are along."""
    make, theta = CASES[name]
    theta = jnp.asarray(theta)
    if name in TWO_PARAMETERS:
        return make, theta, jnp.broadcast_to(theta[:, None], (2, n)), 1
    return make, theta, jnp.broadcast_to(theta, (n, *theta.shape)), 0


SAMPLES = 40_000


def estimates(name):
    """Many estimates of the derivative, and their points."""
    make, _, thetas, _ = batched(name, SAMPLES)
    return estimate(make, cost, thetas, jax.random.key(0))


cached = functools.cache(estimates)


def check(name, draws):
    n = SAMPLES
    make, theta, _, axis = batched(name, 1)
    truth = exact(make, theta)
    error, tolerance = jnp.abs(draws.mean(axis) - truth), 4.5 * draws.std(axis) / np.sqrt(n) + 1e-9
    assert jnp.all(tolerance < 0.12 * jnp.max(jnp.abs(truth))), "no power"
    assert jnp.all(error < tolerance), (error, draws.mean(axis))


@pytest.mark.sweep(of=2)
@pytest.mark.parametrize("name", CASES)
def test_derivative_is_unbiased(name):
    """The mean over draws agrees with the exact derivative within its standard error."""
    check(name, cached(name)[0])


@pytest.mark.long
@pytest.mark.parametrize("name", ["binomial_probs", "gamma", "log_normal"])
def test_dropped_phantom_is_found(name):
    """The test above has the power to see a wrong weight."""
    with planted("dropped phantom"), pytest.raises(AssertionError, match="Array"):
        check(name, estimates(name)[0])


@pytest.mark.parametrize("name", CASES)
def test_point_zero_is_the_sample(name):
    """Weights are 1, 0, 0, ... in value, and point 0 follows the distribution."""
    make, _, thetas, _ = batched(name, SAMPLES)
    points = cached(name)[1]
    np.testing.assert_array_equal(points.weight[0], 1)
    np.testing.assert_array_equal(points.weight[1:], 0)
    reference = make(thetas).sample(jax.random.key(2))
    assert points.value.dtype == reference.dtype
    if points.value.dtype == float:
        distinct = len(np.unique(points.value[0]))
        assert distinct == SAMPLES or name == "geometric_probs" or name == "geometric_logits"
    for f in (lambda x: x, np.square):
        a, b = (f(np.asarray(x, float)) for x in (points.value[0], reference))
        assert abs(a.mean() - b.mean()) < 4.5 * (a.std() + b.std()) / np.sqrt(SAMPLES)


def test_categorical_has_no_variance():
    """All classes are visited, so nothing is left to chance."""
    make, theta = CASES["categorical_logits"]
    got, _ = estimate(make, cost, jnp.asarray(theta), jax.random.key(0))
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
        dist.Geometric(p),
        dist.Geometric(logits=p),
        dist.Binomial(3, p),
        dist.Binomial(jnp.full(batch, 3), logits=p),
        dist.Exponential(p),
        dist.Gamma(p, 2 * p),
        dist.Weibull(p, 2.0),
        dist.LogNormal(p, 0.3),
    ]


@pytest.mark.parametrize(
    "batch,small,dtype",
    [((), (), "float32"), ((2, 3), (2, 3), "float64"), ((2, 3), (2, 1), "float32")],
)
def test_batches_and_dtypes(batch, small, dtype):
    """Any batch shape, also one that is expanded as under a plate, in either precision."""
    ds = [d if small == batch else d.expand(batch) for d in families(small, dtype)]
    assert all(ESTIMATOR.misfit(d) is None for d in ds)
    many = jax.eval_shape(lambda key: [ESTIMATOR(key, d) for d in ds], jax.random.key(0))
    for d, points in zip(ds, many, strict=True):
        assert isinstance(points, Points)
        assert points.value.shape[1:] == batch == points.weight.shape[1:]
        assert points.value.shape[0] == points.weight.shape[0]
        assert points.value.dtype == jax.eval_shape(d.sample, jax.random.key(0)).dtype
        if d.support.is_discrete:
            assert points.weight.dtype == dtype
        else:
            assert points.weight.dtype == points.value.dtype


def test_vmap_over_keys_and_parameters():
    """Under `vmap`, as without it."""
    keys, p = jax.random.split(jax.random.key(0), 3), jnp.array([0.2, 0.5, 0.7])
    one = jax.jit(lambda key, p: ESTIMATOR(key, dist.Normal(p, p)))
    got = jax.vmap(one)(keys, p)
    for i in range(3):
        np.testing.assert_allclose(got.value[i], one(keys[i], p[i]).value, rtol=1e-12)


def test_batched_derivative_is_per_element():
    """Nothing leaks from one batch element to another."""
    theta = jnp.array([0.1, 0.5, 0.9])

    def weights(theta):
        return ESTIMATOR(jax.random.key(0), dist.Bernoulli(theta)).weight

    jacobian = jax.jit(jax.jacobian(weights))(theta)
    np.testing.assert_array_equal(jacobian * (1 - jnp.eye(3)), 0)
    np.testing.assert_array_equal(jacobian.sum(0), 0)


@pytest.mark.parametrize("name", CASES)
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
    for make in (
        lambda t: dist.Normal(t, t),
        lambda t: dist.Gamma(2.0, t),
        lambda t: dist.LogNormal(t, t),
    ):
        jacobian = jax.jacobian(lambda t, make=make: ESTIMATOR(jax.random.key(0), make(t)).value)
        np.testing.assert_array_equal(jax.jit(jacobian)(2.0), 0)


def test_python_numbers_as_parameters():
    """Parameters need not be arrays."""
    for d in (
        dist.Bernoulli(0.3),
        dist.Bernoulli(logits=0),
        dist.Normal(),
        dist.Poisson(2),
        dist.Gamma(2),
    ):
        points = jax.jit(lambda key, d=d: ESTIMATOR(key, d))(jax.random.key(0))
        assert np.all(np.isfinite(points.value))


def test_misfit_says_what_fits():
    """Families without a decomposition are refused, subclasses with a density of their own too."""

    class Rounded(dist.Normal):
        def sample(self, key, sample_shape=()):
            return jnp.round(super().sample(key, sample_shape))

    simplex = dist.TransformedDistribution(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1), dist.transforms.StickBreakingTransform()
    )
    for d in (dist.Laplace(), dist.Beta(1.0, 1.0), Rounded(), dist.Chi2(2.0), simplex):
        assert "Binomial, Categorical, Exponential" in ESTIMATOR.misfit(d)
        assert type(d).__name__ in ESTIMATOR.misfit(d)


def test_is_a_static_module():
    """It has no arrays, so it can be closed over or passed through `jit`."""
    assert jax.tree.leaves(ESTIMATOR) == []
    assert eqx.filter_jit(lambda e, k: e(k, dist.Poisson(2.0)))(
        ESTIMATOR, jax.random.key(0)
    ).value.shape == (2,)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda t: dist.Gamma(t, 1.0), "concentration of Gamma"),
        (lambda t: dist.Weibull(1.0, t).expand([3]), "concentration of Weibull"),
        (
            lambda t: dist.TransformedDistribution(
                dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(0.0, t)
            ),
            "parameters of a transform",
        ),
    ],
)
def test_unknown_derivatives_raise(make, match):
    """A derivative that no decomposition gives is refused, and only that: the values are there."""
    g = ppgen.expectation(lambda t: jnp.sum(ppgen.draw(make(t), grad=ESTIMATOR)))
    assert jnp.isfinite(g(jax.random.key(0), 2.0))
    with pytest.raises(DerivativeError, match=match) as error:
        jax.grad(g, argnums=1)(jax.random.key(0), 2.0)
    assert "Write instead" in str(error.value)


def test_counts_may_differ_and_be_zero():
    """Every element has its own number of trials; none gives a certain zero."""
    n = jnp.array([0, 1, 4])
    points = ESTIMATOR(jax.random.key(0), dist.Binomial(n, jnp.full(3, 0.3)))
    np.testing.assert_array_equal(points.value[:, 0], 0)

    def f(p):
        x = ppgen.draw(dist.Binomial(n, p * jnp.ones(3)), grad=ESTIMATOR)
        return jnp.sum((x - 0.5) ** 2 * jnp.array([1.0, 2.0, 3.0]))

    def exact(p):
        mean = n * p
        return jnp.sum(jnp.array([1.0, 2.0, 3.0]) * (mean * (1 - p) + (mean - 0.5) ** 2))

    assert_unbiased(f, 0.3, order=1, exact=exact, samples=5000)


@pytest.mark.parametrize(
    "make",
    [lambda p: dist.Geometric(p), lambda p: dist.Binomial(3, p), lambda p: dist.Bernoulli(p)],
)
def test_certain_outcomes(make):
    """At a probability of one the derivative is that of the closed interval."""
    g = jax.vmap(
        jax.grad(ppgen.expectation(lambda p: ppgen.draw(make(p), grad=ESTIMATOR) * 1.0), argnums=1),
        (0, None),
    )
    # Of means (1 - p) / p, 3 p and p.
    slope = jax.grad(lambda p: jnp.asarray(make(p).mean))(1.0)
    np.testing.assert_allclose(jax.jit(g)(jax.random.split(jax.random.key(0), 3), 1.0), slope)


PRUNED = MeasureValued(prune=True)


def classes_of(theta, estimator, classes=3):
    logits = theta * jnp.linspace(-0.2, 1.0, 8)[:, None] * jnp.arange(classes)
    return ppgen.draw(dist.Categorical(logits=logits), name="x", grad=estimator)


def mixing(estimator):
    def f(theta):
        x = classes_of(theta[0], estimator)
        y = ppgen.draw(dist.Normal(theta[1] + 0.1 * x[3], 1.0), name="y", grad=estimator)
        return 0.1 * (jnp.sum(x) ** 2 + x[0] * x[5]) + jnp.sin(y)

    return f


def mixing_exact(theta):
    p = jax.nn.softmax(theta[0] * jnp.linspace(-0.2, 1.0, 8)[:, None] * jnp.arange(3))
    mean, square = p @ jnp.arange(3.0), p @ jnp.arange(3.0) ** 2
    total = jnp.sum(mean) ** 2 + jnp.sum(square - mean**2) + mean[0] * mean[5]
    return 0.1 * total + jnp.exp(-0.5) * p[3] @ jnp.sin(theta[1] + 0.1 * jnp.arange(3))


def test_pruned_is_unbiased():
    """One of 16 joint phantoms, and one of 3 of a Normal downstream, in a chain."""
    theta = jnp.array([1.0, 0.3])
    assert_unbiased(mixing(PRUNED), theta, order=1, exact=mixing_exact, samples=10_000)
    with planted("dropped phantom"), pytest.raises(AssertionError, match="biased"):
        assert_unbiased(mixing(PRUNED), theta, order=1, exact=mixing_exact, samples=10_000)


def test_pruned_in_control_flow():
    """In a scan and in a branch."""

    def f(theta):
        def step(x, a):
            p = jax.nn.softmax(jnp.stack([theta[0] * a, 0.1 * x, 0.3]))
            x = ppgen.draw(dist.Categorical(p), name="x", grad=PRUNED) * 1.0
            return x, x**2

        x, costs = jax.lax.scan(step, 0.0, jnp.array([1.0, -0.5]))
        y = jax.lax.cond(
            x > 0.5,
            lambda t: ppgen.draw(dist.Normal(t, 1.0), name="y", grad=PRUNED) ** 2,
            lambda t: t,
            theta[1],
        )
        return jnp.sum(costs) + y

    assert_unbiased(f, jnp.array([0.8, 0.6]), order=1, samples=20_000)


def test_pruned_evaluates_twice():
    """Compiled FLOPs are those of two evaluations, whatever the number of phantoms."""
    a, b = jax.random.normal(jax.random.key(1), (2, 128, 128))

    def network(x):
        return jnp.sum(jnp.tanh(b @ jnp.tanh(a[:, :8] @ x)))

    def flops(estimator, classes):
        g = ppgen.expectation(lambda theta: network(classes_of(theta, estimator, classes)))
        compiled = jax.jit(jax.grad(g, argnums=1)).lower(jax.random.key(0), 0.4).compile()
        return compiled.cost_analysis()["flops"]

    once = flops(ScoreFunction(), 3)
    assert once > 2 * 128**2
    assert flops(PRUNED, 9) < 2.5 * once
    assert flops(ESTIMATOR, 2) > 7 * once
