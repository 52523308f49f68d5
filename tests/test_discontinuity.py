"""What the search for discontinuities must not find, and what must not hide them from it."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.inference import elbo


def test_a_result_that_nobody_uses():
    """`logsumexp` computes a sign in passing."""

    def f(theta):
        x = ppgen.draw(dist.Normal(theta, 1.0).expand([3]), name="x")
        jnp.floor(x)
        return jax.nn.logsumexp(x)

    gradient = jax.grad(ppgen.expectation(f), argnums=1)(jax.random.key(0), 0.3)
    assert jnp.allclose(gradient, 1.0)


def test_the_support_of_a_density():
    """A uniform density is an indicator, in a function that JAX compiles of its own."""

    def model(theta):
        numpyro.sample("u", dist.Uniform(0.0, 5.0))

    def guide(theta):
        numpyro.sample("u", dist.Uniform(0.0, jnp.asarray(theta)))

    g = ppgen.expectation(elbo(model, guide))
    assert jnp.allclose(g(jax.random.key(0), 0.5), jnp.log(0.5 / 5))
    assert jnp.allclose(jax.grad(g, argnums=1)(jax.random.key(0), 0.5), 2.0)


@pytest.mark.parametrize("scope", ["sample", "log_prob", "resample"])
def test_a_scope_of_the_user(scope):
    def f(theta):
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x")
        with jax.named_scope(scope):
            return jnp.floor(x)

    with pytest.raises(ppgen.PpgenError, match="floor"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


def test_the_line_of_what_jax_compiles_of_its_own():
    """JAX keeps no line inside of its functions: the line of the call is named."""

    def f(theta):
        b = ppgen.draw(dist.Bernoulli(theta), name="b")
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x")
        return b * jnp.where(x > 0, 1.0, 0.0)

    with pytest.raises(ppgen.PpgenError, match=r"at .*test_discontinuity\.py:\d+:"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


@pytest.mark.parametrize(
    ("jump", "what"),
    [
        (lambda x: jnp.arctan2(x - 1.0, x - 2.0), "branch cut"),
        (lambda x: jax.lax.rem(5.0, x), "a remainder"),
    ],
)
def test_jumps_of_either_operand(jump, what):
    """Pathwise, E[angle] would miss the jump where the second coordinate is negative."""

    def f(theta):
        return jump(ppgen.draw(dist.Normal(theta, 1.0), name="x"))

    with pytest.raises(ppgen.PpgenError, match=what):
        ppgen.expectation(f)(jax.random.key(0), 0.3)
