"""`ppgen.testing`: the oracle against closed forms, the statistics against known biases."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.scipy.special import gammaln

import ppgen
from ppgen import PpgenError, draw
from ppgen.testing import (
    CASES,
    DISTRIBUTIONS,
    ESTIMATORS,
    UnderpoweredError,
    assert_unbiased,
    distributions,
    estimators,
    exact,
    planted,
    programs,
    sound_estimators,
)

# Runtime type checks draw random numbers, also inside of strategies.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module")

few = settings(
    max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)

# A distribution, an integrand, and the exact expectation, as functions of two parameters.
CLOSED_FORMS = {
    "Normal": (
        dist.Normal,
        lambda x: x**4,
        (0.3, 0.7),
        lambda m, s: m**4 + 6 * (m * s) ** 2 + 3 * s**4,
    ),
    "LogNormal": (dist.LogNormal, jnp.square, (0.3, 0.7), lambda m, s: jnp.exp(2 * m + 2 * s**2)),
    "Gamma": (dist.Gamma, jnp.square, (0.3, 0.7), lambda a, b: a * (a + 1) / b**2),
    "Beta": (dist.Beta, lambda x: x, (0.5, 1.7), lambda a, b: a / (a + b)),
    "Uniform": (dist.Uniform, jnp.square, (0.5, 1.7), lambda a, b: (a * a + a * b + b * b) / 3),
    "Laplace": (dist.Laplace, jnp.square, (0.5, 1.7), lambda m, s: m**2 + 2 * s**2),
    "Gumbel": (dist.Gumbel, lambda x: x, (0.5, 1.7), lambda m, s: m + s * np.euler_gamma),
    "StudentT": (
        lambda m, s: dist.StudentT(9.0, m, s),
        jnp.square,
        (0.5, 1.7),
        lambda m, s: m**2 + s**2 * 9 / 7,
    ),
    "Weibull": (
        dist.Weibull,
        jnp.square,
        (0.5, 1.7),
        lambda s, k: s**2 * jnp.exp(gammaln(1 + 2 / k)),
    ),
    "Pareto": (dist.Pareto, lambda x: x, (0.5, 4.7), lambda s, a: a * s / (a - 1)),
    "InverseGamma": (dist.InverseGamma, lambda x: x, (2.7, 2.0), lambda a, b: b / (a - 1)),
    "Poisson": (
        lambda a, b: dist.Poisson(a * b),
        jnp.square,
        (2.3, 1.0),
        lambda a, b: a * b + (a * b) ** 2,
    ),
    "Geometric": (
        lambda a, b: dist.Geometric(a * b),
        lambda x: 1.0 * x,
        (0.3, 1.0),
        lambda a, b: 1 / (a * b) - 1,
    ),
    "Binomial": (
        lambda a, b: dist.Binomial(5, logits=a + b),
        lambda x: 1.0 * x,
        (0.2, -0.2),
        lambda a, b: 5 * jax.nn.sigmoid(a + b),
    ),
    "Bernoulli": (
        lambda a, b: dist.Bernoulli(logits=a + b),
        lambda x: 1.0 * x,
        (0.2, -0.2),
        lambda a, b: jax.nn.sigmoid(a + b),
    ),
    "Multinomial": (
        lambda a, b: dist.Multinomial(3, jnp.stack([a, b, 1 - a - b])),
        lambda x: 1.0 * x[0] * x[1],
        (0.2, 0.3),
        lambda a, b: 6 * a * b,
    ),
    "Dirichlet": (
        lambda a, b: dist.Dirichlet(jnp.stack([a, b, 0.8 * jnp.ones(())])),
        lambda x: x[0] * x[1],
        (2.0, 1.5),
        lambda a, b: a * b / (a + b + 0.8) / (a + b + 1.8),
    ),
    "MultivariateNormal": (
        lambda a, b: dist.MultivariateNormal(
            jnp.stack([a, b]), scale_tril=jnp.array([[1.0, 0.0], [0.4, 0.8]])
        ),
        lambda x: x[0] ** 2 * x[1],
        (2.0, -1.5),
        lambda a, b: (a**2 + 1) * b + 0.8 * a,
    ),
}


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_grids_have_closed_forms(name):
    make, f, at, expected = CLOSED_FORMS[name]
    oracle = exact(lambda t: f(draw(make(t[0], t[1]))))
    with jax.enable_x64(True):
        theta = jnp.array(at)

        def all_orders(g):
            # One compilation for the value and both derivatives.
            first = jax.jacfwd(lambda t: (g(t), g(t)), has_aux=True)

            def second(t):
                slope, value = first(t)
                return slope, (value, slope)

            curvature, lower = jax.jit(jax.jacfwd(second, has_aux=True))(theta)
            return *lower, curvature

        got = all_orders(oracle)
        for one, other in zip(got, all_orders(lambda t: expected(t[0], t[1])), strict=True):
            np.testing.assert_allclose(one, other, 1e-5, 1e-7)


def test_quadrature_of_a_discontinuous_cost():
    def f(theta):
        return 1.0 * (draw(dist.Normal(theta, 2.0)) > 0.5)

    for order, derivative in enumerate((lambda g: g, jax.grad)):
        got = derivative(exact(f, nodes=4000))(0.3)
        expected = derivative(lambda t: jax.scipy.stats.norm.cdf((t - 0.5) / 2))(0.3)
        np.testing.assert_allclose(got, expected, 1e-3, err_msg=str(order))


def test_oracle_in_control_flow():
    def f(p):
        def step(c, x):
            b = draw(dist.Bernoulli(p))
            return c + b * c, b * x

        c, seen = jax.lax.scan(step, 1.0, jnp.arange(1.0, 3.0), reverse=True)
        y = jax.vmap(lambda s: draw(dist.Normal(s * p, 1.0)))(jnp.arange(2.0))
        z = jax.lax.cond(
            seen[0] > 0, lambda: draw(dist.Categorical(jnp.stack([1 - p, p]))), lambda: 3
        )
        n = jax.lax.while_loop(
            lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] * (1 + draw(dist.Bernoulli(p)))), (0, 1.0)
        )[1]
        return jax.jit(lambda c: c + z)(c) + jnp.sum(y**2) + n + seen[1]

    def expected(p):
        return (1 + p) ** 2 + (p * p + (1 - p) * 3) + (2 + p**2) + (1 + p) ** 2 + 2 * p

    for derivative in (lambda g: g, jax.grad, lambda g: jax.grad(jax.grad(g))):
        got = derivative(exact(f, nodes=24))(0.3)
        np.testing.assert_allclose(got, derivative(expected)(0.3), 1e-5)


def test_oracle_under_transformations():
    def f(theta):
        return draw(dist.Normal(theta["a"], 1.0)) ** 2 * theta["b"]

    assert exact(f)({"a": jnp.array(0.5), "b": 2.0}).dtype == jnp.float32
    with jax.enable_x64(True):
        theta = {"a": jnp.array([0.5, 1.0]), "b": jnp.array([2.0, 3.0])}
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(exact(f))))(theta)
        np.testing.assert_allclose(value, (theta["a"] ** 2 + 1) * theta["b"], 1e-5)
        np.testing.assert_allclose(slope["a"], 2 * theta["a"] * theta["b"], 1e-5)
        assert exact(f)({"a": jnp.array(0.5), "b": 2.0}).dtype == jnp.float64


def test_oracle_of_sites_and_programs():
    def model(p):
        with numpyro.plate("N", 4, subsample_size=2) as index:
            x = numpyro.sample("x", dist.Normal(p, 1.0))
        y = numpyro.sample("y", dist.Normal(0.0, 1.0), obs=jnp.array(2.0))
        return jnp.sum(x**2) + jnp.sum(index) + y

    # Indices 0..3, two of them: their mean sum is 3.
    np.testing.assert_allclose(exact(model, nodes=24)(0.5), 2 * 1.25 + 3 + 2, 1e-5)

    def density(p):
        return ppgen.simulate(lambda: numpyro.sample("x", dist.Normal(p, 1.0)))().log_density

    np.testing.assert_allclose(exact(density)(0.5), -0.5 * math.log(2 * math.pi) - 0.5, 1e-5)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda p: jnp.sum(draw(dist.Normal(jnp.zeros(6), 1.0))) * p, "48\\*\\*6.*12,230,590,464"),
        (lambda p: draw(dist.Bernoulli(p)) * jnp.ones(2), "real scalar"),
        (lambda p: "text", "real scalar"),
        (lambda p: jax.random.normal(numpyro.prng_key()) * p, "raw PRNG key"),
        (lambda p: draw(dist.Normal(jax.random.normal(numpyro.prng_key()), p)), "raw PRNG key"),
        (
            lambda p: jax.lax.while_loop(
                lambda c: c < p, lambda c: c + draw(dist.Normal(1.0, 1.0)), 0.0
            ),
            "number of steps",
        ),
    ],
)
def test_oracle_refuses(f, message):
    with pytest.raises(PpgenError, match=message):
        exact(f)(0.3)


def test_oracle_notices_a_grid_that_misses_mass():
    with pytest.raises(Exception, match="misses or doubles"):
        exact(lambda p: 1.0 * draw(dist.Poisson(p)))(200.0)
    assert exact(lambda p: 1.0 * draw(dist.Poisson(p)), terms=400)(200.0) == pytest.approx(200.0)


# Estimators of E[x^2], x ~ N(theta, 1), that are what they say.


def honest(f, **_):
    def g(key, theta):
        return (theta + jax.random.normal(key)) ** 2

    return g


def wrong(value=0.0, slope=0.0, curvature=0.0):
    """Off by these amounts at theta = 0.5."""

    def expectation(f):
        def g(key, theta):
            step = theta - 0.5
            bias = value + slope * step + curvature * step**2 / 2
            return honest(f)(key, theta) + bias

        return g

    return expectation


def second_moment(theta):
    return theta**2 + 1


def check(expectation, **options):
    return assert_unbiased(
        second_moment,
        jnp.array(0.5),
        exact=second_moment,
        expectation=expectation,
        **{"samples": 10_000} | options,
    )


def test_an_unbiased_estimator_passes():
    entries = check(honest)
    assert [e.order for e in entries] == [0, 1, 2]
    assert [e.exact for e in entries] == pytest.approx([1.25, 1.0, 2.0])
    # Twice 0.5 plus noise, of standard deviation 2.
    assert entries[1].error == pytest.approx(2 / 100, rel=0.05)
    assert entries[2].error == 0
    assert entries[2].z == 0


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("seed", range(20))
def test_error_probability(seed):
    check(honest, key=jax.random.key(seed), samples=2000, error_probability=1e-3, detect=0.5)


@pytest.mark.parametrize(
    ("bias", "order"), [({"value": 0.2}, 0), ({"slope": -0.2}, 1), ({"curvature": 0.01}, 2)]
)
def test_a_bias_is_found_in_its_order(bias, order):
    with pytest.raises(AssertionError, match="biased: 1 of 3") as error:
        check(wrong(**bias))
    name = ["value", "d/dargs[0]", "d2/dargs[0] dargs[0]"][order]
    text = str(error.value)
    assert f"  {name}: estimate" in text
    assert "standard error" in text and "exact" in text and "z = " in text
    if order < 2:
        check(wrong(**{"curvature": 0.01}), order=order)


def test_a_nan_fails():
    with pytest.raises(AssertionError, match="nan"):
        check(lambda f: lambda key, theta: theta * jnp.nan)


def test_a_test_that_cannot_fail_is_refused():
    def noisy(f):
        return lambda key, theta: second_moment(theta) + 50.0 * theta * jax.random.normal(key)

    with pytest.raises(UnderpoweredError, match="cannot show a bias of 20%: value") as error:
        check(noisy, order=1)
    assert "samples=" in str(error.value)
    check(noisy, order=1, detect=math.inf)


def test_rare_events_are_refused():
    def rare(f):
        # The cube of a Cauchy variable: the largest estimate dwarfs all others.
        return lambda key, theta: second_moment(theta) + jax.random.cauchy(key) ** 3

    with pytest.raises(UnderpoweredError, match="makes .* of the variance"):
        check(rare, order=0, samples=2000, detect=1e30)


def test_names_of_entries():
    def f(params, data):
        x = draw(dist.Normal(params["loc"][0], params["scale"]))
        return x * data + params["loc"][1]

    params = {"loc": jnp.array([0.5, 1.0]), "scale": 1.0, "n": 3}
    entries = assert_unbiased(f, params, jnp.array(2.0), order=1, argnums=(0, 1))
    assert [e.name for e in entries] == [
        "value",
        "d/dargs[0]['loc'][0]",
        "d/dargs[0]['loc'][1]",
        "d/dargs[0]['scale']",
        "d/dargs[1]",
    ]
    with pytest.raises(ValueError, match="no floating-point number"):
        assert_unbiased(f, params, 3, argnums=1)
    with pytest.raises(ValueError, match="order must be"):
        assert_unbiased(f, params, 2.0, order=3)


def test_expectation_options():
    def f(theta):
        b = draw(dist.Bernoulli(theta))
        return b * 2.0, {"b": b}

    entries = assert_unbiased(f, 0.3, order=1, has_aux=True, draws=3)
    assert entries[0].exact == pytest.approx(0.6)


@few
@given(distributions())
def test_random_distributions_are_valid(d):
    x = d.sample(jax.random.key(0), (3,))
    assert x.shape == (3, *d.batch_shape, *d.event_shape)
    assert jnp.all(jnp.isfinite(d.log_prob(x)))


@few
@given(st.data(), distributions())
def test_random_estimators_fit(data, d):
    estimator = data.draw(estimators(d))
    assert estimator.misfit(d) is None and not estimator.biased


def test_every_estimator_is_sound_somewhere():
    found = set()
    for make, parameters in DISTRIBUTIONS.values():
        values = {"simplex": jnp.array([0.4, 0.6]), "logits": jnp.ones(2), "reals": jnp.ones(2)}
        values["positives"] = jnp.ones(2)
        d = make(**{p: values.get(kind, jnp.array(0.5)) for p, kind in parameters.items()})
        found |= set(sound_estimators(d))
    assert found == set(ESTIMATORS)
    used = {name for case in CASES.values() for names in case.sites.values() for name in names}
    assert used == set(ESTIMATORS)


@few
@given(programs())
def test_random_programs_run(program):
    shape = jax.eval_shape(ppgen.seed(program), jax.random.key(0), *program.args)
    assert shape.shape == ()
    assert eval(repr(program.theta)) == program.theta


def test_planting_a_bug_is_undone():
    right = ppgen.ScoreFunction.__call__
    with planted("dropped score term"):
        assert ppgen.ScoreFunction.__call__ is not right
    assert ppgen.ScoreFunction.__call__ is right
