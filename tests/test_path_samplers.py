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
    classifier_free,
    clipped,
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


@pytest.mark.long
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


@pytest.mark.long
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


def test_a_clipped_prediction_moves_the_noise_and_the_fields_along():
    """x = α x1 + σ x0 still holds, and velocity and score are those of the clipped data."""
    fields, bridge = decoder()
    x, t, at = jnp.array([4.0, 0.2]), 0.4, 0.6
    plain, found = fields(x, t), clipped(fields, -1.0, jnp.array([0.5, 2.0]))(x, t)
    assert plain.x1[0] > 0.5 and abs(plain.x1[1]) < 1  # one is clipped, the other is not
    right = jnp.array([0.5, plain.x1[1]])
    noise = (x - 0.4 * right) / at
    np.testing.assert_allclose(found.x1, right, rtol=1e-6)
    np.testing.assert_allclose(found.x0, noise, rtol=1e-5)
    np.testing.assert_allclose(found.velocity, right - noise, rtol=1e-5)
    np.testing.assert_allclose(found.score, -noise / at, rtol=1e-5)
    assert abs(found.x0[0] - plain.x0[0]) > 0.5
    # What the network was trained to predict does not matter, and what is within is left alone.
    velocity = decode(lambda x, t: fields(x, t).velocity, bridge, given="velocity")
    again = clipped(velocity, -1.0, jnp.array([0.5, 2.0]))(x, t)
    np.testing.assert_allclose(again.x0, found.x0, rtol=1e-4)
    np.testing.assert_allclose(clipped(fields, -9.0, 9.0)(x, t).score, plain.score, rtol=1e-5)
    # A step of DDIM ends where these two say.
    step = ancestral(clipped(fields, -1.0, jnp.array([0.5, 2.0])), eta=0.0)(
        x, jnp.array(t), jnp.array(0.7)
    )
    np.testing.assert_allclose(step.mean, 0.7 * right + 0.3 * noise, rtol=1e-5)


def test_guidance_without_a_classifier_is_that_of_gaussians():
    """Scores add up: those of N(m, s²) given the class and N(0, r²) without make a third normal."""
    m, s2, r2, w, t = 1.5, 0.3, 2.0, 0.7, 0.4
    bridge = bridge_of(*PATHS["rectified"], dist.Normal(jnp.zeros(1), 1.0).to_event(1))

    def score(mean, variance):
        return lambda x, t: (t * mean - x) / (t**2 * variance + (1 - t) ** 2)

    with_class, without = score(m, s2), score(0.0, r2)
    x = jnp.array([2.8])
    v1, v0 = (t**2 * v + (1 - t) ** 2 for v in (s2, r2))
    precision = (1 + w) / v1 - w / v0
    right = (1 + w) * t * m / v1 - precision * x
    for weight in (w, jnp.array(w), lambda t: w * t / 0.4):
        guided = classifier_free(with_class, without, weight)
        np.testing.assert_allclose(guided(x, t), right, rtol=1e-5)
    found = decode(classifier_free(with_class, without, w), bridge, given="score")(x, t)
    np.testing.assert_allclose(found.x1, (x + (1 - t) ** 2 * right) / t, rtol=1e-5)

    # Of two predictions of any one kind the combination is the same, as the algebra is affine.
    data = [
        lambda x, t, f=f: decode(f, bridge, given="score")(x, t).x1 for f in (with_class, without)
    ]
    again = decode(classifier_free(*data, w), bridge, given="x1")(x, t)
    np.testing.assert_allclose(again.score, right, rtol=1e-4)


def test_only_one_field_is_evaluated_where_only_one_counts():
    def never(x, t):
        raise AssertionError("it does not count")

    def field(x, t):
        return x + t

    assert classifier_free(field, never, 0.0)(jnp.array(1.0), 0.5) == 1.5
    assert classifier_free(never, field, -1)(jnp.array(1.0), 0.5) == 1.5


@pytest.mark.parametrize("name", ["VP", "rectified"])
def test_the_large_variance_is_that_of_the_noising_process(name):
    fields, bridge = decoder(name)
    x, t, s = jnp.array([0.4, -0.2]), jnp.array(0.4), jnp.array(0.6)
    small, large = (ancestral(fields, large=is_large)(x, t, s) for is_large in (False, True))
    np.testing.assert_allclose(large.std, noising(bridge)(x, s, t).std, rtol=1e-5)
    np.testing.assert_array_equal(large.mean, small.mean)
    sigma = PATHS[name][1]
    np.testing.assert_allclose(small.std, large.std * sigma(s) / sigma(t), rtol=1e-5)
