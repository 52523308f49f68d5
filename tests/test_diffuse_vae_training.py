"""DiffuseVAE: the fitted prior, training in stages, and the recipe."""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from diffuse_vaes import small
from scipy import stats

import ppgen
from ppgen.models.diffuse_vae import (
    Autoencoder,
    DiffuseVAE,
    Sampler,
    autoencoder_model,
    draw_images,
    fit_autoencoder,
    fit_denoiser,
    fit_jointly,
    fit_mixture_prior,
    linear_schedule,
    quadratic_times,
    refine,
)
from ppgen.models.diffuse_vae.recipe import DiffuseVAERecipe
from ppgen.models.parts.data import load_digits
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.metrics.distances import frechet_distance
from ppgen.models.parts.networks import DenoisingMLP
from ppgen.models.parts.runs import fit_recipe

# --- the prior ------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_mixture_prior_is_of_the_aggregate_posterior():
    vae = Autoencoder(pixels=3, latent=2, hidden=8, key=jax.random.key(0))
    random = np.random.RandomState(0)
    images = np.concatenate([random.normal(c, 0.1, (1500, 3)) for c in (-3.0, 3.0)])
    prior = fit_mixture_prior(vae, images.astype(np.float32), key=jax.random.key(1), components=2)
    means, scales = jax.vmap(vae.encoder)(jnp.asarray(images, jnp.float32))
    draws = prior.sample(jax.random.key(2), (20_000,))
    np.testing.assert_allclose(draws.mean(0), means.mean(0), atol=0.1)
    expected = jnp.cov(means.T) + jnp.diag((scales**2).mean(0))
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.15)
    assert np.abs(means.mean(0)).max() > 0.3 or np.abs(expected - np.eye(2)).max() > 0.5
    # In the program it is the site z, with its density.
    trace = ppgen.seed(partial(ppgen.simulate(autoencoder_model), prior=prior))(
        jax.random.key(3), vae
    )
    z, x = trace["z"], trace["x"]
    by_hand = prior.log_prob(z) + stats.norm.logpdf(x, vae.decoder(z), np.sqrt(0.5)).sum()
    np.testing.assert_allclose(trace.log_density, by_hand, rtol=1e-5)


def test_the_mixture_prior_is_of_the_distributions_and_not_of_a_draw_of_each():
    vae = Autoencoder(pixels=3, latent=2, hidden=8, key=jax.random.key(0))
    images = np.random.RandomState(1).normal(size=(10, 3)).astype(np.float32)
    means, scales = jax.vmap(vae.encoder)(jnp.asarray(images))
    mean, variance = means.mean(0), (scales**2).mean(0) + means.var(0)

    def error(draws):
        prior = fit_mixture_prior(
            vae, images, key=jax.random.key(2), components=1, draws=draws, regularization=0.0
        )
        return max(np.abs(prior.mean - mean).max(), np.abs(prior.variance / variance - 1).max())

    # Standard errors of 20,000 draws: .007 of a mean, .01 of a variance of 1.
    assert error(2000) < 0.04
    assert error(1) > 0.1


# --- training -------------------------------------------------------------------------------------


def test_two_stages_train_one_after_the_other_and_the_joint_objective_both():
    digits = load_digits()
    x, labels = digits.train / 8 - 1, np.arange(len(digits.train)) % 3
    keys = jax.random.split(jax.random.key(0), 6)
    vae = Autoencoder(pixels=64, latent=4, hidden=32, key=keys[0])
    fitted = fit_autoencoder(vae, x, optax.adam(3e-3), key=keys[1], steps=150)
    assert fitted.history[-10:].mean() > fitted.history[0] + 10
    net = DenoisingMLP(64, features=4, hidden=64, depth=1, key=keys[2])
    model, schedule = DiffuseVAE(fitted.params, net, classes=3, form=2), linear_schedule(100)

    def train(fit, **options):
        optimizer = optax.adam(3e-3)
        return fit(model, schedule, x, optimizer, key=keys[3], steps=100, labels=labels, **options)

    second, joint = train(fit_denoiser, dropout=0.1, ema=0.9), train(fit_jointly, dropout=0.1)
    # Predicting no noise at all loses 64.
    assert second.history[-20:].mean() < 45
    assert joint.history[-20:].mean() < joint.history[0] - 10
    for trained in (second.params, second.ema):
        assert eqx.tree_equal(trained.vae, model.vae)
    assert not eqx.tree_equal(second.ema.net, second.params.net)
    assert not eqx.tree_equal(joint.params.vae, model.vae)
    for trained in (second.params, second.ema, joint.params):
        assert not eqx.tree_equal(trained.net, model.net)
    sampler = Sampler(schedule, quadratic_times(100, 10), eta=0.0)
    trained, untrained = (
        frechet_distance(draw_images(keys[4], m, sampler, 500, labels=jnp.arange(500) % 3), x)
        for m in (second.ema, model)
    )
    assert trained < 0.6 * untrained


@pytest.mark.parametrize("form", [1, 2])
def test_what_an_image_decodes_to_is_what_its_chains_are_told(form):
    schedule = linear_schedule(100)

    class OfTheCondition(eqx.Module):
        """The noise in x_t if the image is what the first stage decodes."""

        def __call__(self, x, time, image, features):
            log = schedule[jnp.rint(time * 100).astype(int)]
            left = jnp.exp(log / 2) * image + (0.0 if form == 1 else image)
            return (x - left) / jnp.sqrt(-jnp.expm1(log))

    model = eqx.tree_at(lambda m: m.net, small(form), OfTheCondition())
    sampler = Sampler(schedule, quadratic_times(100, 5), clip=None)
    run = ppgen.seed(refine)
    decoded, chains = run(jax.random.key(0), model, sampler, jnp.full(5, 0.3), chains=3)
    assert chains.shape == (3, 5)
    np.testing.assert_allclose(chains, np.tile(decoded, (3, 1)), atol=1e-4)
    other, _ = run(jax.random.key(1), model, sampler, jnp.full(5, 0.3), chains=1)
    assert np.abs(other - decoded).max() > 1e-3


# --- the recipe -----------------------------------------------------------------------------------


def test_stages_that_are_fitted_one_by_one_are_those_of_the_whole():
    recipe = DiffuseVAERecipe(hidden=8, encoder_hidden=8, latent=2, levels=50)
    options = {"steps": 3, "seed": 2, "batch_size": 16}
    whole = fit_recipe(recipe, **options)
    first = fit_recipe(recipe, stages=("autoencoder",), **options)
    second = fit_recipe(recipe, stages=("denoiser",), model=first.model, **options)
    assert eqx.tree_equal(first.model.vae, whole.model.vae)
    assert not eqx.tree_equal(first.model.net, whole.model.net)
    assert eqx.tree_equal(second.model, whole.model)


def test_a_learning_rate_that_would_never_fall_is_refused():
    with pytest.raises(CommandError, match="--warmup must be below --steps 3, not 3"):
        fit_recipe(DiffuseVAERecipe(hidden=8, encoder_hidden=8, warmup=3), steps=3)
    rate = DiffuseVAERecipe.training.rate(100)
    values = [float(rate(step)) for step in (0, 50, 100, 4050, 8000)]
    np.testing.assert_allclose(values, [0.0, 2e-3, 4e-3, 2e-3, 0.0], atol=1e-9)
    assert float(DiffuseVAERecipe.training.rate()(0)) == pytest.approx(4e-3)
