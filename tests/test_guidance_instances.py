"""What guidance is used for, each an energy or a field, against quadrature."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from bridges import rectified_chain

import ppgen
from ppgen.distrax import from_distrax
from ppgen.inference import (
    Learned,
    PlugIn,
    fit,
    guide,
    kl_to_tilted,
)
from ppgen.models.parts.data import GaussianMixture

MIXTURE = GaussianMixture.isotropic([0.1, 0.9], [[-1.5], [1.0]], [0.6, 0.7])
TIMES = jnp.linspace(0.01, 0.998, 201)
GRID = np.linspace(-8, 8, 4001)[:, None]


def chain_of(denoised, data):
    return rectified_chain(denoised, data, TIMES)[0]


def known(t):
    """About the part of the variance of the data that is known at a time."""
    return t**2 / (t**2 + (1 - t) ** 2)


def unconditional(x, t):
    return MIXTURE.denoised(x, t, 1 - t)


def conditional(x, t):
    """Of the first component alone."""
    return MIXTURE.given_noised(x, t, 1 - t).means[0]


def by_quadrature(energy, f):
    """Mean of a function of x under the tilted mixture, and log Z."""
    log_density = jax.vmap(lambda x: MIXTURE.log_density(x) - energy(x))(GRID)
    weights = np.exp(np.asarray(log_density, np.float64))
    z = weights.sum() * (GRID[1, 0] - GRID[0, 0])
    return np.tensordot(weights / weights.sum(), jax.vmap(f)(GRID), axes=1), np.log(z)


@pytest.mark.long
def test_classifier_free_guidance_is_not_the_tilt_that_it_is_named_for():
    """At weight one it is the conditional; at three not p(x) p(y | x)³, which `guide` does find."""

    def sampled(w):
        field = lambda x, t: unconditional(x, t) + w * (conditional(x, t) - unconditional(x, t))  # noqa: E731
        run = jax.vmap(ppgen.seed(chain_of(field, MIXTURE)))
        return np.asarray(jax.jit(run)(jax.random.split(jax.random.key(0), 4000)))[:, 0]

    def energy(x):
        return -3 * jnp.log(MIXTURE.component(x)[0])

    x = sampled(1.0)
    np.testing.assert_allclose([x.mean(), x.std()], [-1.5, 0.6], atol=0.06)
    mean, log_z = by_quadrature(energy, lambda x: x)
    x = sampled(3.0)
    assert abs(x.mean() - mean[0]) > 10 * x.std() / len(x) ** 0.5
    classifier = lambda x, t: 3 * known(t) * jnp.log(MIXTURE.smoothed(t, 1 - t).component(x)[0])  # noqa: E731
    guided = guide(chain_of(unconditional, MIXTURE), energy, Learned(classifier))
    found = jax.jit(ppgen.seed(guided.smc(particles=8000)))(jax.random.key(1))
    np.testing.assert_allclose(found.mean(), mean, atol=0.12)
    assert abs(found.log_evidence - log_z) < 0.15


def test_minorities_are_sought_by_an_energy_of_the_density():
    """Tilting by half the log density gives the root of the density: rare modes are less rare."""

    def energy(x):
        return 0.5 * MIXTURE.log_density(x)

    component = lambda x: MIXTURE.component(x)[0]  # noqa: E731
    share, log_z = by_quadrature(energy, component)
    assert share > 0.2
    guided = guide(chain_of(unconditional, MIXTURE), energy, PlugIn(unconditional))
    found = jax.jit(ppgen.seed(guided.smc(particles=8000)))(jax.random.key(0))
    assert abs(found.mean(component) - share) < 0.03
    assert abs(found.log_evidence - log_z) < 0.1


@pytest.mark.long
def test_codes_are_controlled_through_a_decoder():
    """The energy is of what a network makes of the codes, which are sampled."""
    codes = GaussianMixture.isotropic([1.0], [[0.0, 0.0]], [1.0])
    matrix = jnp.array([[1.5, 0.2], [-0.3, 0.9], [0.8, 0.8]])
    target = jnp.array([0.6, -0.2, 0.5])

    def energy(z):
        return 0.5 * jnp.sum((jnp.tanh(matrix @ z) - target) ** 2) / 0.3**2

    line = np.linspace(-6, 6, 601)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    logs = jax.vmap(lambda z: codes.log_density(z) - energy(z))(grid)
    weights = np.exp(np.asarray(logs, np.float64))
    log_z = np.log(weights.sum() * (line[1] - line[0]) ** 2)
    denoised = lambda x, t: codes.denoised(x, t, 1 - t)  # noqa: E731
    mean = weights @ grid / weights.sum()

    def errors(lookahead):
        guided = guide(chain_of(denoised, codes), energy, lookahead)
        found = jax.jit(ppgen.seed(guided.smc(particles=8000)))(jax.random.key(0))
        return abs(found.mean() - mean).max(), found.log_evidence - log_z

    error, error_of_log_z = errors(PlugIn(denoised, lambda t: known(t) ** 3))
    assert error < 0.04 and abs(error_of_log_z) < 0.1
    # Without tempering it is too sure of itself.
    _, error_of_log_z = errors(PlugIn(denoised))
    assert error_of_log_z < -0.2


def test_a_flow_of_distrax_learns_the_tilted_law():
    """Two affine couplings can be any normal law; the one sought is known."""
    observed, scale = jnp.array([1.0]), 0.5
    matrix = jnp.array([[1.0, 0.8]])
    prior = GaussianMixture.isotropic([1.0], [[0.0, 0.0]], [1.0])
    _, log_z = prior.tilted(matrix, observed, scale)

    def program(_=None):
        return numpyro.sample("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    def energy(x):
        return 0.5 * jnp.sum((matrix @ x - observed) ** 2) / scale**2

    def flow(params):
        def coupling(p, mask):
            return distrax.MaskedCoupling(
                mask=jnp.asarray(mask),
                conditioner=lambda x: p[0] + x[::-1] * p[1],
                bijector=lambda shift: distrax.ScalarAffine(shift, log_scale=p[2]),
            )

        layers = [coupling(params[i], [i == 1, i == 0]) for i in range(2)]
        base = distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2))
        transformed = distrax.Transformed(base, distrax.Chain(layers))
        return numpyro.sample("x", from_distrax(transformed))

    loss = kl_to_tilted(flow, program, energy)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 600))
    start, key = jnp.zeros((2, 3, 2)), jax.random.key(0)
    trained = fit(loss, start, optimizer, key=key, steps=600, draws=64).params
    keys = jax.random.split(jax.random.key(1), 20_000)
    run = jax.jit(jax.vmap(ppgen.expectation(loss), (0, None)))
    found, before = run(keys, trained) + log_z, run(keys, start) + log_z
    assert abs(found.mean()) < 0.01
    assert before.mean() > 0.5
