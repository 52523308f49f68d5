"""The variational autoencoder and its likelihoods."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ppgen
from ppgen.inference import elbo, fit, iwelbo, mean_over_data, per_datum
from ppgen.models.parts.data import load_digits
from ppgen.models.parts.distributions import DiscretizedLogistic
from ppgen.models.parts.likelihoods import LIKELIHOODS
from ppgen.models.vae import (
    VAE,
    batch_objective,
    image_objective,
    observed,
    reconstruct,
    vae_guide,
    vae_model,
)

LEVELS = 5


def make(likelihood, pixels=6, **sizes):
    sizes = {"dimensions": 2, "hidden": 8} | sizes
    return VAE(pixels=pixels, levels=LEVELS, likelihood=likelihood, key=jax.random.key(0), **sizes)


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_a_likelihood_is_normalised_and_has_the_mean_it_says(name):
    likelihood = LIKELIHOODS[name](LEVELS)
    outputs = jax.random.normal(jax.random.key(1), (3, likelihood.channels))
    pixels = likelihood(outputs).base_dist
    if likelihood.continuous:
        values = jnp.linspace(-60.0, 70.0, 20_001)
        width, offset = 130.0 / 20_000, 0.5
    else:
        values, width, offset = jnp.arange(likelihood.values), 1.0, 0.0
    logs = jax.vmap(lambda value: pixels.log_prob(jnp.full(3, value)))(values)
    masses = jnp.exp(logs) * width
    np.testing.assert_allclose(masses.sum(0), 1.0, rtol=1e-4)
    means = (masses * (values[:, None] - offset)).sum(0)
    np.testing.assert_allclose(likelihood.mean(outputs), means, rtol=1e-4, atol=1e-4)


def test_the_discretised_logistic_keeps_its_digits():
    d = DiscretizedLogistic(jnp.array([40.0, -300.0, 2.0]), jnp.array([0.5, 1.0, 1e-3]), levels=5)
    value, slope = jax.vmap(
        jax.value_and_grad(lambda x, s, k: DiscretizedLogistic(x, s, levels=5).log_prob(k)),
        in_axes=(0, 0, None),
    )(d.loc, d.scale, 2.0)
    # σ(b) - σ(a) = e^{b} (1 - e^{a - b}) up to e^{b} where b is far below zero.
    np.testing.assert_allclose(value[0], -75.0 + np.log1p(-np.exp(-2.0)), rtol=1e-6)
    np.testing.assert_allclose(value[1], -301.5 + np.log1p(-np.exp(-1.0)), rtol=1e-6)
    np.testing.assert_allclose(value[2], 0.0, atol=1e-6)
    np.testing.assert_allclose(slope, [-2.0, 1.0, 0.0], rtol=1e-6, atol=1e-6)


def test_the_discretised_logistic_draws_what_it_scores():
    d = DiscretizedLogistic(1.3, 0.8, levels=5)
    draws = np.asarray(d.sample(jax.random.key(0), (20_000,)))
    expected = np.exp(d.log_prob(jnp.arange(5.0)))
    observed_share = (draws[:, None] == np.arange(5)).mean(0)
    error = np.sqrt(expected * (1 - expected) / len(draws))
    assert (np.abs(observed_share - expected) < 5 * error).all()
    np.testing.assert_allclose(draws.mean(), d.mean, atol=0.05)


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_model_and_guide_are_the_formulas(name):
    vae = make(name)
    x = vae.likelihood.discretize(jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 4.0]))
    z = jnp.array([0.3, -1.1])
    model_log = ppgen.log_density(vae_model)({"z": z}, vae, x)
    likelihood_log = vae.likelihood(vae.decoder(z)).log_prob(x)
    prior_log = jax.scipy.stats.norm.logpdf(z).sum()
    np.testing.assert_allclose(model_log, prior_log + likelihood_log, rtol=1e-5)
    guide_log = ppgen.log_density(vae_guide)({"z": z}, vae, x)
    mean, log_variance = jnp.split(vae.encoder(2 * x / (vae.likelihood.values - 1) - 1), 2)
    scale = jnp.exp(0.5 * log_variance)
    np.testing.assert_allclose(
        guide_log, jax.scipy.stats.norm.logpdf(z, mean, scale).sum(), rtol=1e-5
    )


def test_the_model_draws_images_when_none_is_given():
    vae = make("categorical")
    trace = ppgen.seed(ppgen.simulate(vae_model))(jax.random.key(0), vae)
    assert trace["x"].shape == (6,) and trace["z"].shape == (2,)
    means = ppgen.seed(vae_model)(jax.random.key(0), vae)
    assert means.shape == (6,) and 0 <= means.min() and means.max() <= LEVELS - 1


def test_bernoulli_thresholds_at_half_of_the_range():
    vae = make("bernoulli")
    image = jnp.array([0.0, 1.0, 1.9, 2.0, 3.0, 4.0])
    assert observed(vae, image).tolist() == [0, 0, 0, 1, 1, 1]


def test_dequantisation_noise_is_fresh_and_below_one():
    vae = make("gaussian")
    image = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 4.0])
    noise = [ppgen.seed(observed)(jax.random.key(i), vae, image) - image for i in range(2)]
    assert jnp.stack(noise).min() >= 0 and jnp.stack(noise).max() < 1
    assert not jnp.array_equal(*noise)


def test_images_of_a_batch_have_noise_of_their_own():
    """The same image twice in a batch is reconstructed differently."""
    vae = make("logistic")
    images = jnp.tile(jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 4.0]), (2, 1))
    rebuild = ppgen.seed(lambda vae, x: jax.vmap(reconstruct, in_axes=(None, 0))(vae, x))
    first, second = rebuild(jax.random.key(0), vae, images)
    assert not jnp.allclose(first, second)


def test_the_batch_objective_is_the_mean_of_the_image_objectives():
    vae = make("logistic")
    images = jnp.array([[0.0, 1.0, 2.0, 3.0, 4.0, 4.0], [4.0, 0.0, 0.0, 2.0, 1.0, 3.0]])
    bound = elbo(vae_model, vae_guide)
    each = per_datum(image_objective(bound), vae, images, key=jax.random.key(0), draws=4000)
    both = ppgen.expectation(batch_objective(bound), draws=4000)(jax.random.key(1), vae, images)
    np.testing.assert_allclose(both, each.mean(), atol=0.15)


def test_a_short_fit_beats_its_start_and_iwelbo_exceeds_elbo_on_held_out_digits():
    digits = load_digits()
    vae = VAE(
        pixels=64, levels=17, likelihood="logistic", dimensions=4, hidden=32, key=jax.random.key(0)
    )
    bound = elbo(vae_model, vae_guide)
    fitted = fit(
        batch_objective(bound),
        vae,
        optax.adam(5e-3),
        key=jax.random.key(1),
        steps=150,
        data=digits.train,
        batch_size=64,
        maximize=True,
    )
    held_out = digits.held_out[:50]

    def evaluate(objective, vae):
        return mean_over_data(
            per_datum(image_objective(objective), vae, held_out, key=jax.random.key(2))
        ).mean

    weighted = iwelbo(vae_model, vae_guide, particles=50)
    assert evaluate(bound, fitted.params) > evaluate(bound, vae) + 50
    assert evaluate(weighted, fitted.params) > evaluate(bound, fitted.params)
