"""The functions of the registry: small objectives, each with one thing that can go wrong.

Each takes `theta`, a vector. Choices are named, so that estimators can be chosen from outside.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.nn import sigmoid
from numpyro.contrib.control_flow import cond as numpyro_cond
from numpyro.contrib.control_flow import scan as numpyro_scan

from ppgen import draw, log_density, simulate


def _elbo(model, guide, theta: Array) -> Array:
    trace = simulate(guide)(theta)
    return log_density(model)(trace, theta) - trace.log_density


# One choice


def flip(theta):
    b = draw(dist.Bernoulli(sigmoid(theta[0])), name="z")
    return (b - theta[1]) ** 2


def logits(theta):
    # Networks start at logits of exactly zero, where NumPyro's density has a wrong derivative.
    return (draw(dist.Bernoulli(logits=theta), name="z") @ jnp.array([1.0, 2.0]) - 0.5) ** 2


def categorical(theta):
    k = draw(dist.Categorical(logits=theta), name="z")
    return jnp.array([1.0, -0.5, 2.0])[k] * theta[0] ** 2 + k


def binomial(theta):
    return jnp.sin(draw(dist.Binomial(3, sigmoid(theta[0])), name="z") + theta[1])


def poisson(theta):
    return jnp.exp(-draw(dist.Poisson(jnp.exp(theta[0])), name="z")) * theta[1]


def normal(theta):
    x = draw(dist.Normal(theta[0], jnp.exp(theta[1])), name="z")
    return jnp.sin(x) + 0.5 * x**2 * theta[0]


def step(theta):
    return 1.0 * (draw(dist.Normal(theta[0], jnp.exp(theta[1])), name="z") > 0.4)


def step_exact(theta):
    return jax.scipy.stats.norm.cdf((theta[0] - 0.4) / jnp.exp(theta[1]))


def gamma(theta):
    return jnp.log1p(draw(dist.Gamma(jnp.exp(theta[0]), jnp.exp(theta[1])), name="z"))


def beta(theta):
    return draw(dist.Beta(jnp.exp(theta[0]), 2.0), name="z") ** 2 * theta[1]


def dirichlet(theta):
    x = draw(dist.Dirichlet(jnp.exp(jnp.append(theta, 0.3))), name="z")
    return (x[0] - jnp.sin(x[2])) ** 2


# Several choices


def product(theta):
    # The second derivative of p^2 is 2: a product of two scores.
    p = sigmoid(theta[0])
    return 1.0 * draw(dist.Bernoulli(p), name="z1") * draw(dist.Bernoulli(p), name="z2")


def chain(theta):
    x = draw(dist.Normal(theta[0], 0.8), name="x")
    b = draw(dist.Bernoulli(logits=x + theta[1]), name="b")
    y = draw(dist.Normal(x * b, jnp.exp(theta[1])), name="y")
    return (y - 0.5) ** 2 + jnp.cos(x) * b


def elementwise(theta):
    with numpyro.plate("N", 3):
        b = numpyro.sample("z", dist.Bernoulli(logits=theta[0] * jnp.array([1.0, 0.5, -1.0])))
    return jnp.sum((b - theta[1]) ** 2 * jnp.array([1.0, 2.0, 3.0]))


def mixing(theta):
    with numpyro.plate("N", 3):
        b = numpyro.sample("z", dist.Bernoulli(logits=theta[0] * jnp.array([1.0, 0.5, -1.0])))
    return (jnp.sum(b) - theta[1]) ** 2 + jnp.sum(b * jnp.flip(b))


def nested_plates(theta):
    with numpyro.plate("N", 2, dim=-2):
        a = numpyro.sample("a", dist.Bernoulli(logits=theta[0]))
        with numpyro.plate("M", 2, dim=-1):
            b = numpyro.sample("b", dist.Bernoulli(logits=theta[1] + a))
    return jnp.sum((a - 0.3) * jnp.sum(b, axis=-1, keepdims=True)) + jnp.prod(b)


def lanes(theta):
    def lane(s):
        x = draw(dist.Normal(s * theta[0], 1.0), name="x")
        return x * draw(dist.Bernoulli(logits=x + theta[1]), name="b")

    return jnp.sum(jax.vmap(lane)(jnp.array([1.0, -0.5]))) ** 2


def matrix(theta):
    b = draw(dist.Bernoulli(logits=theta[0] * jnp.ones((2, 2))), name="z")
    return jnp.sum((b @ jnp.array([[1.0, 2.0], [0.5, -1.0]])) ** 2) + jnp.linalg.det(b + theta[1])


# Control flow


def jit(theta):
    f = jax.jit(lambda p: draw(dist.Bernoulli(logits=p), name="z") * p)
    return (f(theta[0]) + f(theta[1])) ** 2


def branch(theta):
    # What a branch drew is used afterwards.
    b = draw(dist.Bernoulli(logits=theta[0]), name="b")
    x = jax.lax.cond(
        b == 1,
        lambda t: draw(dist.Bernoulli(logits=t), name="z") * 2.0,
        lambda t: jnp.sin(t),
        theta[1],
    )
    return (x - 0.4) ** 2 + x * b


def switch(theta):
    k = draw(dist.Categorical(logits=jnp.append(theta, 0.2)), name="k")
    x = jax.lax.switch(
        k,
        [
            lambda t: draw(dist.Normal(t, 1.0), name="x"),
            lambda t: t**2,
            lambda t: draw(dist.Normal(0.0, jnp.exp(t)), name="x2"),
        ],
        theta[1],
    )
    return jnp.sin(x) + x**2


def scan(theta):
    # A Markov chain, paid for at each step and at the end.
    def step(b, a):
        b = draw(dist.Bernoulli(logits=theta[0] * a + b), name="z") * 1.0
        return b, (b - theta[1]) ** 2 * a

    last, costs = jax.lax.scan(step, 0.0, jnp.array([1.0, -0.5, 0.7]))
    return jnp.sum(costs) + last


def random_walk(theta):
    def step(x, _):
        x = jnp.tanh(x + draw(dist.Normal(theta[0], jnp.exp(theta[1])), name="z"))
        return x, x**2

    last, costs = jax.lax.scan(step, 0.0, None, length=2)
    return jnp.sum(costs) * last


def fori(theta):
    def body(i, c):
        return c * 0.5 + i * draw(dist.Bernoulli(logits=c + theta[0]), name="z")

    return jax.lax.fori_loop(0, 3, body, theta[1]) ** 2


def mapped(theta):
    return jnp.prod(
        jax.lax.map(lambda t: 1.0 + draw(dist.Bernoulli(logits=t), name="z") * t, theta)
    )


def remat(theta):
    f = jax.checkpoint(lambda t: jnp.sin(t * draw(dist.Normal(t, 1.0), name="z")))
    return f(theta[0]) * f(theta[1])


@jax.custom_vjp
def _doubled(x: Array) -> Array:
    return 2.0 * x


_doubled.defvjp(lambda x: (2.0 * x, None), lambda _, ct: (2.0 * ct,))


def custom_rules(theta):
    # First derivatives only: a custom VJP has no forward mode.
    x = draw(dist.Normal(theta[0], 1.0), name="x")
    b = draw(dist.Bernoulli(logits=theta[1]), name="b")
    return jax.nn.relu(_doubled(x) + 1.0) * (b + 0.5) + jax.scipy.special.xlogy(b, 1.0 + b)


# Programs


def discrete_elbo(theta):
    def guide(theta):
        numpyro.sample("z", dist.Categorical(logits=jnp.append(theta, 0.0)))

    def model(theta):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.2, 0.3])))
        numpyro.sample("y", dist.Normal(z - theta[0], 1.0), obs=0.7)

    return _elbo(model, guide, theta)


def mixed_elbo(theta):
    def guide(theta):
        b = numpyro.sample("b", dist.Bernoulli(logits=theta[0]))
        numpyro.sample("x", dist.Normal(theta[1] + b, 0.7))

    def model(theta):
        b = numpyro.sample("b", dist.Bernoulli(0.3))
        x = numpyro.sample("x", dist.Normal(2.0 * b, 1.0))
        numpyro.sample("y", dist.Normal(jnp.sin(x), 0.5), obs=0.4)

    return _elbo(model, guide, theta)


def masked_elbo(theta):
    # A masked latent has no density, but what it feeds has.
    seen = jnp.array([True, False])

    def guide(theta):
        with numpyro.plate("N", 2), numpyro.handlers.mask(mask=seen):
            numpyro.sample("z", dist.Bernoulli(logits=theta))

    def model(theta):
        with numpyro.plate("N", 2):
            with numpyro.handlers.mask(mask=seen):
                z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.array([0.3, 1.1]))

    return _elbo(model, guide, theta)


def scaled_elbo(theta):
    def guide(theta):
        with numpyro.handlers.scale(scale=3.0):
            numpyro.sample("z", dist.Bernoulli(logits=theta[0]))

    def model(theta):
        with numpyro.handlers.scale(scale=3.0):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("y", dist.Normal(z * theta[1], 1.0), obs=0.3)

    return _elbo(model, guide, theta)


def subsampled_elbo(theta):
    def guide(theta):
        with numpyro.plate("N", 3, subsample_size=2):
            numpyro.sample("z", dist.Bernoulli(logits=theta[0]))

    def model(theta):
        with numpyro.plate("N", 3, subsample_size=2):
            y = numpyro.subsample(jnp.array([0.3, 1.1, -0.4]), event_dim=0)
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("y", dist.Normal(z * theta[1], 1.0), obs=y)

    return _elbo(model, guide, theta)


def subsampled_exact(theta):
    y, p = jnp.array([0.3, 1.1, -0.4]), sigmoid(theta[0])
    weights = jnp.stack([1 - p, p])
    prior = jnp.array([0.6, 0.4])
    likelihood = dist.Normal(jnp.array([[0.0], [1.0]]) * theta[1], 1.0).log_prob(y)
    return jnp.sum(weights * (3 * jnp.log(prior / weights) + jnp.sum(likelihood, axis=1)))


def scanned_elbo(theta):
    ys = jnp.array([0.3, 1.1])

    def guide(theta):
        def step(z, _):
            return numpyro.sample("z", dist.Bernoulli(logits=theta[0] + theta[1] * z)) * 1.0, None

        numpyro_scan(step, 0.0, jnp.arange(2))

    def model(theta):
        def step(z, y):
            z = numpyro.sample("z", dist.Bernoulli(logits=2.0 * z - 0.5)) * 1.0
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
            return z, None

        numpyro_scan(step, 0.0, ys)

    return _elbo(model, guide, theta)


def conditional_program(theta):
    def program(theta):
        b = numpyro.sample("b", dist.Bernoulli(logits=theta[0]))
        return numpyro_cond(
            b == 1,
            lambda t: numpyro.sample("z", dist.Normal(t, 1.0)),
            lambda t: numpyro.sample("z", dist.Normal(-t, 0.5)),
            theta[1],
        )

    trace = simulate(program)(theta)
    return trace.value**2 + jnp.cos(trace["z"]) * trace["b"]


def iwae(theta):
    def guide(theta):
        numpyro.sample("z", dist.Bernoulli(logits=theta[0]))

    def model(theta):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(z * theta[1], 0.5), obs=0.8)

    weights = jax.vmap(lambda _: _elbo(model, guide, theta))(jnp.arange(3))
    return jax.nn.logsumexp(weights) - jnp.log(3.0)


def factors(theta):
    def program(theta):
        x = numpyro.sample("x", dist.Normal(theta[0], 1.0))
        numpyro.factor("f", -0.5 * (x - theta[1]) ** 2)
        numpyro.deterministic("d", x**2)
        return x

    trace = simulate(program)(theta)
    return trace.log_density + trace.value
