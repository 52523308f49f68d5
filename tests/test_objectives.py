"""The objectives against models whose evidence, bounds and gradients are known exactly."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.inference import elbo, iwelbo

KEYS = 20_000
# Every comparison is within 5 standard errors: a false alarm has probability below 6e-7.
SIGMAS = 5.0


def gaussian_model(theta, x):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def gaussian_guide(theta, x):
    numpyro.sample("z", dist.Normal(theta[0] * x, jnp.exp(theta[1])))


def gaussian_log_evidence(x):
    return dist.Normal(0.0, jnp.sqrt(2.0)).log_prob(x)


def gaussian_elbo(theta, x):
    mean, scale = theta[0] * x, jnp.exp(theta[1])
    posterior_mean, posterior_variance = x / 2, 0.5
    divergence = (
        0.5 * (scale**2 + (mean - posterior_mean) ** 2) / posterior_variance
        - 0.5
        - jnp.log(scale)
        + 0.5 * jnp.log(posterior_variance)
    )
    return gaussian_log_evidence(x) - divergence


def coin_model(logit, x):
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)


def coin_guide(logit, x):
    numpyro.sample("z", dist.Bernoulli(logits=logit))


def coin_iwelbo(logit, x, particles):
    """The exact bound, by enumeration of all particles."""
    log_q = jnp.stack([jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit)])
    log_p = jnp.log(jnp.array([0.7, 0.3])) + dist.Normal(jnp.array([0.0, 2.0]), 1.0).log_prob(x)
    total = 0.0
    for zs in itertools.product([0, 1], repeat=particles):
        z = jnp.array(zs)
        bound = jax.nn.logsumexp(log_p[z] - log_q[z]) - jnp.log(particles)
        total = total + jnp.exp(log_q[z].sum()) * bound
    return total


def assert_means(samples, exact):
    """The mean of samples along axis 0 is the exact array, up to its standard error."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(0, ddof=1) / np.sqrt(len(samples)) + 1e-6
    z_scores = (samples.mean(0) - np.asarray(exact)) / error
    assert np.abs(z_scores).max() < SIGMAS, (samples.mean(0), exact, error)


def values_and_gradients(objective, params, *args):
    value_and_grad = jax.value_and_grad(ppgen.expectation(objective), argnums=1)
    run = jax.jit(jax.vmap(lambda key: value_and_grad(key, params, *args)))
    return run(jax.random.split(jax.random.key(0), KEYS))


def test_elbo_has_the_exact_value_and_gradient():
    theta, x = jnp.array([0.2, 0.1]), 1.3
    values, gradients = values_and_gradients(elbo(gaussian_model, gaussian_guide), theta, x)
    exact, exact_gradient = jax.value_and_grad(gaussian_elbo)(theta, x)
    assert_means(values, exact)
    assert_means(gradients, exact_gradient)


def test_bounds_are_the_evidence_when_the_guide_is_the_posterior():
    theta, x = jnp.array([0.5, 0.5 * np.log(0.5)]), 1.3
    for objective in (
        elbo(gaussian_model, gaussian_guide),
        iwelbo(gaussian_model, gaussian_guide, particles=7),
    ):
        value = ppgen.expectation(objective)(jax.random.key(3), theta, x)
        np.testing.assert_allclose(value, gaussian_log_evidence(x), rtol=1e-5)


@pytest.mark.parametrize("particles", [1, 2, 3])
def test_iwelbo_of_a_discrete_latent_has_the_exact_value_and_gradient(particles):
    logit, x = jnp.array(0.4), 0.9
    objective = iwelbo(coin_model, coin_guide, particles=particles)
    values, gradients = values_and_gradients(objective, logit, x)
    exact, exact_gradient = jax.value_and_grad(coin_iwelbo)(logit, x, particles)
    assert_means(values, exact)
    assert_means(gradients, exact_gradient)


def test_iwelbo_of_one_particle_is_the_elbo():
    theta, x = jnp.array([0.2, 0.1]), 1.3
    values, _ = values_and_gradients(iwelbo(gaussian_model, gaussian_guide, particles=1), theta, x)
    assert_means(values, gaussian_elbo(theta, x))


def test_iwelbo_grows_with_particles_and_stays_below_the_evidence():
    theta, x = jnp.array([0.0, 0.0]), 2.5
    means = [
        values_and_gradients(iwelbo(gaussian_model, gaussian_guide, particles=k), theta, x)[
            0
        ].mean()
        for k in (1, 4, 16)
    ]
    assert means[0] < means[1] < means[2] < gaussian_log_evidence(x)


def test_iwelbo_particles_are_independent():
    """Were the particles one draw, the bound would have the mean of the ELBO."""
    theta, x = jnp.array([0.0, 0.0]), 2.5
    few, _ = values_and_gradients(iwelbo(gaussian_model, gaussian_guide, particles=16), theta, x)
    assert few.mean() > gaussian_elbo(theta, x) + 0.1


def test_iwelbo_under_vmap_bounds_each_datum():
    theta, xs = jnp.array([0.2, 0.1]), jnp.array([0.3, -1.0, 2.0])
    objective = iwelbo(gaussian_model, gaussian_guide, particles=2)
    bounds, _ = values_and_gradients(
        lambda theta: jax.vmap(objective, in_axes=(None, 0))(theta, xs).sum(), theta
    )
    each = [values_and_gradients(objective, theta, x)[0].mean() for x in xs]
    np.testing.assert_allclose(bounds.mean(), sum(each), atol=0.05)


def test_iwelbo_needs_a_particle():
    with pytest.raises(ValueError, match="at least one particle"):
        iwelbo(gaussian_model, gaussian_guide, particles=0)
