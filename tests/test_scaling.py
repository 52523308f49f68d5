"""The size of what is compiled, and the time to trace it, in the number of random choices."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen._staging.primitives import equations


def pathwise_chain(n):
    def f(theta):
        x = theta
        for i in range(n):
            x = ppgen.draw(dist.Normal(0.5 * x, 1.0), name=f"x{i}")
        return x**2

    return f


def score_chain(n):
    def f(theta):
        x, cost = theta, 0.0
        for i in range(n):
            flip = dist.Bernoulli(logits=x - 0.5)
            x = theta * ppgen.draw(flip, name=f"x{i}", grad=ppgen.ScoreFunction())
            cost = cost + x**2
        return cost

    return f


def dependent(estimator):
    """A chain whose costs see two choices each, and are influenced by all before them."""

    def sized(n):
        def f(theta):
            z, cost = 0.3, 0.0
            for i in range(n):
                flip = dist.Bernoulli(logits=theta * z - 0.5)
                new = ppgen.draw(flip, name=f"x{i}", grad=estimator) * 1.5
                z, cost = new, cost + jnp.sin(z + 2.0 * new)
            return cost

        return f

    return sized


def independent(estimator):
    def sized(n):
        def f(theta):
            cost = 0.0
            for i in range(n):
                flip = dist.Bernoulli(logits=theta * (i + 1))
                cost = cost + (ppgen.draw(flip, name=f"x{i}", grad=estimator) - 0.3) ** 2
            return cost

        return f

    return sized


def evidence_bound(n):
    def model(theta):
        x = 0.0
        for i in range(n):
            x = numpyro.sample(f"x{i}", dist.Normal(x, 1.0))

    def guide(theta):
        for i in range(n):
            numpyro.sample(f"x{i}", dist.Normal(theta, 1.0))

    def f(theta):
        trace = ppgen.simulate(guide)(theta)
        return ppgen.log_density(model)(trace, theta) - trace.log_density

    return f


PROGRAMS = {
    "a chain of pathwise choices": pathwise_chain,
    "a chain of score-function choices": score_chain,
    "independent score-function choices": independent(ppgen.ScoreFunction()),
    "independent enumerated choices": independent(ppgen.Enumerate()),
}
MORE_PROGRAMS = {
    "a chain of enumerated choices": dependent(ppgen.Enumerate()),
    "a chain of measure-valued choices": dependent(ppgen.MeasureValued()),
    "a chain of automatic choices": lambda n: ppgen.with_estimators(
        dependent(ppgen.ScoreFunction())(n), {"*": "auto"}
    ),
    "independent measure-valued choices": independent(ppgen.MeasureValued()),
    "model and guide": evidence_bound,
}


def size(program, n):
    jaxpr = jax.make_jaxpr(ppgen.expectation(program(n)))(jax.random.key(0), 0.3)
    return sum(1 for _ in equations(jaxpr))


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("name", PROGRAMS)
def test_equations_are_linear_up_to_a_thousand_sites(name):
    sizes = {n: size(PROGRAMS[name], n) for n in (10, 100, 1000)}
    assert sizes[1000] - sizes[100] == 10 * (sizes[100] - sizes[10]), sizes


@pytest.mark.parametrize("name", MORE_PROGRAMS)
def test_equations_are_linear_in_the_number_of_sites(name):
    sizes = {n: size(MORE_PROGRAMS[name], n) for n in (5, 10, 60)}
    assert sizes[60] - sizes[10] == 10 * (sizes[10] - sizes[5]), sizes


def test_enumeration_is_right_where_the_joint_support_is_astronomical():
    theta, n = 0.02, 40
    g = jax.jit(jax.value_and_grad(ppgen.expectation(independent(ppgen.Enumerate())(n)), 1))
    value, slope = g(jax.random.key(0), theta)
    p = jax.nn.sigmoid(theta * jnp.arange(1, n + 1))
    exact = jnp.sum(p * 0.7**2 + (1 - p) * 0.3**2)
    assert jnp.allclose(value, exact, rtol=1e-5)
    assert jnp.allclose(slope, jnp.sum(0.4 * p * (1 - p) * jnp.arange(1, n + 1)), rtol=1e-4)
