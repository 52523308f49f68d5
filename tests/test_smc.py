"""Particle filters against the Kalman filter, the forward algorithm and exact enumeration."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from monte_carlo import count_equations

import ppgen
from ppgen.inference import Trajectory, conditional_smc, elbo, fivo, iwelbo, smc
from ppgen.inference.particles import _filtering as filtering
from ppgen.testing import assert_unbiased, exact

pytestmark = pytest.mark.sweep(of=3)

KEYS = 20_000
# Every comparison is within 5 standard errors: a false alarm has probability below 6e-7.
SIGMAS = 5.0
SCHEMES = ["multinomial", "systematic", "residual"]
XS = jnp.array([0.5, 1.8, -0.3, 2.5])

# --- a linear-Gaussian model, and the Kalman filter -----------------------------------------------

DECAY, NOISE, WIDTH = 0.8, 1.2, 0.6


def gaussian_step(state, x):
    z = numpyro.sample("z", dist.Normal(DECAY * state, NOISE))
    numpyro.sample("x", dist.Normal(z, WIDTH), obs=x)
    return z


def gaussian_start():
    z = numpyro.sample("z0", dist.Normal(0.0, 1.0))
    numpyro.sample("x0", dist.Normal(z, 0.7), obs=0.9)
    return z


def informed(state, x):
    """The locally optimal proposal, widened."""
    precision = 1 / NOISE**2 + 1 / WIDTH**2
    mean = (DECAY * state / NOISE**2 + x / WIDTH**2) / precision
    numpyro.sample("z", dist.Normal(mean, 1.3 / precision**0.5))


def kalman(xs, mean=0.0, variance=0.0):
    total = 0.0
    for x in np.asarray(xs, np.float64):
        mean, variance = DECAY * mean, DECAY**2 * variance + NOISE**2
        total += normal_log_density(x, mean, variance + WIDTH**2)
        gain = variance / (variance + WIDTH**2)
        mean, variance = mean + gain * (x - mean), (1 - gain) * variance
    return total


def normal_log_density(x, mean, variance):
    return -0.5 * (np.log(2 * np.pi * variance) + (x - mean) ** 2 / variance)


# --- a hidden Markov model, and the forward algorithm ---------------------------------------------

TRANSITION = jnp.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
MEANS = jnp.array([-0.5, 1.0, 2.5])


def hmm_step(state, x):
    z = numpyro.sample("z", dist.Categorical(probs=TRANSITION[state]))
    numpyro.sample("x", dist.Normal(MEANS[z], 0.8), obs=x)
    return z


def forward(xs):
    transition, means = np.asarray(TRANSITION, np.float64), np.asarray(MEANS, np.float64)
    belief = np.array([1.0, 0.0, 0.0])
    for x in np.asarray(xs, np.float64):
        belief = (belief @ transition) * np.exp(normal_log_density(x, means, 0.8**2))
    return np.log(belief.sum())


MODELS = {
    "gaussian": (gaussian_step, 0.0, kalman(XS)),
    "hmm": (hmm_step, 0, forward(XS)),
}


def runs(f, *args, keys=KEYS):
    run = jax.jit(jax.vmap(lambda key: ppgen.seed(f)(key, *args)))
    return run(jax.random.split(jax.random.key(7), keys))


def deviation(log_estimates, log_exact):
    """The mean of the estimates' ratio to the exact value, less one, in standard errors."""
    ratios = np.exp(np.asarray(log_estimates, np.float64) - log_exact)
    error = ratios.std(ddof=1) / len(ratios) ** 0.5
    found = (ratios.mean() - 1) / error
    assert error < 0.02 or abs(found) > SIGMAS, "the test would not see a bias of a tenth"
    return found


def evidence(step, initial, xs=XS, particles=5, **options):
    filtered = smc(step, particles=particles, **options)
    return runs(lambda: filtered(initial, xs).log_evidence)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("threshold", [0.7, 1.0])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("model", MODELS)
def test_the_evidence_is_unbiased(model, scheme, threshold):
    step, initial, log_exact = MODELS[model]
    got = evidence(step, initial, resampling=scheme, threshold=threshold)
    assert abs(deviation(got, log_exact)) < SIGMAS


@pytest.mark.long
@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_that_are_not_reset_are_found(monkeypatch, scheme):
    """The power of the test above."""
    monkeypatch.setattr(filtering, "_after_resampling", lambda log_weights, flag: log_weights)
    got = evidence(gaussian_step, 0.0, resampling=scheme, threshold=1.0)
    assert abs(deviation(got, kalman(XS))) > 2 * SIGMAS


def test_a_proposal_changes_the_variance_only():
    blind = evidence(gaussian_step, 0.0)
    seeing = evidence(gaussian_step, 0.0, proposal=informed)
    assert abs(deviation(seeing, kalman(XS))) < SIGMAS
    assert np.std(seeing) < 0.5 * np.std(blind)


def test_a_proposal_whose_density_is_estimated():
    better = ppgen.normalize(hmm_step, particles=2)
    got = evidence(hmm_step, 0, proposal=better)
    assert abs(deviation(got, forward(XS))) < SIGMAS


def test_an_initial_program_may_observe():
    log_first = normal_log_density(0.9, 0.0, 1 + 0.7**2)
    mean, variance = 0.9 / (1 + 0.7**2), 0.7**2 / (1 + 0.7**2)
    log_exact = log_first + kalman(XS[:3], mean, variance)
    for threshold in (0.5, 1.0):
        got = evidence(gaussian_step, gaussian_start, XS[:3], threshold=threshold)
        assert abs(deviation(got, log_exact)) < SIGMAS


# --- the rest of what a run returns ---------------------------------------------------------------


def summing_step(state, x, scale):
    total, steps = state
    z = numpyro.sample("z", dist.Normal(0.0, scale))
    numpyro.sample("x", dist.Normal(total + z, 0.5), obs=x)
    return total + z, steps + 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_trajectories_lead_to_the_states(scheme):
    def start(scale):
        return numpyro.sample("z0", dist.Normal(0.0, scale)), jnp.array(0)

    xs = jnp.sin(jnp.arange(30.0))
    filtered = smc(summing_step, particles=20, resampling=scheme)
    run = jax.jit(ppgen.seed(lambda: filtered(start, xs, 0.7)))(jax.random.key(0))
    paths = run.trajectories()
    assert paths.choices["z"].shape == (30, 20)
    total = paths.initial["z0"] + paths.choices["z"].sum(0)
    np.testing.assert_allclose(total, run.states[0], atol=1e-4)
    np.testing.assert_array_equal(run.states[1], 30)
    assert (run.ancestors != jnp.arange(20)).any()
    np.testing.assert_allclose(jnp.exp(run.log_weights).sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(run.log_increments.sum(), run.log_evidence, rtol=1e-5)
    assert run.ess.shape == (30,) and run.ess.min() >= 1 - 1e-4 and run.ess.max() <= 20 + 1e-4
    one = ppgen.seed(run.draw_trajectory)(jax.random.key(1))
    matches = jnp.all(one.choices["z"][:, None] == paths.choices["z"], axis=0)
    assert matches.any()


def test_a_threshold_of_zero_never_resamples():
    run = ppgen.seed(smc(hmm_step, particles=4, threshold=0.0))(jax.random.key(0), 0, XS)
    np.testing.assert_array_equal(run.ancestors, jnp.broadcast_to(jnp.arange(4), (4, 4)))


def test_what_cannot_be_has_no_evidence():
    def impossible(state, x):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.factor("f", jnp.where(x > 1, -jnp.inf, jnp.log(0.5 + z)))
        return z

    run = ppgen.seed(smc(impossible, particles=3))(jax.random.key(0), 0, XS)
    assert run.log_evidence == -jnp.inf
    assert np.all(np.isfinite(run.log_weights))
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.all(x == x)), run))


def test_particles_under_vmap_are_filters_of_their_own():
    filtered = smc(gaussian_step, particles=50)
    found = jax.jit(ppgen.seed(lambda xs: jax.vmap(lambda x: filtered(0.0, x))(xs)))(
        jax.random.key(0), jnp.stack([XS, XS, XS[::-1]])
    )
    assert found.log_evidence.shape == (3,)
    assert found.log_evidence[0] != found.log_evidence[1]
    np.testing.assert_allclose(found.log_evidence[:2], kalman(XS), atol=2.0)


# --- conditional SMC ------------------------------------------------------------------------------

SHORT = XS[:3]
PATHS = jnp.array(list(itertools.product(range(3), repeat=3)))


def posterior_of_paths():
    def log_joint(path):
        states = jnp.concatenate([jnp.zeros(1, int), path])
        return sum(
            jnp.log(TRANSITION[states[i], states[i + 1]])
            + dist.Normal(MEANS[path[i]], 0.8).log_prob(SHORT[i])
            for i in range(3)
        )

    return jax.nn.log_softmax(jax.vmap(log_joint)(PATHS))


@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_conditional_smc_bounds_from_above_and_keeps_the_posterior(threshold):
    log_posterior = posterior_of_paths()
    run = conditional_smc(hmm_step, particles=4, threshold=threshold)

    def f():
        retained = PATHS[ppgen.draw(dist.Categorical(logits=log_posterior))]
        filtered = run({"z": retained}, 0, SHORT)
        return filtered.log_evidence, filtered.draw_trajectory().choices["z"], retained

    log_evidence, drawn, retained = runs(f)
    assert abs(deviation(-log_evidence, -forward(SHORT))) < SIGMAS
    # As an estimate of the evidence itself it is biased: the test has the power to tell.
    assert abs(deviation(log_evidence, forward(SHORT))) > 2 * SIGMAS
    found = np.bincount(np.asarray(drawn @ jnp.array([9, 3, 1])), minlength=27) / KEYS
    probs = np.exp(np.asarray(log_posterior, np.float64))
    error = np.sqrt(probs * (1 - probs) / KEYS)
    assert np.all(np.abs(found - probs) < SIGMAS * error + 1e-5)
    assert np.mean(np.any(np.asarray(drawn != retained), axis=1)) > 0.2


def test_conditional_smc_with_a_proposal_and_an_initial_program():
    run = conditional_smc(gaussian_step, particles=4, proposal=informed)
    first = ppgen.seed(smc(gaussian_step, particles=4, proposal=informed))
    filtered = jax.jit(lambda key: first(key, gaussian_start, XS))(jax.random.key(0))
    path = ppgen.seed(filtered.draw_trajectory)(jax.random.key(1))
    assert isinstance(path, Trajectory)
    again = ppgen.seed(run)(jax.random.key(2), path, gaussian_start, XS)
    np.testing.assert_array_equal(again.steps.choices["z"][:, 0], path.choices["z"])
    np.testing.assert_array_equal(again.steps.initial["z0"][0], path.initial["z0"])
    np.testing.assert_array_equal(again.ancestors[:, 0], 0)
    alone = conditional_smc(gaussian_step, particles=1, proposal=informed)
    weight = ppgen.seed(alone)(jax.random.key(3), {"z": XS}, 0.0, XS).log_evidence
    states = jnp.concatenate([jnp.zeros(1), XS[:-1]])
    each = jax.vmap(
        lambda s, x: (
            ppgen.log_density(gaussian_step)({"z": x}, s, x)
            - ppgen.log_density(informed)({"z": x}, s, x)
        )
    )(states, XS)
    np.testing.assert_allclose(weight, each.sum(), rtol=1e-5)


# --- the filtering objective ----------------------------------------------------------------------


def coin_step(state, x, theta):
    z = numpyro.sample("z", dist.Bernoulli(logits=theta[0] + theta[1] * state))
    numpyro.sample("x", dist.Normal(1.5 * z, jnp.exp(theta[2])), obs=x)
    return z


def coin_proposal(state, x, theta):
    numpyro.sample("z", dist.Bernoulli(logits=theta[3] * x + 0.3 * state))


THETA = jnp.array([0.3, -0.8, 0.1, 0.7])


@pytest.mark.parametrize(
    ("scheme", "threshold", "proposal"),
    [
        ("multinomial", 1.0, coin_proposal),
        ("systematic", 1.0, coin_proposal),
        ("residual", 1.0, None),
        ("systematic", 0.95, None),
    ],
)
def test_fivo_has_the_exact_value_and_gradient(scheme, threshold, proposal):
    bound = fivo(coin_step, proposal, particles=2, resampling=scheme, threshold=threshold)
    objective = lambda theta: bound(jnp.array(0), XS[:2], theta)  # noqa: E731
    assert_unbiased(objective, THETA, order=1, samples=100_000, detect=0.3)


@pytest.mark.long
def test_leaving_the_ancestors_out_of_the_gradient_is_seen_to_be_biased():
    """The power of the test above; and the flag."""
    options = {"particles": 2, "resampling": "multinomial"}
    right = fivo(coin_step, coin_proposal, **options)
    wrong = fivo(coin_step, coin_proposal, gradient="biased", **options)
    with pytest.raises(ppgen.PpgenError, match="biased"):
        ppgen.expectation(wrong)(jax.random.key(0), jnp.array(0), XS[:2], THETA)
    with pytest.raises(AssertionError):
        assert_unbiased(
            lambda theta: wrong(jnp.array(0), XS[:2], theta),
            THETA,
            exact=exact(lambda theta: right(jnp.array(0), XS[:2], theta)),
            order=1,
            samples=100_000,
            allow_biased=True,
        )


@pytest.mark.long
def test_fivo_of_reparameterised_particles():
    def step(state, x, theta):
        z = numpyro.sample("z", dist.Normal(theta[0] * state, 1.0))
        numpyro.sample("x", dist.Normal(z, 0.7), obs=x)
        return z

    def proposal(state, x, theta):
        numpyro.sample("z", dist.Normal(theta[1] * x, jnp.exp(theta[2])))

    bound = fivo(step, proposal, particles=2)
    objective = lambda theta: bound(0.5, XS[:2], theta)  # noqa: E731
    theta = jnp.array([0.9, 0.6, -0.2])
    oracle = exact(objective, nodes=20, max_points=2**22)
    assert_unbiased(objective, theta, exact=oracle, order=1, samples=100_000, detect=0.5)


def test_adaptive_resampling_of_reparameterised_particles_is_refused():
    bound = fivo(gaussian_step, particles=4, threshold=0.5)
    with pytest.raises(ppgen.PpgenError, match="indicator"):
        ppgen.expectation(bound)(jax.random.key(0), 0.0, XS)
    several = lambda: jnp.sum(jax.vmap(lambda s: bound(s, XS))(jnp.arange(2.0)))  # noqa: E731
    with pytest.raises(ppgen.PpgenError, match="indicator"):
        ppgen.expectation(several)(jax.random.key(0))


def test_limits_of_the_filtering_objective():
    """One particle is the ELBO; never resampled, it is the IWELBO of whole paths."""

    def model(theta):
        jax.lax.scan(lambda s, x: (coin_step(s, x, theta),) * 2, jnp.array(0), XS[:2])

    def guide(theta):
        def body(state, x):
            z = numpyro.sample("z", dist.Bernoulli(logits=theta[3] * x + 0.3 * state))
            return z, None

        jax.lax.scan(body, jnp.array(0), XS[:2])

    def bound(**options):
        found = fivo(coin_step, coin_proposal, **options)
        return exact(lambda theta: found(jnp.array(0), XS[:2], theta))(THETA)

    np.testing.assert_allclose(bound(particles=1), exact(elbo(model, guide))(THETA), rtol=1e-5)
    paths = exact(iwelbo(model, guide, particles=2))(THETA)
    np.testing.assert_allclose(bound(particles=2, threshold=0.0), paths, rtol=1e-5)


# --- size, and errors -----------------------------------------------------------------------------


def test_the_size_of_what_is_compiled_depends_on_neither_steps_nor_particles():
    def size(steps, particles):
        bound = fivo(coin_step, coin_proposal, particles=particles, resampling="systematic")
        g = jax.value_and_grad(ppgen.expectation(bound), argnums=3)
        xs = jnp.zeros(steps)
        return count_equations(jax.make_jaxpr(g)(jax.random.key(0), jnp.array(0), xs, THETA))

    assert size(3, 4) == size(300, 4) == size(3, 200)


def test_a_proposal_does_not_observe():
    with pytest.raises(ppgen.PpgenError, match="no normalised density"):
        ppgen.seed(smc(hmm_step, particles=2, proposal=hmm_step))(jax.random.key(0), 0, XS)


def test_a_proposal_draws_the_sites_of_the_step():
    def other(state, x):
        numpyro.sample("y", dist.Normal(0.0, 1.0))

    with pytest.raises(ppgen.PpgenError, match="no such site"):
        ppgen.seed(smc(gaussian_step, particles=2, proposal=other))(jax.random.key(0), 0.0, XS)


def test_latent_and_observed_in_one_branch():
    def step(state, x):
        def one(_):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
            return z

        return jax.lax.cond(x > 0, one, lambda _: state, 0)

    with pytest.raises(ppgen.PpgenError, match="a proposal of its own"):
        ppgen.seed(smc(step, particles=2))(jax.random.key(0), 0.0, XS)


@pytest.mark.parametrize(
    "options",
    [
        {"particles": 0},
        {"particles": 2, "threshold": 1.5},
        {"particles": 2, "resampling": "none"},
        {"particles": 2, "gradient": "none"},
    ],
)
def test_arguments_without_meaning(options):
    with pytest.raises(ValueError, match="at least one|in \\[0, 1\\]|must be one of"):
        smc(hmm_step, **options)
