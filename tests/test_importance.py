"""Importance sampling against conjugate models, and its diagnostics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.inference import ParetoSmoothed, importance_sampling, pareto_smoothed, sir, to_arviz

pytestmark = pytest.mark.sweep(of=3)

# Every comparison is within 5 standard errors: a false alarm has probability below 6e-7.
SIGMAS = 5.0
X = 1.4
EVIDENCE = float(jnp.exp(dist.Normal(0.0, 2**0.5).log_prob(X)))


def model(x):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    numpyro.sample("z", dist.Normal(0.0, 1.5))


def many(f, *args, keys=4000):
    run = jax.jit(jax.vmap(lambda key: ppgen.seed(f)(key, *args)))
    return run(jax.random.split(jax.random.key(1), keys))


@pytest.mark.parametrize("proposal", [guide, ppgen.normalize(model, particles=2)])
def test_the_evidence_is_unbiased(proposal):
    run = importance_sampling(model, proposal, particles=5)
    estimates = np.exp(np.asarray(many(lambda: run(X).log_evidence), np.float64))
    error = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean() - EVIDENCE) < SIGMAS * error
    assert error < 0.02 * EVIDENCE


def test_weights_and_moments():
    found = ppgen.seed(importance_sampling(model, guide, particles=50_000))(jax.random.key(0), X)
    np.testing.assert_allclose(jnp.exp(found.log_weights).sum(), 1.0, rtol=1e-4)
    mean, square = found.expect(lambda z: (z["z"], z["z"] ** 2))
    np.testing.assert_allclose(mean, X / 2, atol=0.02)
    np.testing.assert_allclose(square - mean**2, 0.5, atol=0.02)
    # K E[w]^2 / E[w^2], by quadrature.
    z = jnp.linspace(-12, 12, 20_001)
    p = jnp.exp(dist.Normal(0, 1).log_prob(z) + dist.Normal(z, 1).log_prob(X)) / EVIDENCE
    q = jnp.exp(dist.Normal(0, 1.5).log_prob(z))
    expected = 50_000 / jnp.trapezoid(p**2 / q, z)
    np.testing.assert_allclose(found.ess, expected, rtol=0.03)


def test_a_plate_has_one_weight_for_a_run():
    def plated(xs):
        with numpyro.plate("data", 3):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=xs)

    def plated_guide(xs):
        with numpyro.plate("data", 3):
            numpyro.sample("z", dist.Normal(0.5 * xs, 0.8))

    xs = jnp.array([0.3, -1.0, 2.0])
    found = ppgen.seed(importance_sampling(plated, plated_guide, particles=20_000))(
        jax.random.key(0), xs
    )
    assert found.log_weights.shape == (20_000,)
    exact = dist.Normal(0.0, 2**0.5).log_prob(xs).sum()
    np.testing.assert_allclose(found.log_evidence, exact, atol=0.03)
    np.testing.assert_allclose(found.expect(lambda c: c["z"]), xs / 2, atol=0.05)


def test_subsampling_is_refused():
    def minibatch(xs):
        with numpyro.plate("data", 4, subsample_size=2) as i:
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            if xs is not None:
                numpyro.sample("x", dist.Normal(z, 1.0), obs=xs[i])

    def minibatch_guide(xs):
        minibatch(None)

    with pytest.raises(ppgen.PpgenError, match="subsampled"):
        run = importance_sampling(minibatch, minibatch_guide, particles=3)
        ppgen.seed(run)(jax.random.key(0), jnp.arange(4.0))


@pytest.mark.long
def test_resampling_draws_from_the_posterior():
    draws = ppgen.seed(sir(model, guide, particles=50_000, samples=5_000))(jax.random.key(0), X)
    z = np.asarray(draws["z"])
    assert z.shape == (5_000,)
    error = (0.5 / 5_000) ** 0.5
    assert abs(z.mean() - X / 2) < SIGMAS * error
    assert abs(z.var() - 0.5) < SIGMAS * (2 * 0.25 / 5_000) ** 0.5


def test_few_particles_are_drawn_by_their_exact_law():
    """Two particles of a coin: the law of what is kept, by enumeration."""

    def coin():
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.factor("f", jnp.log(jnp.where(z == 1, 3.0, 1.0)))

    def flip():
        numpyro.sample("z", dist.Bernoulli(0.5))

    one = sir(coin, flip, particles=2, samples=1)
    got = np.asarray(many(one, keys=20_000)["z"])[:, 0]
    exact = 0.25 * 1 + 0.5 * 0.75
    assert abs(got.mean() - exact) < SIGMAS * (exact * (1 - exact) / len(got)) ** 0.5


@pytest.mark.parametrize("scale, reliable", [(2.0, True), (0.3, False)])
def test_k_hat_tells_a_good_guide_from_a_bad_one(scale, reliable):
    pytest.importorskip("arviz")

    def own(x):
        numpyro.sample("z", dist.Normal(X / 2, scale * 0.5**0.5))

    found = ppgen.seed(importance_sampling(model, own, particles=5_000))(jax.random.key(0), X)
    smoothed = found.psis()
    assert isinstance(smoothed, ParetoSmoothed)
    assert (smoothed.k_hat < 0.5) == reliable
    assert reliable or smoothed.k_hat > 0.7
    np.testing.assert_allclose(np.exp(smoothed.log_weights).sum(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_k_hat_is_the_shape_of_the_tail(shape):
    pytest.importorskip("arviz")
    # exp(shape * Exponential(1)) has a Pareto tail of this shape.
    log_weights = shape * np.random.default_rng(0).exponential(size=50_000)
    np.testing.assert_allclose(pareto_smoothed(jnp.asarray(log_weights)).k_hat, shape, atol=0.1)


def test_arviz_gets_weights_and_draws():
    pytest.importorskip("arviz")
    found = ppgen.seed(importance_sampling(model, guide, particles=200))(jax.random.key(0), X)
    data = to_arviz(found, observed={"x": np.array([X])})
    np.testing.assert_array_equal(data.posterior["z"].values[0], found.choices["z"])
    assert data.sample_stats["log_weight"].shape == (1, 200)
    assert float(data.observed_data["x"].values[0]) == pytest.approx(X)
    data = to_arviz(ppgen.seed(found.resample)(jax.random.key(1), 50))
    assert data.posterior["z"].shape == (1, 50)


def test_arviz_gets_a_trace_of_several_runs():
    pytest.importorskip("arviz")
    draw = jax.vmap(lambda key: ppgen.seed(ppgen.simulate(guide))(key, X))
    traces = draw(jax.random.split(jax.random.key(0), 30))
    data = to_arviz(traces)
    np.testing.assert_array_equal(data.posterior["z"].values[0], traces["z"])
    with pytest.raises(ValueError, match="axis 0"):
        to_arviz(ppgen.seed(ppgen.simulate(guide))(jax.random.key(0), X))
