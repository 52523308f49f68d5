"""DiffuseVAE: its programs, losses and bound, against closed forms."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffuse_vaes import COVARIANCE, MEAN, gaussian, levels, small, step_of
from numpyro import handlers
from scipy import stats

import ppgen
from ppgen.inference import elbo
from ppgen.models.diffuse_vae import (
    DiffuseVAE,
    Sampler,
    ScheduleError,
    abduct,
    autoencoder_bound,
    bound_terms,
    denoising_loss,
    diffuse_vae_guide,
    diffuse_vae_model,
    draw_images,
    joint_loss,
    linear_schedule,
    quadratic_times,
    replay,
    uniform_times,
    variational_bound,
)
from ppgen.models.diffuse_vae.model import reverse_chain
from ppgen.testing import assert_unbiased

# --- programs -------------------------------------------------------------------------------------


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize(
    ("form", "options"), [(1, {}), (2, {}), (1, {"large": True}), (2, {"eta": 0.0})]
)
def test_the_program_has_the_density_of_its_kernels(form, options):
    model = small(form)
    sampler = Sampler(linear_schedule(100), quadratic_times(100, 4), **options)
    trace = ppgen.seed(ppgen.simulate(diffuse_vae_model))(jax.random.key(1), model, sampler)
    again = ppgen.log_density(diffuse_vae_model)(trace, model, sampler)
    np.testing.assert_allclose(trace.log_density, again, rtol=1e-6)
    z, x_T, x = trace["z"], trace["x_T"], trace["x"]
    x_hat = model.vae.decoder(z)
    shift = x_hat if form == 2 else 0.0
    expected = stats.norm.logpdf(z).sum() + stats.norm.logpdf(x_T, shift).sum()
    x_t = x_T
    for i in (3, 2, 1):
        t, s = (np.exp(np.float64(part[i])) for part in (sampler.moves.before, sampler.moves.after))
        noise = model.net(x_t, sampler.moves.time[i], x_hat, jnp.ones(1))
        y_t = x_t - shift
        clean = np.clip((y_t - np.sqrt(1 - t) * noise) / np.sqrt(t), -1, 1)
        if options.get("eta") == 0:
            implied = (y_t - np.sqrt(t) * clean) / np.sqrt(1 - t)
            x_t = shift + np.sqrt(s) * clean + np.sqrt(1 - s) * implied
            continue
        mean = np.sqrt(s) * (1 - t / s) / (1 - t) * clean
        mean = shift + mean + np.sqrt(t / s) * (1 - s) / (1 - t) * y_t
        variance = (1 - t / s) * (1 if options.get("large") else (1 - s) / (1 - t))
        x_t = trace["x_t"][3 - i]
        expected += stats.norm.logpdf(x_t, mean, np.sqrt(variance)).sum()
    t = np.exp(np.float64(sampler.moves.before[0]))
    noise = model.net(jnp.asarray(x_t, jnp.float32), sampler.moves.time[0], x_hat, jnp.ones(1))
    mean = np.clip((x_t - shift - np.sqrt(1 - t) * noise) / np.sqrt(t), -1, 1)
    np.testing.assert_allclose(trace.value, mean, atol=1e-4)
    expected += stats.norm.logpdf(x, mean, np.sqrt(1 - t)).sum()
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-4)
    assert ("x_t" in trace.choices) == (options.get("eta") != 0)


@pytest.mark.long
def test_numpyro_runs_the_same_program():
    model, sampler = small(), Sampler(linear_schedule(100), quadratic_times(100, 4))
    theirs = handlers.trace(handlers.seed(diffuse_vae_model, jax.random.key(0))).get_trace(
        model, sampler
    )
    choices = {name: theirs[name]["value"] for name in ("z", "x_T", "x_t", "x")}
    assert choices["x_t"].shape == (3, 5)
    expected = sum(
        site["fn"].log_prob(site["value"]).sum()
        for site in theirs.values()
        if site["type"] == "sample" and site["name"] in choices
    )
    ours = ppgen.log_density(diffuse_vae_model)(choices, model, sampler)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


class Unshifted(eqx.Module):
    """The network of form 1 as one of form 2, whose input is y_t + x̂."""

    net: Any

    def __call__(self, x, time, image, features):
        return self.net(x - image, time, image, features)


def as_form_2(model):
    return DiffuseVAE(model.vae, Unshifted(model.net), model.classes, form=2)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(("x64", "eta"), [(False, 0.0), (True, 0.0), (True, 1.0)])
def test_form_2_is_form_1_with_a_shift(x64, eta):
    with jax.enable_x64(x64):
        model = small()
        sampler = Sampler(linear_schedule(1000), quadratic_times(1000, 10), eta=eta)
        draw = eqx.filter_jit(ppgen.seed(ppgen.simulate(diffuse_vae_model)))
        one, two = (draw(jax.random.key(5), m, sampler) for m in (model, as_form_2(model)))
        bound = 1e-10 if x64 else 1e-5
        assert one.value.dtype == (jnp.float64 if x64 else jnp.float32)
        assert np.abs(one.value - two.value).max() < bound
        x_hat = model.vae.decoder(one["z"])
        assert np.abs(x_hat).max() > 0.1
        for site in ("x_T", "x_t") if eta else ("x_T",):
            assert np.abs(one[site] + x_hat - two[site]).max() < bound
        np.testing.assert_allclose(one.log_density, two.log_density, rtol=1e-4)
        # Without the shift of the network's input it is another model.
        other = draw(jax.random.key(5), small(form=2), sampler)
        assert np.abs(one.value - other.value).max() > 1e-3


def test_form_2_is_the_published_chain():
    """x_t = √(1 − β) x_{t−1} + (1 − √(1 − β)) x̂ + √β ε from x_1 ~ N(√ᾱ_1 x_0 + x̂, β_1)."""
    model, schedule = small(form=2), linear_schedule(30)
    sampler, x = Sampler(schedule), jnp.array([0.5, -1.0, 0.2, 0.9, -0.3])
    trace = ppgen.seed(ppgen.simulate(diffuse_vae_guide))(jax.random.key(0), model, sampler, x)
    x_hat = model.vae.decoder(trace["z"])
    states = np.concatenate([trace["x_T"][None], trace["x_t"]])[::-1]  # x_1, ..., x_T
    alphas = np.exp(np.float64(schedule))
    forwards = stats.norm.logpdf(
        states[0], np.sqrt(alphas[1]) * x + x_hat, np.sqrt(1 - alphas[1])
    ).sum()
    for i in range(1, 30):
        keep = np.sqrt(alphas[i + 1] / alphas[i])
        mean = keep * states[i - 1] + (1 - keep) * x_hat
        forwards += stats.norm.logpdf(states[i], mean, np.sqrt(1 - keep**2)).sum()
    latent = model.vae.posterior(x).log_prob(trace["z"])
    np.testing.assert_allclose(trace.log_density - latent, forwards, rtol=1e-4)


def test_what_is_abducted_replays_to_the_same_image():
    # Compiled as a whole: one by one, the steps of a chain take twice as long.
    known, again = eqx.filter_jit(abduct), eqx.filter_jit(replay)
    with jax.enable_x64(True):
        model = small(form=2, classes=3)
        sampler = Sampler(linear_schedule(100), uniform_times(100, 10))
        label = jnp.array(1)
        draw = eqx.filter_jit(ppgen.seed(partial(ppgen.simulate(diffuse_vae_model), label=label)))
        trace = draw(jax.random.key(0), model, sampler)
        noise = known(model, sampler, trace.choices, trace["x"], label=label)
        expected = stats.norm.logpdf(np.concatenate([noise[n].ravel() for n in noise])).sum()
        # The density of the states is that of the noise and the scales of the kernels.
        blind = sampler.decoder(lambda y, t: y, jnp.zeros(5))
        scales = [step_of(sampler, sampler.move(i), jnp.zeros(5), blind).std for i in range(1, 10)]
        jacobian = np.log(scales).sum() + 5 * np.log(sampler.last_scale)
        np.testing.assert_allclose(trace.log_density, expected - jacobian, rtol=1e-9)
        np.testing.assert_allclose(again(model, sampler, noise, label=label), trace["x"], atol=1e-9)
        # An image that the model did not draw is encoded as well, and translated by another label.
        x = jnp.array([0.5, -1.0, 0.2, 0.9, -0.3])
        encode = eqx.filter_jit(ppgen.seed(ppgen.simulate(diffuse_vae_guide)))
        encoded = encode(jax.random.key(1), model, sampler, x)
        noise = known(model, sampler, encoded.choices, x, label=label)
        np.testing.assert_allclose(again(model, sampler, noise, label=label), x, atol=1e-9)
        assert np.abs(again(model, sampler, noise, label=jnp.array(2)) - x).max() > 1e-3
    with pytest.raises(ScheduleError, match="no noise to abduct"):
        abduct(model, Sampler(linear_schedule(100), eta=0.0), trace.choices, x)


class Known(eqx.Module):
    """A network whose output tells what it was given."""

    def __call__(self, x, time, image, features):
        return image + 10 * features[-1] + 100 * (features[:-1] @ jnp.arange(features.size - 1))


def test_guidance_extrapolates_from_none_to_the_condition():
    model = DiffuseVAE(small(classes=3).vae, Known(), classes=3)
    x_t, x_hat = jnp.zeros(5), jnp.full(5, 0.5)
    for w in (-1.0, 0.0, 2.0):
        sampler = Sampler(linear_schedule(100), clip=None, guidance=w)
        seen = []
        for label in (None, jnp.array(2)):
            move = sampler.move(-1)
            x = reverse_chain(model, sampler, x_hat, label).clean(x_t, move.before)
            seen.append((x_t - jnp.exp(move.before / 2) * x) / jnp.sqrt(-jnp.expm1(move.before)))
        np.testing.assert_allclose(seen[0], (1 + w) * 10.5, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(seen[1], (1 + w) * 210.5, rtol=1e-4, atol=1e-3)


def test_labels_of_a_batch_reach_their_images():
    model = small(classes=3)
    sampler = Sampler(linear_schedule(100), quadratic_times(100, 3), eta=0.0)
    labels = jnp.array([0, 1, 2, 0])
    images = draw_images(jax.random.key(0), model, sampler, 4, labels=labels)
    assert images.shape == (4, 5) and np.abs(images).max() <= 1
    other = draw_images(jax.random.key(0), model, sampler, 4, labels=labels.at[1].set(0))
    np.testing.assert_array_equal(images != other, (np.arange(4) == 1)[:, None] & (images != other))
    assert (images[1] != other[1]).any()


# --- losses ---------------------------------------------------------------------------------------


def denoising_in_closed_form(model, sampler, x, dropout):
    """E‖ε − (M_t (x_t − √ᾱ MEAN) + slope x_t)‖²: quadratic in ε, for every t."""
    total, slope, x = 0.0, model.net.slope, np.asarray(x, np.float64)
    for t in np.exp(np.float64(sampler.moves.before)):
        matrix = np.sqrt(1 - t) * np.linalg.inv(t * COVARIANCE + (1 - t) * np.eye(2))
        residual = np.sqrt(t) * (matrix @ (x - MEAN) + slope * x)
        spread = np.eye(2) - np.sqrt(1 - t) * (matrix + slope * np.eye(2))
        total += jnp.sum(residual**2) + jnp.sum(spread**2)
    return total / len(sampler.moves.time)


def test_the_denoising_loss_is_unbiased():
    schedule = linear_schedule(30)
    model, sampler = gaussian(schedule, 0.5), Sampler(schedule)

    def at(f):
        return lambda slope, x: f(
            eqx.tree_at(lambda m: m.net.slope, model, slope), sampler, x, dropout=0.2
        )

    assert_unbiased(
        at(denoising_loss),
        jnp.array(0.5),
        jnp.array([0.4, -1.0]),
        exact=at(denoising_in_closed_form),
        order=2,
        samples=40_000,
    )


def test_dropout_is_of_each_image_by_itself():
    class Spy(eqx.Module):
        def __call__(self, x, time, image, features):
            return jnp.full_like(x, features[0]) * 1e3

    model = DiffuseVAE(small().vae, Spy())
    sampler = Sampler(linear_schedule(100))

    def losses(x):
        return jax.vmap(lambda x: denoising_loss(model, sampler, x, dropout=0.3))(x)

    values = jax.jit(ppgen.seed(losses))(jax.random.key(0), jnp.zeros((2000, 5)))
    kept = np.asarray(values) > 1e5
    # Per batch it would be all or none.
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / 2000)


def test_the_joint_loss_is_both_losses():
    model, sampler = small(form=2), Sampler(linear_schedule(100))
    x = jnp.array([0.5, -1.0, 0.2, 0.9, -0.3])

    def mean(f, *args):
        return eqx.filter_jit(ppgen.expectation(f, draws=4000))(jax.random.key(0), *args)

    joint = mean(partial(joint_loss, weight=3.0), model, sampler, x)
    second = mean(denoising_loss, model, sampler, x)
    np.testing.assert_allclose(joint, 3 * second - mean(autoencoder_bound, model.vae, x), rtol=0.05)
    gradient = eqx.filter_jit(
        eqx.filter_grad(
            lambda model: ppgen.expectation(joint_loss)(jax.random.key(0), model, sampler, x)
        )
    )(model)
    for part in (gradient.vae.encoder, gradient.vae.decoder, gradient.net):
        assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part))


def bound_in_closed_form(schedule, times, x, slope, large):
    """Terms of the bound for a linear network, with DDPM's coefficients; and log p(x)."""
    steps, mean, covariance = [], np.zeros(2), np.eye(2)
    pairs = list(zip(*levels(schedule, times), strict=True))
    for t, s in reversed(pairs):
        matrix = np.sqrt(1 - t) * np.linalg.inv(t * COVARIANCE + (1 - t) * np.eye(2))
        to_noise = matrix + slope * np.eye(2)
        to_clean = (np.eye(2) - np.sqrt(1 - t) * to_noise) / np.sqrt(t)
        offset = np.sqrt((1 - t) / t) * matrix @ (np.sqrt(t) * MEAN)
        # The error of the predicted image, squared, in the mean over q(x_t | x).
        error = ((to_clean @ (np.sqrt(t) * x) + offset - x) ** 2).sum()
        error += (1 - t) * (to_clean**2).sum()
        b = np.sqrt(s) * (1 - t / s) / (1 - t)
        q = (1 - s) / (1 - t) * (1 - t / s)
        p = 1 - t / s if large or s == 1 else q
        if s < 1:
            steps.append(-(b**2 * error / p + 2 * (q / p - 1 - np.log(q / p))) / 2)
        else:
            last = -error / (2 * p) - np.log(2 * np.pi * p)
        step = np.sqrt(t / s) * (1 - s) / (1 - t) * np.eye(2) + b * to_clean
        mean = step @ mean + b * offset
        covariance = step @ covariance @ step.T + p * np.eye(2)
    t = pairs[-1][0]
    start = -(t * (x**2).sum() + 2 * ((1 - t) - 1 - np.log(1 - t))) / 2
    log_p = stats.multivariate_normal(mean, covariance).logpdf(x)
    return start, np.array(steps[::-1]), last, log_p


@pytest.mark.sweep(of=2)
@pytest.mark.parametrize("large", [False, True])
def test_the_bound_and_its_terms_are_those_of_a_gaussian(large):
    schedule, times = linear_schedule(100), np.array([2, 5, 20, 40, 70])
    x, slope = np.array([0.4, -1.0]), 0.05
    start, steps, last, log_p = bound_in_closed_form(schedule, times, x, slope, large)
    model = gaussian(schedule, slope)
    sampler = Sampler(schedule, times, clip=None, large=large)
    mean, scale = model.vae.encoder(jnp.asarray(x, jnp.float32))
    latent = -((mean**2 + scale**2 - 1) / 2 - jnp.log(scale)).sum()
    keys = jax.random.split(jax.random.key(0), 20_000)
    one = partial(ppgen.seed(bound_terms), model=model, sampler=sampler, x=jnp.asarray(x))
    terms = jax.jit(jax.vmap(lambda key: one(key)))(keys)
    np.testing.assert_allclose(terms.z, latent, rtol=1e-5)
    np.testing.assert_allclose(terms.x_T, start, rtol=1e-4)

    def agrees(draws, expected):
        draws = np.float64(draws)
        error = draws.std(0) / np.sqrt(len(draws))
        assert (np.abs(draws.mean(0) - expected) < 5 * error + 1e-5).all()

    agrees(terms.x_t, steps)
    agrees(terms.x, last)
    total = start + steps.sum() + last
    assert total < log_p  # the part without z is a bound on log p(x)
    assert log_p < total + (1 if large else 10)  # few moves need the large variance
    assert_unbiased(
        lambda slope: variational_bound(
            eqx.tree_at(lambda m: m.net.slope, model, slope), sampler, jnp.asarray(x)
        ),
        jnp.array(slope),
        exact=lambda slope: jnp.asarray(total + latent),
        order=0,
        samples=40_000,
        detect=0.1,
    )
    if not large:
        return
    # The program's own bound evaluates all densities, and agrees.
    bound = ppgen.seed(elbo(diffuse_vae_model, diffuse_vae_guide))
    draws = jax.jit(jax.vmap(lambda key: bound(key, model, sampler, jnp.asarray(x))))(keys)
    agrees(draws, total + latent)


def test_a_deterministic_chain_has_a_bound_by_its_start_alone():
    model = small()
    sampler = Sampler(linear_schedule(100), uniform_times(100, 4), eta=0.0)
    x = jnp.array([0.5, -1.0, 0.2, 0.9, -0.3])
    bound = ppgen.seed(elbo(diffuse_vae_model, diffuse_vae_guide))
    assert jnp.isfinite(bound(jax.random.key(0), model, sampler, x))
    with pytest.raises(ScheduleError, match="have no density"):
        ppgen.seed(variational_bound)(jax.random.key(0), model, sampler, x)


def test_a_chain_of_one_move_has_its_bound():
    model, sampler = small(), Sampler(linear_schedule(100), np.array([60]))
    x = jnp.array([0.5, -1.0, 0.2, 0.9, -0.3])
    terms = ppgen.seed(bound_terms)(jax.random.key(0), model, sampler, x)
    assert terms.x_t.shape == (0,)
    value = ppgen.seed(variational_bound)(jax.random.key(0), model, sampler, x)
    np.testing.assert_allclose(value, terms.z + terms.x_T + terms.x, rtol=1e-5)
    trace = ppgen.seed(ppgen.simulate(diffuse_vae_model))(jax.random.key(0), model, sampler)
    assert trace["x"].shape == (5,) and trace["x_t"].shape == (0, 5)
