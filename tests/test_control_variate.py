"""Control variates around every kind of estimator, and the variances that theory gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import (
    ControlVariate,
    Enumerate,
    LeaveOneOut,
    MeasureValued,
    Reparameterize,
    ScoreFunction,
    Taylor,
    UnorderedSet,
)
from ppgen.errors import DiscontinuityError, EstimatorError
from ppgen.testing import assert_unbiased

pytestmark = pytest.mark.sweep(of=3)

THETA = np.array([0.6, -0.3], np.float32)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


INNER = {
    "ScoreFunction": ScoreFunction(),
    "baseline": ScoreFunction(baseline=0.7),
    "Reparameterize": Reparameterize(),
    "MeasureValued": MeasureValued(),
    "Enumerate": Enumerate(),
    "UnorderedSet": UnorderedSet(2),
}


def squared(inner):
    return ControlVariate(inner, lambda x, d: 0.8 * x**2, lambda d: 0.8 * (d.mean**2 + d.variance))


def sine(inner):
    return ControlVariate.taylor(inner, lambda x: jnp.sin(x) + x)


def normal(theta, estimator):
    x = ppgen.draw(dist.Normal(theta[0], jnp.exp(theta[1])), grad=estimator)
    return jnp.sin(x) + x + theta[1] * x**2


@pytest.mark.parametrize("control", [squared, sine])
@pytest.mark.parametrize("name", ["ScoreFunction", "baseline", "Reparameterize", "MeasureValued"])
def test_normal(name, control):
    inner = INNER[name]
    # The second derivative of a score function is noisy.
    order, samples = {
        "ScoreFunction": (2, 400_000) if control is sine else (1, 60_000),
        "baseline": (1, 60_000),
        "Reparameterize": (2, 12_000),
        "MeasureValued": (1, 60_000),
    }[name]
    assert_unbiased(normal, THETA, control(inner), order=order, samples=samples)


@pytest.mark.parametrize(
    "name", ["ScoreFunction", "baseline", "MeasureValued", "Enumerate", "UnorderedSet"]
)
def test_discrete(name):
    """Also where a cost mixes the elements, and an earlier choice has several points."""
    inner = INNER[name]

    def f(theta):
        if name == "UnorderedSet":
            k = ppgen.draw(dist.Binomial(4, jax.nn.sigmoid(theta[0])), grad=squared(inner))
            return jnp.cos(k) + theta[1] * k
        with numpyro.plate("n", 2):
            a = ppgen.draw(dist.Bernoulli(logits=theta), grad=sine(inner))
            b = ppgen.draw(dist.Bernoulli(logits=theta[::-1] + a), grad=squared(inner))
        return jnp.sum(jnp.cos(a + 2 * b)) + (jnp.sum(b) - theta[0]) ** 2

    order = 1 if inner.first_order else 2
    assert_unbiased(f, THETA, order=order, samples=70_000)


@pytest.mark.parametrize("inner", [Reparameterize(), ScoreFunction()])
def test_scan_cond_and_vmap(inner):
    """Where a pathwise choice is not an ordinary computation any more."""

    def f(theta):
        def step(x, t):
            x = 0.5 * x + ppgen.draw(dist.Normal(theta[0], 0.7), grad=squared(inner)) * t
            return x, jnp.sin(x)

        x, terms = jax.lax.scan(step, jnp.asarray(theta[1], float), jnp.array([1.0, 0.8]))

        def branch(x):
            return x * ppgen.draw(dist.Normal(theta[1], 1.0), grad=sine(inner))

        y = jax.lax.cond(theta[0] > 0, branch, lambda x: x, x)
        return jnp.sum(terms) + y

    def lanes(theta):
        x = jax.vmap(lambda t: ppgen.draw(dist.Normal(t, 1.0), grad=squared(inner)))(theta)
        return jnp.sum(x**2) + jnp.sin(x[0] * x[1])

    assert_unbiased(f, THETA, order=1, samples=40_000)
    assert_unbiased(lanes, THETA, order=1, samples=40_000)


def test_leave_one_out_draws():
    estimator = squared(ScoreFunction(LeaveOneOut()))
    assert_unbiased(lambda t: normal(t, estimator), THETA, order=1, samples=20_000, draws=3)
    with pytest.raises(EstimatorError, match="other draws"):
        ppgen.expectation(normal)(jax.random.key(0), THETA, estimator)


def test_vectors_and_closures():
    """Event axes are reduced by the user; functions close over traced arrays."""

    def f(theta, inner):
        weights = jnp.stack([theta[0], 2.0])

        def cost(x):
            return weights @ x**2 + jnp.sin(x[0])

        estimators = [
            ControlVariate(inner, lambda x, d: x @ weights, lambda d: d.mean @ weights),
            ControlVariate.taylor(inner, cost),
            ControlVariate.taylor(inner, cost, order=1),
        ]
        d = dist.MultivariateNormal(theta, jnp.array([[0.5, 0.2], [0.2, 0.4]])).expand((2,))
        x = sum(ppgen.draw(d, grad=e) for e in estimators) / 3
        return jnp.sum(jax.vmap(cost)(x))

    assert_unbiased(
        f, THETA, Reparameterize(), exact=lambda t, _: vector_exact(t), order=1, samples=8_000
    )


def vector_exact(theta):
    covariance = np.array([[0.5, 0.2], [0.2, 0.4]]) / 3
    second = theta**2 + np.diag(covariance)
    sine = jnp.sin(theta[0]) * jnp.exp(-covariance[0, 0] / 2)
    return 2 * (jnp.stack([theta[0], 2.0]) @ second + sine)


def gradients(f, theta, estimator, samples=4_000):
    g = jax.grad(ppgen.expectation(f), 1)
    keys = jax.random.split(jax.random.key(1), samples)
    return np.asarray(jax.jit(jax.vmap(g, (0, None, None)))(keys, theta, estimator))


@pytest.mark.parametrize("inner", [ScoreFunction(), Reparameterize(), MeasureValued()])
def test_second_order_of_a_quadratic_has_no_variance(inner):
    """The control is the cost, so all that is left is the derivative of the known expectation."""

    def cost(x):
        return 1.3 * x**2 - 0.4 * x + 2

    def f(theta, estimator):
        return cost(ppgen.draw(dist.Normal(theta[0], theta[1]), grad=estimator))

    theta = jnp.array([0.6, 1.5])
    got = gradients(f, theta, ControlVariate.taylor(inner, cost), samples=50)
    slope = np.array([2 * 1.3 * 0.6 - 0.4, 2 * 1.3 * 1.5])
    np.testing.assert_allclose(got, np.broadcast_to(slope, got.shape), rtol=1e-9)
    plain = gradients(f, theta, inner, samples=50)
    assert np.all(plain.std(axis=0) > 0.1)


@pytest.mark.long
def test_first_order_lowers_the_variance_by_the_known_factor():
    """For a quadratic cost of a normal variable both variances are polynomials of the moments."""
    a, b, mean, scale = 1.3, -0.4, 0.6, 1.5

    def cost(x):
        return a * x**2 + b * x

    def f(theta, estimator):
        return cost(ppgen.draw(dist.Normal(theta, scale), grad=estimator))

    # In standard units the cost is A + B e + C e^2; the gradient is e / scale times that.
    A, B, C = a * mean**2 + b * mean, scale * (2 * a * mean + b), a * scale**2
    plain = (A**2 + 3 * B**2 + 15 * C**2 + 6 * A * C - B**2) / scale**2
    ours = 15 * C**2 / scale**2
    for estimator, expected in (
        (ScoreFunction(), plain),
        (ControlVariate.taylor(ScoreFunction(), cost, order=1), ours),
    ):
        got = gradients(f, jnp.array(mean), estimator, samples=100_000)
        # The square of a cubic of a normal variable has heavy tails: 5 of its standard errors.
        error = np.std((got - got.mean()) ** 2) / np.sqrt(len(got))
        assert error < 0.05 * expected
        np.testing.assert_allclose(got.var(), expected, atol=5 * error)


def test_muprop():
    """A Bernoulli cost, expanded at a mean that is no possible value: affine, so exact."""

    def f(theta, estimator):
        b = ppgen.draw(dist.Bernoulli(logits=theta), grad=estimator)
        return jnp.sum(jnp.where(b == 1, 3.0, 1.0))

    theta = jnp.array([0.2, -0.5])
    control = ControlVariate.taylor(ScoreFunction(), lambda x: 1 + 2 * x, order=1)
    got = gradients(f, theta, control, samples=20)
    p = jax.nn.sigmoid(theta)
    np.testing.assert_allclose(got, np.broadcast_to(2 * p * (1 - p), got.shape), rtol=1e-9)


def test_trained_control():
    """Its parameters are leaves; they change the variance only."""

    def f(theta, scale):
        estimator = ControlVariate(
            ScoreFunction(), lambda x, d: scale * x, lambda d: scale * d.mean
        )
        return ppgen.draw(dist.Normal(theta, 1.0), grad=estimator) * 3.0

    g = ppgen.expectation(f)
    keys = jax.random.split(jax.random.key(0), 20_000)

    @jax.jit
    @jax.grad
    def slopes(scale):
        squares = jax.vmap(lambda key, s: jax.grad(g, 1)(key, 0.5, s) ** 2)
        return jnp.sum(squares(keys, scale))

    # The gradient is (3 - scale) x e + scale, of the variance (3 - scale)^2 (2 + 1/4).
    for scale in (1.0, 3.0):
        each = np.asarray(slopes(jnp.full(len(keys), scale)))
        error = each.std() / np.sqrt(len(each))
        assert error < 0.3
        assert abs(each.mean() + 2 * (3 - scale) * 2.25) < 5 * error


def test_float32():
    with jax.enable_x64(False):
        g = jax.jit(jax.grad(ppgen.expectation(normal), 1))
        keys = jax.random.split(jax.random.key(0), 3)
        for inner in (ScoreFunction(), Reparameterize()):
            many = jax.vmap(lambda k, e=inner: g(k, THETA, sine(e)))(keys)
            assert many.dtype == jnp.float32
            one = [g(k, THETA, sine(inner)) for k in keys]
            np.testing.assert_allclose(many, jnp.stack(one), rtol=1e-4, atol=1e-5)


def test_discontinuities_are_still_found():
    g = ppgen.expectation(
        lambda t: jnp.floor(ppgen.draw(dist.Normal(t, 1.0), grad=squared(Reparameterize())))
    )
    with pytest.raises(DiscontinuityError, match="floor"):
        g(jax.random.key(0), 0.3)


def test_errors_say_what_is_wrong():
    for estimator, d, words in (
        (squared(Enumerate()), dist.Normal(0.0, 1.0), "finite support"),
        (sine(ScoreFunction()), dist.Categorical(logits=jnp.zeros(3)), "no mean"),
        (sine(ScoreFunction()), dist.Cauchy(0.0, 1.0), "no mean"),
    ):
        with pytest.raises(EstimatorError, match=words):
            ppgen.expectation(lambda d=d, e=estimator: 1.0 * ppgen.draw(d, grad=e))(
                jax.random.key(0)
            )
    mixed = ControlVariate(ScoreFunction(), lambda x, d: jnp.sum(x), lambda d: jnp.sum(d.mean))
    with pytest.raises(ValueError, match="each element of the batch"):
        mixed(jax.random.key(0), dist.Normal(jnp.zeros(3), 1.0))
    with pytest.raises(ValueError, match="order must be"):
        Taylor(jnp.sin, order=3)


@pytest.mark.long
@pytest.mark.parametrize("bug", ["mean", "no score", "frozen"])
def test_planted_bugs_are_found(bug):
    def mean(d):
        return 0.8 * d.mean**2 if bug == "mean" else 0.8 * (d.mean**2 + d.variance)

    def control(x, d):
        return jax.lax.stop_gradient(0.8 * x**2) if bug == "frozen" else 0.8 * x**2

    inner = Reparameterize() if bug == "frozen" else ScoreFunction()
    estimator = ControlVariate(inner, control, mean)
    if bug == "no score":

        class Unscored(ControlVariate):
            def __call__(self, key, dist):
                points = super().__call__(key, dist)
                term = self.mean(dist) - self.control(points.value, dist)
                return type(points)(points.value, score=points.score, control=term)

        estimator = Unscored(inner, control, mean)
    with pytest.raises(AssertionError):
        assert_unbiased(normal, THETA, estimator, order=1, samples=60_000)
