"""Posteriors by the samplers of others, against conjugate ones."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size

import ppgen
from ppgen.inference import posterior, to_arviz
from ppgen.inference.posteriors._unconstrained import Unconstrained

# Every comparison is within 5 standard errors: a false alarm has probability below 6e-7.
SIGMAS = 5.0
OPTIONS = {"warmup": 400, "draws": 1500, "chains": 2}

METHODS = [
    "nuts",
    pytest.param(
        "blackjax",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("blackjax") is None, reason="an extra that is not installed"
        ),
    ),
]
each_method = pytest.mark.parametrize("method", METHODS)
# What BlackJAX warns of is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore:::blackjax")


def mixed(x, count):
    """Independent parts, each with a known posterior, on three kinds of support."""
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(z, 0.5), obs=x)
    rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    numpyro.sample("count", dist.Poisson(rate), obs=count)
    probs = numpyro.sample("probs", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    numpyro.sample("k", dist.Categorical(probs=probs), obs=1)


def assert_mean(draws, exact):
    """Of draws of shape (chains, draws), by their effective sample size."""
    draws = np.asarray(draws, np.float64)
    error = draws.std() / effective_sample_size(draws) ** 0.5
    assert abs(draws.mean() - exact) < SIGMAS * error, (draws.mean(), exact, error)
    assert error < 0.1 * draws.std()


@each_method
def test_conjugate_posteriors(method):
    x, count = 1.2, 4
    found = posterior(mixed, method=method, **OPTIONS)(jax.random.key(0), x, count)
    assert found.choices["probs"].shape == (2, 1500, 3)
    assert found["probs"].shape == (3000, 3)
    exact = {
        "z": dist.Normal(0.8 * x, 0.2**0.5),
        "rate": dist.Gamma(7.0, 3.0),
        "probs": dist.Dirichlet(jnp.array([1.0, 3.0, 3.0])),
    }
    for name, law in exact.items():
        draws = found.choices[name].reshape(2, 1500, -1)
        mean, variance = jnp.ravel(law.mean), jnp.ravel(law.variance)
        for i in range(draws.shape[-1]):
            assert_mean(draws[..., i], mean[i])
            assert_mean((draws[..., i] - mean[i]) ** 2, variance[i])
    assert found.statistics["acceptance_rate"].mean() > 0.6
    assert set(found.statistics) == {"lp", "diverging", "acceptance_rate", "n_steps"}
    assert all(x.shape == (2, 1500) for x in found.statistics.values())
    assert found.statistics["diverging"].mean() < 0.01


def test_sites_in_a_scan_which_numpyro_itself_does_not_take():
    """A random walk, whose smoothed means are those of a Gaussian with a known precision."""
    xs = jnp.array([0.4, 1.5, -0.2])

    def walk(xs):
        def step(state, x):
            z = numpyro.sample("z", dist.Normal(state, 1.0))
            numpyro.sample("x", dist.Normal(z, 0.5), obs=x)
            return z, None

        jax.lax.scan(step, 0.0, xs)

    found = posterior(walk, **OPTIONS)(jax.random.key(1), xs)
    precision = np.diag([2.0, 2.0, 1.0]) - np.eye(3, k=1) - np.eye(3, k=-1) + 4 * np.eye(3)
    mean = np.linalg.solve(precision, 4 * np.asarray(xs))
    for i in range(3):
        assert_mean(found.choices["z"][..., i], mean[i])


def test_tilted_and_conditioned_programs():
    def free():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        return numpyro.sample("x", dist.Normal(z, 1.0))

    held = numpyro.handlers.condition(free, {"x": 2.0})
    found = posterior(held, warmup=300, draws=2000)(jax.random.key(0))
    assert set(found.choices) == {"z"}
    assert_mean(found.choices["z"], 1.0)
    tilted = ppgen.tilt(lambda: numpyro.sample("z", dist.Normal(0.0, 1.0)), lambda z: z**2 - z)
    # exp(-z^2/2 - z^2 + z) is a Gaussian of precision 3 and mean 1/3.
    found = posterior(tilted, warmup=300, draws=2000)(jax.random.key(0))
    assert_mean(found.choices["z"], 1 / 3)


def test_unconstrained_space_has_the_density_by_change_of_variables():
    space = Unconstrained(mixed, 1.2, 4)
    assert space.size == 1 + 1 + 2 and set(space.sites) == {"z", "rate", "probs"}
    u = jnp.array([0.3, -0.4, 0.9, 0.1])
    choices = space.constrain(u)
    np.testing.assert_allclose(space.unconstrain(choices), u, atol=1e-5)

    def free_coordinates(u):
        c = space.constrain(u)
        return jnp.concatenate([c["z"][None], c["rate"][None], c["probs"][:2]])

    stretch = jnp.linalg.slogdet(jax.jacfwd(free_coordinates)(u))[1]
    expected = ppgen.log_density(mixed)(choices, 1.2, 4) + stretch
    np.testing.assert_allclose(space.log_density(mixed, 1.2, 4)(u), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda p: ppgen.marginal(p, ["x"], particles=3),
        lambda p: ppgen.normalize(p, particles=3),
    ],
)
def test_an_estimated_density_is_refused(wrap):
    def pair():
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(u, 1.0))

    def program():
        wrap(pair)()

    with pytest.raises(ppgen.PpgenError, match="itself an estimate"):
        posterior(program, warmup=5, draws=5)(jax.random.key(0))


def test_a_conditioned_marginal_is_refused():
    """Its sites are all observed: what is drawn shows in no site."""

    def pair(a):
        u = numpyro.sample("u", dist.Normal(a, 1.0))
        numpyro.sample("x", dist.Normal(u, 1.0))

    def program():
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        held = numpyro.handlers.condition(ppgen.marginal(pair, ["x"]), {"x": 1.0})
        held(a)

    with pytest.raises(ppgen.PpgenError, match="itself an estimate"):
        posterior(program, warmup=5, draws=5)(jax.random.key(0))


def test_what_cannot_be_sampled():
    def discrete():
        numpyro.sample("z", dist.Bernoulli(0.5))

    def impossible():
        numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.factor("f", -jnp.inf)

    with pytest.raises(ppgen.PpgenError, match="discrete"):
        posterior(discrete)(jax.random.key(0))
    with pytest.raises(ppgen.PpgenError, match="not finite"):
        posterior(impossible)(jax.random.key(0))
    with pytest.raises(ppgen.PpgenError, match="no latent site"):
        posterior(lambda: numpyro.sample("x", dist.Normal(0.0, 1.0), obs=0.1))(jax.random.key(0))
    with pytest.raises(ValueError, match="method"):
        posterior(mixed, method="gibbs")
    with pytest.raises(ValueError, match="nothing to draw"):
        posterior(mixed, draws=0)


def test_blackjax_has_to_be_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install blackjax"):
        posterior(mixed, method="blackjax")


def test_arviz_gets_chains():
    pytest.importorskip("arviz")
    found = posterior(mixed, warmup=50, draws=40, chains=3)(jax.random.key(0), 1.2, 4)
    data = to_arviz(found, observed={"x": np.array([1.2])})
    assert data.posterior["probs"].shape == (3, 40, 3)
    np.testing.assert_array_equal(data.posterior["z"].values, found.choices["z"])
    assert data.sample_stats["diverging"].shape == (3, 40)
