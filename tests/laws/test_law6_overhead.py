"""Law 6: a pathwise objective compiles to what one writes by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen

BATCH, DATA, LATENT = 64, 24, 8


def parameters():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(DATA, LATENT), (DATA, LATENT), (LATENT, DATA)]
    return [0.1 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def objective(params, x):
    loc, scale, decode = params

    def guide():
        with numpyro.plate("N", BATCH):
            numpyro.sample("z", dist.Normal(x @ loc, jnp.exp(x @ scale)).to_event(1))

    def model():
        with numpyro.plate("N", BATCH):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            numpyro.sample("x", dist.Normal(jnp.tanh(z @ decode), 1.0).to_event(1), obs=x)

    trace = ppgen.simulate(guide)()
    return ppgen.log_density(model)(trace) - trace.log_density


def by_hand(key, params, x):
    loc, scale, decode = params
    q = dist.Normal(x @ loc, jnp.exp(x @ scale))
    z = q.sample(key)
    p = dist.Normal(jnp.zeros((BATCH, LATENT)), 1.0)
    likelihood = dist.Normal(jnp.tanh(z @ decode), 1.0)
    return jnp.sum(p.log_prob(z)) + jnp.sum(likelihood.log_prob(x)) - jnp.sum(q.log_prob(z))


def flops(f):
    x = jnp.ones((BATCH, DATA))
    compiled = jax.jit(f).lower(jax.random.key(0), parameters(), x).compile()
    analysis = compiled.cost_analysis()
    assert analysis["flops"] > 1e5
    return analysis["flops"]


@pytest.mark.parametrize("differentiate", [False, True])
def test_flops(differentiate):
    ours, theirs = ppgen.expectation(objective), by_hand
    if differentiate:
        ours, theirs = (jax.value_and_grad(f, argnums=1) for f in (ours, theirs))
    assert flops(ours) <= 1.01 * flops(theirs)


def test_power():
    scored = ppgen.with_estimators(objective, {"z": ppgen.ScoreFunction()})
    ours = jax.value_and_grad(ppgen.expectation(scored), argnums=1)
    twice = jax.value_and_grad(ppgen.expectation(objective, draws=2), argnums=1)
    hand = flops(jax.value_and_grad(by_hand, argnums=1))
    assert flops(twice) > 1.01 * hand
    assert flops(ours) != hand
