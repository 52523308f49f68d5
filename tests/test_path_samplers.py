"""Samplers, log likelihoods and chains against a mixture of which everything is known."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from bridges import PATHS, bridge_of

import ppgen
from ppgen.inference import (
    Chain,
    Fields,
    PathError,
    ancestral,
    decode,
    euler_maruyama,
    flow_log_density,
    noising,
    solve,
)
from ppgen.models.parts.data import GaussianMixture

SIGMAS = 5.0
DRAWS = 1500
TIMES = jnp.linspace(0.01, 0.99, 101)


def mixture():
    return GaussianMixture.isotropic([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.5, 0.8])


def decoder(name="rectified"):
    alpha, sigma = PATHS[name]
    law = mixture()
    bridge = bridge_of(alpha, sigma, law.distribution)
    return decode(lambda x, t: law.denoised(x, alpha(t), sigma(t)), bridge, given="x1"), bridge


def starts(count=DRAWS, t=0.01):
    law = mixture().smoothed(t, 1 - t).distribution
    return law.sample(jax.random.key(3), (count,))


def assert_same_law(xs, law, shape=5.0):
    """Means of bounded functions against those of direct draws, within 5 standard errors."""
    right = law.distribution.sample(jax.random.key(9), (100_000,))
    looks = lambda x: np.stack([x[:, 0] < 0.5, *np.tanh(x.T), *np.cos(x.T)], 1)  # noqa: E731
    a, b = (looks(np.asarray(x, np.float64)) for x in (xs, right))
    error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
    z = np.abs(a.mean(0) - b.mean(0)) / error
    assert np.all(z < shape), z


def test_every_epsilon_samples_the_same_law():
    fields, _ = decoder()
    law = mixture().smoothed(0.99, 0.01)

    @jax.jit
    def run(keys, xs, times, epsilon, factor=1.0):
        def scaled(x, t):
            found = fields(x, t)
            return Fields(found.velocity, factor * found.score)

        sampler = solve(scaled, times, epsilon=lambda t: epsilon)
        return jax.vmap(lambda key, x: ppgen.seed(sampler)(key, x))(keys, xs)

    keys = jax.random.split(jax.random.key(0), DRAWS)
    for epsilon in (0.0, 0.1, 1.0):
        assert_same_law(run(keys, starts(), TIMES, epsilon), law)
    data = law.distribution.sample(jax.random.key(5), (DRAWS,))
    assert_same_law(run(keys, data, TIMES[::-1], 0.3), mixture().smoothed(0.01, 0.99))
    # The power of all this: noise that the score does not make up for is found.
    with pytest.raises(AssertionError):
        assert_same_law(run(keys, starts(), TIMES, 1.0, 0.0), law)


def test_the_ode_is_solved_and_its_likelihood_is_that_of_the_mixture():
    with jax.enable_x64(True):
        fields, _ = decoder()
        times = jnp.linspace(0.01, 0.99, 81)
        controller = diffrax.PIDController(rtol=1e-8, atol=1e-8)
        fine = {"solver": diffrax.Tsit5(), "controller": controller}
        noise, law = mixture().smoothed(0.01, 0.99), mixture().smoothed(0.99, 0.01)
        x = jnp.asarray(starts(8), jnp.float64)

        @jax.jit
        def run(x):
            end = jax.vmap(solve(fields, times, **fine))(x)
            score = jax.vmap(flow_log_density(fields, times, noise.log_density, **fine))(end)
            return end, score, jax.vmap(law.log_density)(end)

        end, score, right = run(x)
        np.testing.assert_allclose(score, right, atol=1e-5)
        # Steps of the schedule, of second order; and random directions.
        hutchinson = flow_log_density(fields, times, noise.log_density, probes=2)
        keys = jax.random.split(jax.random.key(0), 400)
        many = jax.jit(jax.vmap(lambda key: ppgen.seed(hutchinson)(key, end[0])))(keys)
        assert many.std() > 1e-3
        gap = many.mean() - right[0]
        assert abs(gap) < SIGMAS * many.std() / len(many) ** 0.5


def test_chains_have_the_law_of_the_data():
    fields, bridge = decoder("VP")
    times = 0.01 + 0.98 * (1 - (1 - jnp.linspace(0.0, 1.0, 151)) ** 1.5)
    alpha, sigma = PATHS["VP"]
    at = fields.coefficients
    begin, end = (mixture().smoothed(alpha(t), sigma(t)) for t in (times[0], times[-1]))
    half_g2 = lambda t: at(t, jnp.zeros(2)).exchange[0]  # noqa: E731
    steppers = {
        "DDPM": ancestral(fields),
        "DDIM": ancestral(fields, eta=0.0),
        "reverse SDE": euler_maruyama(fields, half_g2),
    }
    initial = begin.distribution
    chains = {k: Chain(initial, s, times) for k, s in steppers.items()}
    chains["noising"] = Chain(end.distribution, noising(bridge), times[::-1])

    @jax.jit
    def run(key):
        batch = lambda chain: lambda: jax.vmap(lambda _: chain())(jnp.arange(DRAWS))  # noqa: E731
        return {name: ppgen.seed(batch(chain))(key) for name, chain in chains.items()}

    for kind, xs in run(jax.random.key(0)).items():
        # Steps have an error of the first order, which is small beside the modes' distance.
        assert_same_law(xs, begin if kind == "noising" else end, shape=6.0)


def test_noise_is_abducted_and_replayed():
    fields, bridge = decoder()
    times = jnp.linspace(0.05, 0.95, 31)
    begin = mixture().smoothed(0.05, 0.95).distribution
    forth = Chain(begin, ancestral(fields), times)
    data = jnp.array([2.3, 0.8])
    back = Chain(dist.Delta(data, event_dim=1), noising(bridge), times[::-1])
    path = jax.jit(ppgen.seed(back.path))(jax.random.key(0))[::-1]
    choices = jax.jit(lambda path: forth.abduct(path))(path)
    found = jax.jit(ppgen.assess(forth))(choices)
    np.testing.assert_allclose(found.value, data, atol=1e-4)
    right = dist.Normal(0, 1).log_prob(choices["noise"]).sum() + begin.log_prob(path[0])
    np.testing.assert_allclose(found.log_density, right, rtol=1e-5)
    # The same noise under another model: CycleDiffusion. Its data lie one to the right.
    shift = jnp.array([1.0, 0.0])
    denoised = lambda x, t: mixture().denoised(x - t * shift, t, 1 - t) + shift  # noqa: E731
    moved = decode(denoised, bridge, given="x1")
    other = Chain(begin, ancestral(moved), times)
    replayed = jax.jit(ppgen.assess(other))(choices | {"x0": choices["x0"] + 0.05 * shift}).value
    np.testing.assert_allclose(replayed, data + 0.95 * shift, atol=1e-3)
    with pytest.raises(PathError, match="without noise"):
        Chain(begin, ancestral(fields, eta=0.0), times).abduct(path)
    with pytest.raises(PathError, match="needs the score"):
        ppgen.seed(solve(lambda x, t: Fields(x), times, epsilon=1.0))(jax.random.key(0), data)
