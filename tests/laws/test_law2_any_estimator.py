"""Law 2: another sound estimator has another variance, never another mean.

On programs that are too large for an oracle, so that estimators are compared with each other.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.testing import ESTIMATORS, planted

SAMPLES = 10_000


def long_chain(theta):
    def step(b, a):
        b = ppgen.draw(dist.Bernoulli(logits=theta[0] * a + b), name="z") * 1.0
        return b, (b - theta[1]) ** 2

    _, costs = jax.lax.scan(step, 0.0, jnp.linspace(-1.0, 1.0, 8))
    return jnp.sum(costs)


def wide_plate(theta):
    with numpyro.plate("N", 40):
        z = numpyro.sample("z", dist.Categorical(logits=theta * jnp.ones((40, 2))))
        return jnp.sum((z - theta[1]) ** 2 * jnp.linspace(0.5, 1.5, 40))


def many_normals(theta):
    x = ppgen.draw(dist.Normal(theta[0] * jnp.ones(6), jnp.exp(theta[1])), name="z")
    return jnp.sum(jnp.tanh(x) ** 2)


def counts(theta):
    def lane(rate):
        return jnp.sqrt(ppgen.draw(dist.Poisson(rate), name="z") + theta[1])

    return jnp.sum(jax.vmap(lane)(jnp.exp(theta[0]) * jnp.arange(1.0, 5.0)))


PROGRAMS = {
    "long chain": (long_chain, ["ScoreFunction", "Enumerate", "MeasureValued"]),
    "wide plate": (wide_plate, ["ScoreFunction", "Enumerate", "MeasureValued"]),
    "many normals": (many_normals, ["Reparameterize", "ScoreFunction", "MeasureValued"]),
    "counts": (counts, ["ScoreFunction", "ScoreFunction, constant baseline", "MeasureValued"]),
}


def moments(f, estimator, seed):
    """Means and standard errors of the value and the gradient."""
    g = ppgen.expectation(ppgen.with_estimators(f, {"z": ESTIMATORS[estimator]}))
    theta = jnp.array([0.4, 0.6])

    def one(key):
        value, gradient = jax.value_and_grad(g, argnums=1)(key, theta)
        return jnp.append(gradient, value)

    keys = jax.random.split(jax.random.key(seed), SAMPLES)
    x = np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)
    return x.mean(0), x.std(0) / np.sqrt(SAMPLES)


def check(name):
    f, estimators = PROGRAMS[name]
    # Different seeds: the estimates must be independent for their errors to add up.
    (mean, error), *others = (moments(f, e, seed) for seed, e in enumerate(estimators))
    for other_mean, other_error in others:
        together = np.hypot(error, other_error)
        assert np.all(together < 0.1 * np.max(np.abs(mean)))
        assert np.all(np.abs(mean - other_mean) < 5 * together + 1e-4 * np.max(np.abs(mean)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_mean(name):
    check(name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("bug", "name"),
    [("dropped score term", "long chain"), ("dropped phantom", "wide plate")],
)
def test_power(bug, name):
    with planted(bug), pytest.raises(AssertionError):
        check(name)
