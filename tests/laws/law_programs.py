"""Programs that NumPyro can score too."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

Y = jnp.array([0.3, -1.2, 0.8])


def hierarchical(shift):
    mu = numpyro.sample("mu", dist.Normal(shift, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.3))
    with numpyro.plate("N", 3):
        z = numpyro.sample("z", dist.Normal(mu, scale))
        numpyro.sample("y", dist.Normal(z, 0.5), obs=Y)


def discrete(shift):
    k = numpyro.sample("k", dist.Categorical(logits=jnp.array([0.0, shift, -0.5])))
    with numpyro.plate("N", 2):
        b = numpyro.sample("b", dist.Bernoulli(logits=k - shift))
    numpyro.sample("n", dist.Poisson(1.0 + k + jnp.sum(b)), obs=2)


def handled(shift):
    with numpyro.plate("N", 3), handlers.mask(mask=jnp.array([True, False, True])):
        z = numpyro.sample("z", dist.Normal(shift, 1.0))
    with handlers.scale(scale=2.5):
        numpyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=Y)
    numpyro.factor("f", -0.1 * jnp.sum(z**2))
    numpyro.deterministic("d", z * 2)


def nested_plates(shift):
    with numpyro.plate("N", 2, dim=-2):
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0 + shift))
        with numpyro.plate("M", 3, dim=-1):
            numpyro.sample("b", dist.Poisson(a), obs=jnp.array([[0, 1, 2], [3, 1, 0]]))


def minibatch(shift):
    with numpyro.plate("N", 6, subsample_size=3):
        z = numpyro.sample("z", dist.Normal(shift, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=Y)


def vectors(shift):
    p = numpyro.sample("p", dist.Dirichlet(jnp.array([1.0 + shift, 2.0, 3.0])))
    x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), 2.0 * jnp.eye(2)))
    numpyro.sample("y", dist.Normal(p[:2] * x, 1.0).to_event(1), obs=Y[:2])


def state_space(shift):
    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.8 * x + shift, 1.0))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    return scan(step, 0.0, Y)


def conditioned(shift):
    def model():
        x = numpyro.sample("x", dist.Normal(shift, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0))

    with handlers.scope(prefix="inner"):
        handlers.condition(model, {"y": jnp.array(0.4)})()


PROGRAMS = {
    f.__name__: f
    for f in (
        hierarchical,
        discrete,
        handled,
        nested_plates,
        minibatch,
        vectors,
        state_space,
        conditioned,
    )
}
