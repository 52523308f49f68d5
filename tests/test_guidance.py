"""Guidance by an energy: weights that make any lookahead sound, and what has no weights."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from bridges import rectified_chain
from hypothesis import given, settings
from hypothesis import strategies as st

import ppgen
from ppgen.inference import (
    Chain,
    Exact,
    Fields,
    Learned,
    PathError,
    PlugIn,
    Project,
    euler_maruyama,
    fit,
    guide,
    guide_approximately,
    kl_to_tilted,
    lagrangian,
    log_mean_exp_error,
    regress,
)
from ppgen.models.parts.data import GaussianMixture

SIGMAS = 5.0

# --- a chain of which everything is known: Langevin's, at a normal --------------------------------

STEPS, SPAN, WIDTH = 5, 1.5, 0.9


def langevin(epsilon=1.0):
    stepper = euler_maruyama(lambda x, t: Fields(0 * x, -x), epsilon=epsilon)
    return Chain(dist.Normal(0.5, 0.8), stepper, jnp.linspace(0.0, SPAN, STEPS + 1))


def energy(x):
    return 0.5 * ((x - 1.5) / WIDTH) ** 2


def tilted_end():
    """Mean of the tilted last point, and log Z: of the chain as it is discretised."""
    step = SPAN / STEPS
    mean, variance = 0.5, 0.8**2
    for _ in range(STEPS):
        mean, variance = mean * (1 - step), variance * (1 - step) ** 2 + 2 * step
    total = variance + WIDTH**2
    log_z = 0.5 * math.log(WIDTH**2 / total) - 0.5 * (mean - 1.5) ** 2 / total
    return mean + variance / total * (1.5 - mean), log_z


LOOKAHEADS = {
    "plug-in": PlugIn(lambda x, t: x * jnp.exp(t - SPAN)),
    "wrong": Learned(lambda x, t: -jnp.sin(x + t) - 0.1 * x**2),
    "silent": Learned(lambda x, t: 0.0 * x),
}


@pytest.mark.parametrize(
    ("lookahead", "threshold"), [("plug-in", 0.7), ("wrong", 0.0), ("wrong", 0.7), ("silent", 0.7)]
)
def test_the_normaliser_is_unbiased_with_any_lookahead(lookahead, threshold):
    """In the linear domain, with four particles."""
    guided = guide(langevin(), energy, LOOKAHEADS[lookahead])
    run = ppgen.seed(guided.smc(particles=4, threshold=threshold))
    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 20_000))
    mean, log_z = tilted_end()
    z = np.exp(np.asarray(found.log_evidence, np.float64) - log_z)
    assert z.std() / len(z) ** 0.5 < 0.02
    assert abs(z.mean() - 1) < SIGMAS * z.std() / len(z) ** 0.5
    # And so are sums of x, weighted.
    x = z * np.sum(np.exp(found.log_weights) * found.x, 1)
    assert abs(x.mean() - mean) < SIGMAS * x.std() / len(x) ** 0.5
    # The power of it: samples of the guided chain without their weights are somewhere else.
    if threshold == 0 and lookahead != "silent":
        plain = np.exp(-jax.vmap(jax.vmap(energy))(found.x).mean(1) - log_z)
        assert abs(plain.mean() - 1) > 2 * SIGMAS * plain.std() / len(plain) ** 0.5


def test_many_particles_find_the_tilted_law():
    mean, log_z = tilted_end()
    samples = guide(langevin(), energy, LOOKAHEADS["wrong"]).smc(particles=20_000)
    found = jax.jit(ppgen.seed(samples))(jax.random.key(0))
    assert abs(found.mean() - mean) < 0.03
    assert abs(found.log_evidence - log_z) < 0.05


@jax.jit
def zero_energy(key, epsilon, end, power, wiggle):
    """Log weights of a run under no energy, for each kind of lookahead."""
    times = end * jnp.linspace(0.0, 1.0, 6) ** power
    stepper = euler_maruyama(
        lambda x, t: Fields(wiggle * jnp.sin(3 * x), -x), epsilon=lambda t: epsilon * (end - t)
    )
    chain = Chain(dist.Normal(jnp.zeros(3), 1.0).to_event(1), stepper, times)
    silent = lambda x: 0.0 * jnp.sum(x)  # noqa: E731
    lookaheads = (PlugIn(lambda x, t: x * jnp.exp(t)), Exact(lambda x, t: 0.0 * jnp.sum(x)))
    plain = ppgen.seed(chain)(key)
    return plain, [ppgen.seed(guide(chain, silent, look))(key) for look in lookaheads]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**31),
    st.floats(0.125, 3.0, width=32),
    st.floats(0.125, 5.0, width=32),
    st.floats(0.5, 3.0, width=32),
    st.floats(-2.0, 2.0, width=32),
)
def test_no_energy_changes_nothing(seed, epsilon, end, power, wiggle):
    """Weights are exactly one, not nearly."""
    plain, guided = zero_energy(jax.random.key(seed), epsilon, end, power, wiggle)
    for x, log_weight in guided:
        assert log_weight == 0.0
        assert np.isfinite(x).all()
    assert np.isfinite(plain).all()


@jax.jit
def sums_of_energies(key, a, b, c):
    def program(loc):
        x = numpyro.sample("x", dist.Normal(loc, 1.0))
        return x + numpyro.sample("y", dist.Normal(x, 1.0))

    def proposal(loc):
        numpyro.sample("x", dist.Normal(loc + 1, 2.0))
        numpyro.sample("y", dist.Normal(0.0, 1.0))

    first, second = lambda v: a * v**2, lambda v: b * jnp.sin(c * v)
    both = kl_to_tilted(proposal, program, lambda v: first(v) + second(v))
    nested = kl_to_tilted(proposal, ppgen.tilt(program, first), second)
    none = kl_to_tilted(proposal, program, lambda v: 0 * v)
    value = lambda f: jax.value_and_grad(ppgen.expectation(f), argnums=1)(key, 0.3)  # noqa: E731
    return value(both), value(nested), value(none)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), *(st.floats(-2.0, 2.0, width=32) for _ in range(3)))
def test_a_tilt_of_a_tilt_is_the_tilt_of_the_sum(seed, a, b, c):
    both, nested, none = sums_of_energies(jax.random.key(seed), a, b, c)
    np.testing.assert_allclose(both, nested, rtol=1e-4, atol=1e-4)
    # Its power: the energy is there.
    assert abs(a) < 0.01 or abs(both[0] - none[0]) > 0 or abs(b) > 0.01


# --- mixtures: classifiers, inverse problems, and what is approximate -----------------------------

MIXTURE = GaussianMixture.isotropic([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.5, 0.8])
MATRIX, SEEN, SCALE = jnp.array([[1.0, -0.5]]), jnp.array([0.4]), 0.7
TIMES = jnp.linspace(0.01, 0.995, 101)


def gaussian_chain(eta):
    return rectified_chain(lambda x, t: MIXTURE.denoised(x, t, 1 - t), MIXTURE, TIMES, eta)


def inverse_problem(x):
    return 0.5 * jnp.sum((MATRIX @ x - SEEN) ** 2) / SCALE**2


def exact_log_h(x, t):
    """In one dimension, of what is observed."""
    posterior = MIXTURE.given_noised(x, t, 1 - t)
    means = posterior.means @ MATRIX[0]
    variances = jnp.sum((MATRIX[0] @ posterior.axes * posterior.scales) ** 2, -1) + SCALE**2
    logs = jnp.log(SCALE / jnp.sqrt(variances)) - 0.5 * (means - SEEN[0]) ** 2 / variances
    return jax.nn.logsumexp(jax.nn.log_softmax(posterior.logits) + logs)


@pytest.mark.long
def test_an_inverse_problem_with_its_exact_lookahead():
    chain, _ = gaussian_chain(1.0)
    posterior, log_z = MIXTURE.tilted(MATRIX, SEEN, SCALE)
    samples = guide(chain, inverse_problem, Exact(exact_log_h)).smc(particles=2000, threshold=0.0)
    found = jax.jit(ppgen.seed(samples))(jax.random.key(0))
    assert found.ess[-1] > 0.8 * 2000
    assert abs(found.log_evidence - log_z) < 0.06
    np.testing.assert_allclose(found.mean(), posterior.mean, atol=0.12)
    np.testing.assert_allclose(found.mean(posterior.component), posterior.weights, atol=0.06)
    # An ODE has no weights, but with the same lookahead nearly the same law.
    silent, _ = gaussian_chain(0.0)
    guided = guide_approximately(silent, inverse_problem, Exact(exact_log_h))
    run = jax.jit(jax.vmap(ppgen.seed(guided)))
    xs = run(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(xs.mean(0), posterior.mean, atol=0.15)


def test_a_classifier_guides_to_its_class():
    chain, _ = gaussian_chain(1.0)
    classifier = lambda x, t: jnp.log(MIXTURE.smoothed(t, 1 - t).component(x)[0])  # noqa: E731
    energy = lambda x: -jnp.log(MIXTURE.component(x)[0])  # noqa: E731
    samples = guide(chain, energy, Learned(classifier)).smc(particles=1000)
    found = jax.jit(ppgen.seed(samples))(jax.random.key(0))
    assert abs(found.log_evidence - jnp.log(0.3)) < 0.05
    np.testing.assert_allclose(found.mean(), MIXTURE.means[0], atol=0.12)


def test_projection_fills_in_what_is_missing():
    chain, decoder = gaussian_chain(1.0)
    known = lambda x: x.at[0].set(1.2)  # noqa: E731
    painted = guide_approximately(chain, None, Project(decoder, known))
    xs = jax.jit(jax.vmap(ppgen.seed(painted)))(jax.random.split(jax.random.key(0), 500))
    np.testing.assert_allclose(xs[:, 0], 1.2, atol=0.1)
    assert xs[:, 1].std() > 0.3
    with pytest.raises(PathError, match="guide_approximately"):
        guide(chain, inverse_problem, Project(decoder, known))


def test_what_has_no_weights_or_no_pull_is_refused():
    silent, _ = gaussian_chain(0.0)
    with pytest.raises(PathError, match="no weights"):
        ppgen.seed(guide(silent, inverse_problem, Exact(exact_log_h)))(jax.random.key(0))
    still = langevin(epsilon=0.0)
    with pytest.raises(PathError, match="derivative of a step"):
        guided = guide_approximately(still, energy, LOOKAHEADS["plug-in"])
        ppgen.seed(guided)(jax.random.key(0))


def test_a_lookahead_is_learned_by_regression():
    """At log h the gradient vanishes; at the plug-in it does not."""

    def bridge():
        t = numpyro.sample("t", dist.Uniform(0.1, 0.9))
        x1 = numpyro.sample("x1", dist.Normal(1.0, 0.5))
        return t * x1 + (1 - t) * numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def model(params, x, t, exact):
        variance = 1 / (1 / 0.25 + t**2 / (1 - t) ** 2)
        mean = variance * (1.0 / 0.25 + t * x / (1 - t) ** 2)
        total = variance * jnp.abs(exact) + WIDTH**2
        log_h = 0.5 * jnp.log(WIDTH**2 / total) - 0.5 * (mean - 1.5) ** 2 / total
        return log_h + params @ jnp.stack([jnp.ones(()), x, t * x])

    def objective(params, exact):
        return regress(
            lambda p, x, t: model(p, x, t, exact),
            bridge,
            predict=lambda point: -energy(point.sites["x1"]),
            loss=log_mean_exp_error,
        )(params)

    g = jax.grad(ppgen.expectation(objective), argnums=1)
    keys = jax.random.split(jax.random.key(0), 40_000)
    run = jax.jit(jax.vmap(lambda key, exact: g(key, jnp.zeros(3), exact), (0, None)))
    for exact in (1.0, 0.0):
        found = np.asarray(run(keys, exact), np.float64)
        z = np.abs(found.mean(0)) / found.std(0) * len(found) ** 0.5
        assert (z.max() < SIGMAS) == (exact == 1)


def test_a_bound_that_does_not_bind_costs_nothing():
    def proposal(loc):
        return numpyro.sample("x", dist.Normal(loc, 1.0))

    nearest = kl_to_tilted(proposal, lambda loc: proposal(0.0), lambda x: 0.0 * x)
    up = optax.chain(optax.sgd(0.3), optax.scale(-1.0))
    optimizer = optax.partition({"down": optax.sgd(0.1), "up": up}, ("up", "down"))

    def location(bound):
        loss = lagrangian(nearest, proposal, lambda x: x, bound, equal=False)
        start, key = (jnp.asarray(-2.0), jnp.asarray(0.3)), jax.random.key(0)
        found = fit(lambda p: loss(*p), start, optimizer, key=key, steps=1500, draws=16)
        return found.params[1]

    assert abs(location(1.0)) < 0.1  # E[x] = 0 anyway
    assert abs(location(-1.0) + 1) < 0.1
