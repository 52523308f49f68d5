"""Supports that move under estimators that freeze values, against quantile functions of SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st

import ppgen
from ppgen import Antithetic, MeasureValued, ScoreFunction
from ppgen._distributions import moving_ends
from ppgen.errors import DerivativeError, DiscontinuityError
from ppgen.inference import elbo

T = dist.transforms
KEY = jax.random.key(3)


def affine(base, *args):
    return dist.TransformedDistribution(base, T.AffineTransform(*args))


class Rising(dist.Distribution):
    """A user's own: the density 2 (x - low) / width² on (low, low + width)."""

    arg_constraints = {"low": dist.constraints.real, "width": dist.constraints.positive}

    def __init__(self, low, width):
        self.low, self.width = jnp.broadcast_arrays(low, width)
        super().__init__(jnp.shape(self.low))

    @property
    def support(self):
        return dist.constraints.interval(self.low, self.low + self.width)

    def sample(self, key, sample_shape=()):
        u = jax.random.uniform(key, sample_shape + self.batch_shape)
        return self.low + self.width * jnp.sqrt(u)

    def log_prob(self, value):
        return jnp.log(2 * (value - self.low)) - 2 * jnp.log(self.width)


# The distribution, its quantile function in double precision, where, and to which order.
CASES = {
    "uniform": (
        lambda a, b: dist.Uniform(a, b),
        lambda u, a, b: a + (b - a) * u,
        (-0.4, 1.3),
        2,
    ),
    "shifted exponential": (
        lambda a, b, c: affine(dist.Exponential(c), a, b),
        lambda u, a, b, c: a - b * np.log1p(-u) / c,
        (0.5, 0.7, 1.2),
        2,
    ),
    "mirrored exponential": (
        lambda a, b: affine(dist.Exponential(1.0), a, -b),
        lambda u, a, b: a + b * np.log(u),
        (0.5, 0.7),
        2,
    ),
    "scaled beta": (
        lambda a, b, c: affine(dist.Beta(c, 1.5), a, b),
        lambda u, a, b, c: a + b * st.beta.ppf(u, c, 1.5),
        (-0.4, 1.7, 2.2),
        2,
    ),
    "scaled squashed normal": (
        lambda a, m: dist.TransformedDistribution(
            dist.Normal(m, 0.8), [T.SigmoidTransform(), T.AffineTransform(0.0, a)]
        ),
        lambda u, a, m: a / (1 + np.exp(-m - 0.8 * st.norm.ppf(u))),
        (1.3, 0.4),
        2,
    ),
    "shifted lognormal": (
        lambda a, m, s: dist.TransformedDistribution(
            dist.LogNormal(m, s), T.AffineTransform(a, 1.0)
        ),
        lambda u, a, m, s: a + np.exp(m + s * st.norm.ppf(u)),
        (-0.5, 0.1, 0.4),
        2,
    ),
    "pareto": (
        dist.Pareto,
        lambda u, a, b: a * (1 - u) ** (-1 / b),
        (0.6, 3.0),
        2,
    ),
    "loguniform": (
        dist.LogUniform,
        lambda u, a, b: a * (b / a) ** u,
        (0.4, 1.9),
        2,
    ),
    "normal in an interval": (
        lambda a, b, m, s: dist.TruncatedNormal(m, s, low=a, high=b),
        lambda u, a, b, m, s: st.truncnorm.ppf(u, (a - m) / s, (b - m) / s, m, s),
        (-0.2, 1.1, 0.3, 0.6),
        2,
    ),
    "normal in a tail": (
        lambda a, m: dist.TruncatedNormal(m, 1.0, low=a),
        lambda u, a, m: m - st.norm.ppf(st.norm.sf(a - m) * (1 - u)),
        (2.6, 0.2),
        2,
    ),
    "normal below": (
        lambda b, m: dist.TruncatedNormal(m, 1.0, high=b),
        lambda u, b, m: st.truncnorm.ppf(u, -np.inf, b - m, m, 1.0),
        (0.4, 0.2),
        2,
    ),
    "an end that is infinite": (
        lambda b: dist.TwoSidedTruncatedDistribution(dist.Normal(0.2, 1.0), jnp.array(-jnp.inf), b),
        lambda u, b: st.truncnorm.ppf(u, -np.inf, b - 0.2, 0.2, 1.0),
        (0.4,),
        2,
    ),
    "laplace in an interval": (
        lambda a, b: dist.TwoSidedTruncatedDistribution(dist.Laplace(0.3, 0.7), a, b),
        lambda u, a, b: st.laplace.ppf(
            st.laplace.cdf(a, 0.3, 0.7) * (1 - u) + st.laplace.cdf(b, 0.3, 0.7) * u, 0.3, 0.7
        ),
        (-0.2, 1.4),
        1,
    ),
    "power law": (
        lambda a, b: dist.DoublyTruncatedPowerLaw(-1.7, a, b),
        lambda u, a, b: (a**-0.7 * (1 - u) + b**-0.7 * u) ** (1 / -0.7),
        (0.5, 1.8),
        2,
    ),
    "a user's own": (Rising, lambda u, a, b: a + b * np.sqrt(u), (-0.3, 1.4), 2),
}
U = (np.arange(100_000) + 0.5) / 100_000


def cost(x):
    """Bounded, smooth, neither odd nor even; in NumPy and JAX alike."""
    exp, tanh = (np.exp, np.tanh) if isinstance(x, np.ndarray) else (jnp.exp, jnp.tanh)
    return tanh(2 * (x - 0.3)) + 0.6 * exp(-0.5 * (x - 1.4) ** 2)


def derivatives(quantile, theta, order):
    """Of the mean cost: the value, the gradient and the Hessian, by central differences."""
    mean = lambda t: np.mean(cost(quantile(U, *t)))  # noqa: E731
    theta, h, n = np.asarray(theta, float), 1e-3, len(theta)
    step = h * np.eye(n)
    found = [
        np.array(mean(theta)),
        np.array([(mean(theta + d) - mean(theta - d)) / (2 * h) for d in step]),
    ]
    if order > 1:
        second = [
            [
                (mean(theta + d + e) - mean(theta + d - e) - mean(theta - d + e))
                + mean(theta - d - e)
                for e in step
            ]
            for d in step
        ]
        found.append(np.array(second) / (4 * h**2))
    return found


def worst(f, exact, theta, n=8000, **options):
    """The largest z over the value and all derivatives."""
    g = ppgen.expectation(f, **options)
    keys = jax.random.split(KEY, n)
    ops = [g, jax.grad(g, argnums=1), jax.hessian(g, argnums=1)][: len(exact)]
    found = []
    for op, e in zip(ops, exact, strict=True):
        v = np.asarray(jax.jit(jax.vmap(op, (0, None)))(keys, theta), float)
        error = v.std(0) / n**0.5 + 1e-3 * (1 + abs(e))
        found.append(np.max(abs(v.mean(0) - e) / error))
    return max(found)


def drawn(make, estimator):
    return lambda t: cost(ppgen.draw(make(*t), grad=estimator))


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives(name):
    make, quantile, theta, order = CASES[name]
    exact = derivatives(quantile, theta, order)
    assert worst(drawn(make, ScoreFunction()), exact, jnp.array(theta)) < 4.5
    assert worst(drawn(make, ScoreFunction()), exact[:2], jnp.array(theta), 2000, draws=4) < 4.5


@pytest.mark.parametrize("name", ["shifted exponential", "mirrored exponential"])
@pytest.mark.parametrize("estimator", [MeasureValued(), Antithetic(ScoreFunction())])
def test_other_estimators_that_freeze_values(name, estimator):
    make, quantile, theta, _ = CASES[name]
    exact = derivatives(quantile, theta, 1)
    assert worst(drawn(make, estimator), exact, jnp.array(theta), draws=2) < 4.5


@pytest.mark.parametrize("bug", ["the value is frozen", "no Jacobian"])
def test_a_planted_bug_is_found(bug, monkeypatch):
    sound = moving_ends._moved

    def broken(d, u):
        point = sound(d, u)
        if bug == "no Jacobian":
            return dist.Delta(point.v, log_density=jnp.zeros_like(point.log_density))
        return dist.Delta(jax.lax.stop_gradient(point.v), log_density=point.log_density)

    monkeypatch.setattr(moving_ends, "_moved", broken)
    # (Of a uniform variable the Jacobian is all that there is of a score.)
    make, quantile, theta, _ = CASES["uniform"]
    exact = derivatives(quantile, theta, 1)
    assert worst(drawn(make, ScoreFunction()), exact, jnp.array(theta)) > 6


def test_shapes_around_it():
    """Expanded, in an event, in a plate, mapped, in a loop: each element as one alone."""
    make, quantile, theta, _ = CASES["uniform"]
    exact = [3 * e for e in derivatives(quantile, theta, 1)]
    three = jnp.zeros(3)

    def plate(t):
        with numpyro.plate("n", 3):
            return jnp.sum(cost(numpyro.sample("x", make(*t), infer={"grad": ScoreFunction()})))

    def loop(t):
        step = lambda c, _: (c + cost(ppgen.draw(make(*t), grad=ScoreFunction())), None)  # noqa: E731
        return jax.lax.scan(step, 0.0, None, length=3)[0]

    around = {
        "expanded": lambda t: jnp.sum(cost(ppgen.draw(make(*t).expand([3]), grad=ScoreFunction()))),
        "an event": lambda t: jnp.sum(
            cost(ppgen.draw(make(*(three + p for p in t)).to_event(1), grad=ScoreFunction()))
        ),
        "mapped": lambda t: jnp.sum(
            jax.vmap(lambda z: cost(ppgen.draw(make(*t), grad=ScoreFunction())) + z)(three)
        ),
        "mapped parameters": lambda t: jnp.sum(
            jax.vmap(lambda a: cost(ppgen.draw(make(a, *t[1:]), grad=ScoreFunction())))(
                three + t[0]
            )
        ),
        "plate": plate,
        "loop": loop,
        "blocked": lambda t: numpyro.handlers.block(plate)(t),
    }
    for name, f in around.items():
        assert worst(f, exact, jnp.array(theta), 4000) < 4.5, name


def test_none_and_one():
    for size in (0, 1):
        d = lambda t, size=size: dist.Uniform(0.0, t * jnp.ones(size))  # noqa: E731
        f = lambda t, d=d: jnp.sum(ppgen.draw(d(t), grad=ScoreFunction()))  # noqa: E731
        slope = jax.grad(ppgen.expectation(f, draws=4000), argnums=1)(KEY, 1.3)
        assert abs(slope - size / 2) < 0.1


def test_a_vector_behind_transforms():
    """A choice of more elements than the batch of the site has."""

    def make(t):
        base = dist.Uniform(0.0, t * jnp.ones(2)).to_event(1)
        mix = T.LowerCholeskyAffine(jnp.zeros(2), jnp.array([[1.0, 0.0], [0.5, 2.0]]))
        return dist.TransformedDistribution(base, mix)

    f = lambda t: jnp.sum(ppgen.draw(make(t), grad=ScoreFunction()) ** 2)  # noqa: E731
    # Of u uniform: (t u)² + (t u / 2 + 2 t v)², with E u² = 1/3 and E uv = 1/4.
    slope = lambda t: 2 * t * (1 / 3 + 1 / 12 + 1 / 2 + 4 / 3)  # noqa: E731
    exact = [np.array(slope(1.3) * 1.3 / 2), np.array(slope(1.3))]
    assert worst(f, exact, 1.3) < 4.5


@pytest.mark.parametrize("estimator", [None, ScoreFunction()])
def test_a_bound_whose_guide_moves_its_ends(estimator):
    """A site with a density: Uniform(a, a + w) for a standard normal; the bound in closed form."""

    def model(t):
        numpyro.sample("z", dist.TruncatedNormal(0.0, 1.0, low=-9.0, high=9.0))

    def guide(t):
        infer = {} if estimator is None else {"grad": estimator}
        numpyro.sample("z", dist.Uniform(t[0], t[0] + t[1]), infer=infer)

    def exact(t):
        second = t[0] ** 2 + t[0] * t[1] + t[1] ** 2 / 3
        return -0.5 * second - 0.5 * jnp.log(2 * jnp.pi) + jnp.log(t[1])

    t = jnp.array([-0.4, 1.6])
    want = [np.asarray(d(t)) for d in (exact, jax.grad(exact), jax.hessian(exact))]
    assert worst(elbo(model, guide), want, t) < 4.5
    trace = ppgen.seed(ppgen.simulate(guide))(KEY, t)
    np.testing.assert_allclose(trace.log_density, -jnp.log(1.6), rtol=1e-6)
    assert ppgen.log_density(guide)(trace.choices, t) == trace.log_density


def test_ends_that_move_with_other_choices():
    """With a pathwise one, and with a frozen one: E[x²] for x uniform on (0, z)."""

    def f(t, grad):
        z = ppgen.draw(dist.LogNormal(t, 0.5), grad=grad)
        return ppgen.draw(dist.Uniform(0.0, z), grad=ScoreFunction()) ** 2

    mean = np.exp(2 * 0.3 + 2 * 0.25) / 3
    for grad in (None, ScoreFunction()):
        exact = [np.array(mean), np.array(2 * mean), np.array(4 * mean)]
        assert worst(lambda t, grad=grad: f(t, grad), exact, 0.3, 20_000) < 4.5


def test_what_moves_still_must_not_jump():
    for make in (lambda t: dist.Uniform(0.0, t), lambda t: affine(dist.Exponential(1.0), t, 1.0)):

        def f(t, make=make):
            return jnp.where(ppgen.draw(make(t), grad=ScoreFunction()) > 0.7, 1.0, 0.0)

        with pytest.raises(DiscontinuityError):
            jax.grad(ppgen.expectation(f), argnums=1)(KEY, 1.3)
        # Where nothing moves, it may.
        assert ppgen.expectation(f)(KEY, 1.3) in (0.0, 1.0)


def test_a_frozen_end_may_jump():
    """What is not differentiated is told so: P(x > 0.7) for x a + exponential of rate r, by r."""

    def f(a, r):
        a = jax.lax.stop_gradient(a)
        x = ppgen.draw(affine(dist.Exponential(r), a, 1.0), grad=ScoreFunction())
        return jnp.where(x > 0.7, 1.0, 0.0)

    g = jax.jit(jax.grad(ppgen.expectation(f, draws=40_000), argnums=2))
    assert abs(g(KEY, 0.2, 1.1) + 0.5 * np.exp(-0.55)) < 0.02


def test_second_derivatives_by_a_bound_beside_a_kink():
    make, _, theta, _ = CASES["laplace in an interval"]
    with pytest.raises(DerivativeError, match="kink"):
        jax.hessian(ppgen.expectation(drawn(make, ScoreFunction())), argnums=1)(
            KEY, jnp.array(theta)
        )


# With a parameter and a bound; and the probability of more than 0.7 where the bound is at 0.4.
BOUNDED = {
    "uniform": (lambda t, b: dist.Uniform(0.0, b + 0.5), lambda t: 0.2 / 0.9),
    "truncated": (
        lambda t, b: dist.TruncatedNormal(t, 1.0, low=b - 1.0),
        lambda t: jax.scipy.special.ndtr(t - 0.7) / jax.scipy.special.ndtr(t + 0.6),
    ),
    "shifted": (
        lambda t, b: dist.TransformedDistribution(
            dist.Exponential(jnp.exp(t)), dist.transforms.AffineTransform(b, 1.0)
        ),
        lambda t: jnp.exp(-(0.7 - 0.4) * jnp.exp(t)),
    ),
}


@pytest.mark.parametrize("family", BOUNDED)
@pytest.mark.parametrize("site", [False, True])
def test_a_jump_after_bounds_that_move_and_the_advice_to_hold_them(family, site):
    """The score function is for the jump; what the bounds add to it no derivative sees."""
    make, probability = BOUNDED[family]

    def cost(t, b):
        d = make(t, b)
        if site:
            x = numpyro.sample("x", d, infer={"grad": ppgen.ScoreFunction()})
        else:
            x = ppgen.draw(d, name="x", grad=ppgen.ScoreFunction())
        return jnp.where(x > 0.7, 1.0, 0.0) * t

    with pytest.raises(ppgen.errors.DiscontinuityError) as error:
        jax.grad(ppgen.expectation(lambda t: cost(t, t)), 1)(jax.random.key(0), 0.4)
    assert error.value.instead.startswith("jax.lax.stop_gradient of the bounds")

    def held(t):
        return cost(t, jax.lax.stop_gradient(t))

    keys = jax.random.split(jax.random.key(1), 20_000)
    run = jax.vmap(jax.grad(ppgen.expectation(held), 1), (0, None))
    slopes = np.asarray(jax.jit(run)(keys, 0.4))
    exact = jax.grad(lambda t: t * probability(t))(0.4)
    assert abs(slopes.mean() - exact) < 5 * slopes.std() / len(keys) ** 0.5
