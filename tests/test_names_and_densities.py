"""Names that match nothing, densities without a sampler, and sites of size zero."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ppgen
from ppgen.errors import SiteError
from ppgen.inference import elbo

KEY = jax.random.key(0)


def flips(p):
    a = numpyro.sample("a", dist.Bernoulli(p))
    return a + 2.0 * numpyro.sample("b_1", dist.Bernoulli(p))


@pytest.mark.parametrize("name", ["c", "b", "c_*", "A"])
def test_a_name_that_matches_no_site_is_refused(name):
    """Also beside one that does; the error lists the sites."""
    chosen = {"a": ppgen.Enumerate(), name: ppgen.Enumerate()}
    with pytest.raises(SiteError, match=r"\['a', 'b_1'\]") as e:
        ppgen.expectation(ppgen.with_estimators(flips, chosen))(KEY, 0.3)
    assert e.value.site == name and __file__ in e.value.where
    with pytest.raises(SiteError, match="matches no site"):
        ppgen.variance(flips, [ppgen.ScoreFunction(), chosen], samples=4)(KEY, 0.3)


def test_names_that_match_are_taken():
    exact = {"a": ppgen.Enumerate(), "b_*": ppgen.Enumerate()}
    inner = ppgen.with_estimators(flips, exact)
    for program in (inner, ppgen.with_estimators(inner, {"a": ppgen.ScoreFunction()})):
        slope = jax.grad(ppgen.expectation(program), argnums=1)(KEY, 0.3)
        np.testing.assert_allclose(slope, 3.0, rtol=1e-5)
    # The second trace of a jitted program may be one that JAX has kept.
    jitted = ppgen.with_estimators(jax.jit(flips), exact)
    for _ in range(2):
        np.testing.assert_allclose(ppgen.expectation(jitted)(KEY, 0.3), 0.9, rtol=1e-5)


def test_two_sites_of_one_name_are_refused():
    def program():
        numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(SiteError, match="same name"):
        ppgen.seed(ppgen.simulate(program))(KEY)


class Quadratic(dist.Distribution):
    """A user's density, up to a constant, without a sampler."""

    support = dist.constraints.real
    pytree_data_fields = ("scale",)

    def __init__(self, scale):
        self.scale = scale
        super().__init__(jnp.shape(scale), ())

    def log_prob(self, value):
        return -0.5 * (value / self.scale) ** 2


DENSITIES = {
    "improper": (lambda: dist.ImproperUniform(dist.constraints.real, (), ()), lambda z: 0.0 * z),
    "of a user": (lambda: Quadratic(2.0), lambda z: -(z**2) / 8),
    "masked": (lambda: Quadratic(2.0).mask(True), lambda z: -(z**2) / 8),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_without_a_sampler(name):
    """It works wherever its value is given, and is refused where it would be drawn."""
    make, exact = DENSITIES[name]

    def model(t):
        z = numpyro.sample("z", make())
        numpyro.sample("y", dist.Normal(z, 1.0), obs=0.5)

    def guide(t):
        numpyro.sample("z", dist.Normal(t, 0.5))

    want = exact(0.3) + dist.Normal(0.3, 1.0).log_prob(0.5)
    np.testing.assert_allclose(ppgen.log_density(model)({"z": 0.3}, 0.0), want, rtol=1e-5)
    given = handlers.condition(model, {"z": 0.3})
    np.testing.assert_allclose(ppgen.log_density(given)({}, 0.0), want, rtol=1e-5)
    g = jax.vmap(jax.grad(ppgen.expectation(elbo(model, guide)), argnums=1), (0, None))
    slopes = g(jax.random.split(KEY, 4000), 0.2)
    slope = jax.grad(lambda t: exact(t) - 0.5 * (0.5 - t) ** 2)(0.2)
    assert abs(slopes.mean() - slope) < 5 * slopes.std() / 4000**0.5
    with pytest.raises(SiteError, match="no sampler"):
        ppgen.seed(ppgen.simulate(model))(KEY, 0.2)


SIZE_ZERO = {
    "normal": lambda t: dist.Normal(jnp.zeros(0) + t, 1.0),
    "bernoulli": lambda t: dist.Bernoulli(jnp.full((0, 3), t)),
    "gamma": lambda t: dist.Gamma(jnp.ones(0) * t, 1.0),
    "event": lambda t: dist.Normal(t, 1.0).expand([0]).to_event(1),
}


@pytest.mark.parametrize("name", SIZE_ZERO)
def test_a_site_of_size_zero(name):
    def program(t):
        x = numpyro.sample("x", SIZE_ZERO[name](t))
        return jnp.sum(x * 1.0) + t**2

    np.testing.assert_allclose(
        jax.grad(ppgen.expectation(program, draws=2), argnums=1)(KEY, 0.2), 0.4, rtol=1e-5
    )
    assert jax.grad(ppgen.expectation(elbo(program, program)), argnums=1)(KEY, 0.2) == 0.0


def test_a_minibatch_and_a_scan_of_size_zero():
    def program():
        with numpyro.plate("N", 4, subsample_size=0) as i:
            numpyro.sample("y", dist.Normal(0.0, 1.0), obs=jnp.zeros(4)[i])
        scan(lambda c, _: (numpyro.sample("z", dist.Normal(c, 1.0)), None), 0.0, None, length=0)

    assert ppgen.seed(ppgen.simulate(program))(KEY).log_density == 0.0


def _again(t):
    return numpyro.sample("z", dist.Normal(t, 1.0))


def _twice(t):
    first = _again(t)
    return first * numpyro.sample("z", dist.Normal(t, 1.0))


def _in_a_python_loop(t):
    return sum(_again(t) for _ in range(2))


def _in_a_scan_and_after(t):
    states, _ = scan(lambda s, _: (_again(s), None), t, None, length=2)
    return states + numpyro.sample("z", dist.Normal(t, 1.0))


def _in_a_function_that_is_called_twice(t):
    call = jax.jit(_again)
    return call(t) + call(2 * t)


def _as_a_factor(t):
    numpyro.factor("z", t)
    return _again(t)


def _one_minibatch_and_another(t):
    def batch(name):
        with numpyro.plate("data", 4, subsample_size=2):
            return jnp.sum(numpyro.sample(name, dist.Normal(t, 1.0)))

    return batch("a") + batch("b")


@pytest.mark.parametrize(
    "program",
    [
        _twice,
        _in_a_python_loop,
        _in_a_scan_and_after,
        _in_a_function_that_is_called_twice,
        _as_a_factor,
        _one_minibatch_and_another,
    ],
)
def test_two_sites_of_one_name_are_an_error_that_says_where_both_are(program):
    runs = (
        lambda: jax.grad(ppgen.expectation(program), 1)(KEY, 0.3),
        lambda: ppgen.seed(program)(KEY, 0.3),
        lambda: ppgen.seed(ppgen.simulate(program))(KEY, 0.3),
        lambda: ppgen.log_density(program)({}, 0.3),
    )
    same = program in (
        _in_a_python_loop,
        _in_a_function_that_is_called_twice,
        _one_minibatch_and_another,
    )
    for run in runs:
        with pytest.raises(SiteError, match="two sites of one program") as error:
            run()
        lines = set(re.findall(r"test_names_and_densities.py:\d+", str(error.value)))
        assert len(lines) == (1 if same else 2)
        assert ("on the same line" in str(error.value)) == same
        assert "handlers.scope" in error.value.instead


def test_one_name_for_sites_of_which_there_is_one():
    """In two branches, in each run of a program, and with `handlers.scope`, which is the advice."""

    def branches(t):
        return jax.lax.cond(t > 0, lambda: _again(t), lambda: _again(-t))

    def runs(t):
        first, second = (ppgen.simulate(_again)(t)["z"] for _ in range(2))
        return first + second

    def scoped(t):
        with numpyro.handlers.scope(prefix="first"):
            first = _again(t)
        return first + _again(t)

    for f, slope in ((branches, 1.0), (runs, 2.0), (scoped, 2.0)):
        assert jax.grad(ppgen.expectation(f), 1)(KEY, 0.3) == slope


def test_a_density_of_numpyro_at_sites_that_were_drawn():
    """The sites whose values NumPyro's `log_density` is given are those of the objective."""
    from numpyro.infer.util import log_density

    def model(t):
        numpyro.sample("z", dist.Normal(t, 1.0))

    def objective(t):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        return log_density(model, (t,), {}, {"z": z})[0]

    gradient = jax.grad(ppgen.expectation(objective, draws=4000), argnums=1)(jax.random.key(0), 0.3)
    assert abs(gradient + 0.3) < 5 / 4000**0.5  # of -(1 + t²) / 2
