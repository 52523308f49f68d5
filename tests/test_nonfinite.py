"""What makes a result that is not finite is found, and nothing else is blamed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import first_nonfinite

KEY = jax.random.key(0)


def model(log_scale):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(z, jnp.exp(log_scale)), obs=1.0)


def score(log_scale):
    return ppgen.simulate(model)(log_scale).log_density


def test_names_the_density_of_a_site_and_its_line():
    bound = ppgen.expectation(score)
    assert first_nonfinite(bound)(KEY, 1.0) is None
    found = first_nonfinite(jax.value_and_grad(bound, argnums=1))(KEY, -200.0)
    assert (found.operation, found.result, found.operands) == ("log", "-inf", ((0.0, 0.0),))
    assert (found.site, found.part) == ("x", "density")
    assert "test_nonfinite.py:" in found.where and '"x"' in found.source
    assert found.outputs == ("[0]", "[1]")
    assert "in the density of site 'x'; then sub of values in [-inf, -inf]" in str(found)


@pytest.mark.parametrize(
    "estimator", [ppgen.Reparameterize(), ppgen.ScoreFunction(), ppgen.MeasureValued()]
)
def test_names_the_draw_of_a_site(estimator):
    def f(scale):
        y = ppgen.draw(dist.Normal(0.0, 1.0), name="y")
        return y + ppgen.draw(dist.Normal(jnp.log(scale), 1.0), name="g", grad=estimator)

    found = first_nonfinite(ppgen.expectation(f))(KEY, -1.0)
    assert (found.operation, found.result, found.site) == ("log", "nan", None)
    assert "jnp.log(scale)" in found.source

    def g(rate):
        return ppgen.draw(dist.Gamma(rate, 1.0), name="g")

    found = first_nonfinite(ppgen.expectation(g))(KEY, -1.0)
    assert (found.result, found.site, found.part) == ("nan", "g", "draw")


def test_names_the_line_of_the_site_where_two_are_alike():
    """What is traced once for both has the lines of the first."""

    def f(theta):
        good = ppgen.draw(dist.Normal(theta, theta + 1.0), name="a", grad=ppgen.ScoreFunction())
        bad = ppgen.draw(dist.Normal(theta, theta - 0.5), name="b", grad=ppgen.ScoreFunction())
        return good + bad

    found = first_nonfinite(jax.grad(ppgen.expectation(f), 1))(KEY, 0.5)
    assert "theta - 0.5" in str(found) and "site 'b'" in str(found)


def test_infinities_that_do_not_matter_are_not_blamed():
    def f(x):
        masked = jnp.where(x > 0, jnp.log(x), 0.0)  # log 0 is not used
        probabilities = jax.nn.softmax(jnp.where(x > 0, x, -jnp.inf))  # -inf is meant
        return jnp.sum(masked + probabilities)

    x = jnp.array([0.0, 1.0, 2.0])
    assert first_nonfinite(f)(x) is None
    found = first_nonfinite(lambda x: f(x) + jnp.sqrt(x[1] - 2.0))(x)
    assert (found.operation, found.operands) == ("sqrt", ((-1.0, -1.0),))


def test_what_turns_an_infinity_into_nan_is_told_as_well():
    found = first_nonfinite(lambda p: p * jnp.log(p))(0.0)
    assert (found.operation, found.then.operation, found.then.result) == ("log", "mul", "nan")


def test_a_gradient_that_the_value_does_not_show():
    def f(params):
        return jnp.sqrt(params["b"]) + params["a"]

    found = first_nonfinite(jax.value_and_grad(f))({"a": 1.0, "b": 0.0})
    assert (found.operation, found.outputs) == ("div", ("[1]['b']",))
    assert "jnp.sqrt" in found.source


def test_arguments_and_constants():
    assert first_nonfinite(lambda a, b: a + b["x"])(1.0, {"x": jnp.nan}).where == "[1]['x']"
    data = jnp.array([1.0, jnp.nan])
    assert first_nonfinite(lambda a: a + data)(1.0).operation == "constant"


@jax.jit
def inner(x):
    return jnp.log(x)


@jax.custom_jvp
def custom(x):
    return jnp.log(x)


custom.defjvp(lambda x, t: (custom(*x), t[0] / x[0]))


@pytest.mark.parametrize(
    "f", [inner, custom, jax.checkpoint(jnp.log), lambda x: jax.lax.cond(x < 0, jnp.log, abs, x)]
)
def test_looks_into_calls(f):
    assert first_nonfinite(f)(-1.0).operation == "log"


def test_looks_into_loops():
    def scanned(x, reverse=False):
        def step(carry, t):
            return carry - t, jnp.log(carry)

        return jax.lax.scan(step, x, jnp.arange(4.0), reverse=reverse)[1].sum()

    found = first_nonfinite(scanned)(0.5)  # .5, .5, -.5
    assert (found.operation, found.step, found.operands) == ("log", (2,), ((-0.5, -0.5),))
    assert first_nonfinite(lambda x: scanned(x, reverse=True))(0.5).step == (1,)

    def counted(x):
        return jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, jnp.sqrt(c[1] - 1)), x)

    found = first_nonfinite(counted)((0, 5.0))
    assert (found.operation, found.step, found.outputs) == ("sqrt", (3,), ("[1]",))
    nested = jax.vmap(scanned)
    assert first_nonfinite(nested)(jnp.array([9.0, 0.5])).step == (2,)
