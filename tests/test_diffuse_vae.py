"""DiffuseVAE: the chain, its programs, losses and bound, against closed forms."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from scipy import stats
from scipy.linalg import sqrtm

import ppgen
from ppgen.inference import ancestral, decode, elbo
from ppgen.models.diffuse_vae import (
    Autoencoder,
    DiffuseVAE,
    Sampler,
    ScheduleError,
    abduct,
    autoencoder_bound,
    autoencoder_model,
    bound_terms,
    denoising_loss,
    diffuse_vae_guide,
    diffuse_vae_model,
    draw_images,
    fit_autoencoder,
    fit_denoiser,
    fit_jointly,
    fit_mixture_prior,
    joint_loss,
    linear_schedule,
    quadratic_times,
    refine,
    replay,
    uniform_times,
    variational_bound,
)
from ppgen.models.diffuse_vae import chain as chain_module
from ppgen.models.diffuse_vae.chain import path_like
from ppgen.models.diffuse_vae.model import reverse_chain
from ppgen.models.diffuse_vae.recipe import DiffuseVAERecipe
from ppgen.models.parts.data import load_digits
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.metrics.baselines import gaussian_denoising_error
from ppgen.models.parts.metrics.distances import frechet_distance, neighbour_accuracy
from ppgen.models.parts.networks import DenoisingMLP, DenoisingUNet, sinusoidal_features
from ppgen.models.parts.runs import fit_recipe
from ppgen.testing import assert_unbiased

MEAN = np.array([0.3, -0.5])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])


class ExactNoise(eqx.Module):
    """E[ε | x_t] for data from N(MEAN, COVARIANCE), plus `slope` times x_t, which is wrong."""

    schedule: Any
    slope: Any = 0.0

    def __call__(self, x, time, image, features):
        log = self.schedule[jnp.rint(time * (len(self.schedule) - 1)).astype(int)]
        kept, spread = jnp.exp(log), -jnp.expm1(log)
        smoothed = kept * COVARIANCE + spread * jnp.eye(2)
        noise = jnp.sqrt(spread) * jnp.linalg.solve(smoothed, x - jnp.sqrt(kept) * MEAN)
        return noise + self.slope * x


def gaussian(schedule, slope=0.0):
    vae = Autoencoder(pixels=2, latent=2, hidden=4, key=jax.random.key(0))
    return DiffuseVAE(vae, ExactNoise(schedule, slope))


class NearlyAllNoise(eqx.Module):
    """A network that has not been trained, but predicts images of the scale of the data."""

    net: Any

    def __call__(self, x, time, image, features):
        return x + 0.3 * self.net(x, time, image, features)


def small(form=1, classes=0, pixels=5):
    keys = jax.random.split(jax.random.key(0))
    vae = Autoencoder(pixels=pixels, latent=2, hidden=8, key=keys[0])
    net = DenoisingMLP(pixels, features=classes + 1, hidden=16, depth=1, key=keys[1])
    return DiffuseVAE(vae, NearlyAllNoise(net), classes, form)


def levels(schedule, times):
    """ᾱ_t and ᾱ_s of every move, in double precision."""
    alphas = np.exp(np.asarray(schedule, np.float64))[np.concatenate([[0], times])]
    return alphas[1:], alphas[:-1]


def step_of(sampler, move, x_t, decoder):
    """One step of the sampler's chain."""
    return sampler.chain(decoder, x_t).stepper(x_t, move.before, move.after)


# --- the chain ------------------------------------------------------------------------------------


def test_the_schedule_is_the_published_one():
    betas = np.linspace(1e-4, 0.02, 1000)
    log = linear_schedule(1000)
    np.testing.assert_allclose(np.exp(log), np.cumprod(np.append(1, 1 - betas)), rtol=1e-5)
    # What the logarithm is for: single precision knows the smallest noise level to seven digits.
    np.testing.assert_allclose(-np.expm1(np.asarray(log)[1]), 1e-4, rtol=1e-6)
    assert jnp.exp(linear_schedule(50)[-1]) < 1e-4
    with pytest.raises(ScheduleError, match="10 levels make β from 0.01 to 2"):
        linear_schedule(10)


def test_strides_increase_and_hold_no_duplicates():
    naive = (np.linspace(0, np.sqrt(800), 50) ** 2).astype(int)
    assert len(np.unique(naive)) < 50  # what the public code visits
    for total in (21, 100, 1000):
        for count in {1, 2, 3, 5, 10, 20, 50, total - 1, total} & set(range(1, total + 1)):
            for times in (uniform_times(total, count), quadratic_times(total, count)):
                assert len(times) == count and (np.diff(times) > 0).all()
                assert times[0] >= 1 and times[-1] <= total
    gaps = np.diff(quadratic_times(1000, 20))
    assert (np.diff(gaps) >= 0).all() and gaps[-1] > 5 * gaps[0]
    with pytest.raises(ScheduleError, match="cannot visit 11 of 10 levels"):
        quadratic_times(10, 11)
    schedule = linear_schedule(100)
    for times in ([3, 3], [5, 2], [0, 4], [50, 101], []):
        with pytest.raises(ScheduleError, match="times must increase"):
            Sampler(schedule, np.array(times, int))
    with pytest.raises(ScheduleError, match="1 if large"):
        Sampler(schedule, eta=0.0, large=True)


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("times", [(1, 400), (30, 31), (900, 1000), (1, 1000)])
def test_moves_are_the_conditionals_of_the_forward_chain(times):
    schedule = linear_schedule(1000)
    t, s = (a[1] for a in levels(schedule, times))
    move = Sampler(schedule, np.array(times)).move(1)
    x, x_t = jnp.array([0.7, -0.2]), jnp.array([-1.1, 0.4])
    # η = 1: condition the Gaussian of (x_s, x_t) on x_t.
    covariance = np.array([[1 - s, np.sqrt(t / s) * (1 - s)], [0, 1 - t]])
    gain = covariance[0, 1] / covariance[1, 1]
    mean, scale = move.posterior(x_t, x)
    np.testing.assert_allclose(mean, np.sqrt(s) * x + gain * (x_t - np.sqrt(t) * x), rtol=2e-4)
    np.testing.assert_allclose(scale**2, covariance[0, 0] - gain * covariance[0, 1], rtol=2e-4)
    # Any η leads from q(x_t | x_0) to q(x_s | x_0).
    for eta in (0.0, 0.3, 1.0):
        mean, scale = move.posterior(x_t, x, eta=eta)
        slope = jax.jacobian(lambda y, eta=eta: move.posterior(y, x, eta=eta)[0])(x_t)
        centre, spread = move.noised(x)
        at_centre, _ = move.posterior(centre, x, eta=eta)
        np.testing.assert_allclose(at_centre, np.sqrt(s) * x, rtol=1e-5)
        total = slope @ slope.T * spread**2 + scale**2 * np.eye(2)
        np.testing.assert_allclose(total, (1 - s) * np.eye(2), rtol=2e-4, atol=1e-9)


def test_a_clipped_prediction_changes_the_noise_that_is_moved_along():
    """The state of a deterministic chain is √ᾱ x_0 + √(1 − ᾱ) ε for one pair of x_0 and ε."""
    schedule = linear_schedule(1000)
    sampler = Sampler(schedule, np.array([300, 700]), eta=0.0)
    move = sampler.move(1)
    x_t, noise = jnp.array([2.0, -0.3]), jnp.array([-0.5, -0.35])
    t, s = (a[1] for a in levels(schedule, [300, 700]))
    plain = (x_t - np.sqrt(1 - t) * noise) / np.sqrt(t)
    assert abs(plain[0]) > 1 > abs(plain[1])
    decoder = sampler.decoder(lambda x_t, t: noise, x_t)
    x = decoder(x_t, move.before).x1
    assert x[0] == 1
    np.testing.assert_allclose(x[1], plain[1], rtol=1e-5)
    right = step_of(sampler, move, x_t, decoder).mean
    implied = (x_t - np.sqrt(t) * x) / np.sqrt(1 - t)
    np.testing.assert_allclose(right, np.sqrt(s) * x + np.sqrt(1 - s) * implied, rtol=1e-5)
    wrong = np.sqrt(s) * x + np.sqrt(1 - s) * noise  # the network's ε, of the x_0 not clipped
    np.testing.assert_allclose(wrong[1], right[1], rtol=1e-5)
    assert abs(wrong[0] - right[0]) > 0.5


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_moves_are_steps_of_the_ancestral_chain_of_a_path(eta):
    """The path is known by its program alone, and its time is whatever one likes."""
    schedule = linear_schedule(1000)
    sampler = Sampler(schedule, np.array([200, 600]), eta=eta, clip=None)

    def bridge():
        level = -numpyro.sample("t", dist.Uniform(-1000.0, 0.0))
        x1 = numpyro.sample("x1", dist.Normal(jnp.zeros(2), 1).to_event(1))
        x0 = numpyro.sample("x0", dist.Normal(jnp.zeros(2), 1).to_event(1))
        log = jnp.interp(level, jnp.arange(1001.0), schedule)
        return jnp.exp(log / 2) * x1 + jnp.sqrt(-jnp.expm1(log)) * x0

    def noise(x, t):
        return jnp.tanh(x + t / 1000)

    x_t, move = jnp.array([1.2, -0.4]), sampler.move(1)
    t, s = jnp.array([-600.0, -200.0])
    step = ancestral(decode(noise, bridge, given="x0"), eta)(x_t, t, s)
    ours = step_of(sampler, move, x_t, sampler.decoder(lambda x_t, _: noise(x_t, t), x_t))
    np.testing.assert_allclose(ours.mean, step.mean, rtol=1e-4)
    np.testing.assert_allclose(ours.std, step.std, rtol=1e-4)
    # By hand.
    a, b = (part[1] for part in levels(schedule, [200, 600]))
    x = (x_t - np.sqrt(1 - a) * noise(x_t, t)) / np.sqrt(a)
    std = eta * np.sqrt((1 - b) / (1 - a) * (1 - a / b))
    np.testing.assert_allclose(
        ours.mean, np.sqrt(b) * x + np.sqrt(1 - b - std**2) * noise(x_t, t), rtol=1e-4
    )
    np.testing.assert_allclose(ours.std, std, rtol=1e-4)


def test_variances_small_and_large():
    schedule, times = linear_schedule(1000), np.array([200, 600])
    t, s = (a[1] for a in levels(schedule, times))
    x_t, x = jnp.ones(1), jnp.zeros(1)
    (mean, scale), (again, large) = (
        step_of(sampler, sampler.move(1), x_t, decode(lambda x_t, t: x, path_like(x), given="x1"))[
            :2
        ]
        for sampler in (Sampler(schedule, times, large=is_large) for is_large in (False, True))
    )
    assert mean == again
    np.testing.assert_allclose(large**2, 1 - t / s, rtol=1e-5)
    np.testing.assert_allclose(scale**2, (1 - s) / (1 - t) * (1 - t / s), rtol=1e-5)


# --- the law of the sampler -----------------------------------------------------------------------


def recursion(schedule, times, eta=1.0):
    """Mean and covariance of the mean of x under the exact noise: linear and Gaussian throughout.

    Written with DDPM's own coefficients for η = 1 and DDIM's for η = 0.
    """
    mean, covariance = np.zeros(2), np.eye(2)
    for t, s in reversed(list(zip(*levels(schedule, times), strict=True))):
        smoothed = t * COVARIANCE + (1 - t) * np.eye(2)
        to_noise = np.sqrt(1 - t) * np.linalg.inv(smoothed)
        to_clean = (np.eye(2) - np.sqrt(1 - t) * to_noise) / np.sqrt(t)
        offset = MEAN - to_clean @ (np.sqrt(t) * MEAN)
        if eta == 1:
            a = np.sqrt(t / s) * (1 - s) / (1 - t) * np.eye(2)
            b, variance = np.sqrt(s) * (1 - t / s) / (1 - t), (1 - s) / (1 - t) * (1 - t / s)
        else:
            a, variance = np.sqrt((1 - s) / (1 - t)) * np.eye(2), 0.0
            b = np.sqrt(s) - np.sqrt((1 - s) / (1 - t)) * np.sqrt(t)
        matrix = a + b * to_clean
        mean = matrix @ mean + b * offset
        covariance = matrix @ covariance @ matrix.T + variance * np.eye(2)
    return mean, covariance


def deviations(sampler, schedule, expected, count=20_000):
    """Standard errors between moments of draws and expected ones."""
    x = np.float64(draw_images(jax.random.key(1), gaussian(schedule), sampler, count))
    mean, covariance = expected
    centred = x - mean
    products = centred[:, :, None] * centred[:, None, :]
    return np.concatenate(
        [
            centred.mean(0) / (x.std(0) / np.sqrt(count)),
            ((products - covariance).mean(0) / (products.std(0) / np.sqrt(count))).ravel(),
        ]
    )


@pytest.mark.sweep(of=2)
@pytest.mark.parametrize("eta", [1.0, 0.0])
def test_with_the_exact_noise_the_sampler_draws_the_data(eta):
    schedule = linear_schedule(400)
    times = uniform_times(400, 100)
    expected = recursion(schedule, times, eta)
    # What discretisation leaves, and how it falls: the chain is close to the data.
    np.testing.assert_allclose(expected[0], MEAN, atol=0.01)
    coarse, fine = (
        recursion(linear_schedule(1000), uniform_times(1000, n), eta) for n in (100, 1000)
    )
    np.testing.assert_allclose(fine[1], COVARIANCE, atol=0.01)
    assert np.abs(fine[1] - COVARIANCE).max() < 0.3 * np.abs(coarse[1] - COVARIANCE).max()
    sampler = Sampler(schedule, times, eta=eta, clip=None)
    assert np.abs(deviations(sampler, schedule, expected)).max() < 5


def _too_much_noise(decoder, eta, *, large):
    def step(x_t, t, after):
        found = ancestral(decoder, eta, large=large)(x_t, t, after)
        return found._replace(std=jnp.sqrt(-jnp.expm1(t - after)))

    return step


def _wrong_coefficient(decoder, eta, *, large):
    def step(x_t, t, after):
        found, x = ancestral(decoder, eta, large=large)(x_t, t, after), decoder(x_t, t).x1
        return found._replace(mean=found.mean + 0.02 * (jnp.exp(t / 2) - jnp.exp(after / 2)) * x)

    return step


@pytest.mark.long
@pytest.mark.parametrize("planted", [_too_much_noise, _wrong_coefficient])
def test_a_planted_coefficient_breaks_the_law(planted, monkeypatch):
    monkeypatch.setattr(chain_module, "ancestral", planted)
    schedule = linear_schedule(400)
    times = uniform_times(400, 40)
    sampler = Sampler(schedule, times, clip=None)
    # An argument that differs from that of the other test, so that nothing compiled is used again.
    assert np.abs(deviations(sampler, schedule, recursion(schedule, times))).max() > 8


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


# --- networks and distances -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "net",
    [
        DenoisingMLP(64, features=4, hidden=16, key=jax.random.key(0)),
        DenoisingUNet((8, 8), features=4, channels=8, key=jax.random.key(0)),
    ],
    ids=["mlp", "unet"],
)
def test_networks_read_everything_in_the_precision_of_their_weights(net):
    # The U-Net starts at zero: move its weights, to see what they read.
    net = jax.tree.map(lambda a: a + 0.03 if eqx.is_inexact_array(a) else a, net)
    x, image = jax.random.normal(jax.random.key(1), (2, 64))
    inputs = (x, jnp.array(0.3), image, jnp.arange(4.0))
    run = eqx.filter_jit(lambda net, *inputs: net(*inputs))
    out = run(net, *inputs)
    assert out.shape == (64,) and out.dtype == jnp.float32
    for i, changed in enumerate([x[::-1], jnp.array(0.301), image[::-1], jnp.ones(4)]):
        other = run(net, *inputs[:i], changed, *inputs[i + 1 :])
        assert np.abs(other - out).max() > 1e-5
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, net)
    low = run(half, *inputs)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), out, atol=0.1 * np.abs(out).max())


def test_the_unet_halves_what_can_be_halved():
    with pytest.raises(ValueError, match="multiples of 4"):
        DenoisingUNet((10, 8), key=jax.random.key(0))
    with pytest.raises(ValueError, match="multiple of 8"):
        DenoisingUNet((8, 8), channels=12, key=jax.random.key(0))
    net = eqx.filter_eval_shape(lambda key: DenoisingUNet((28, 28), key=key), jax.random.key(0))
    flat = jax.ShapeDtypeStruct((784,), jnp.float32)
    time, features = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((), (1,)))
    assert eqx.filter_eval_shape(net, flat, time, flat, features).shape == (784,)


def test_time_features_tell_neighbouring_levels_apart():
    rows = jax.vmap(lambda t: sinusoidal_features(t, 16))(jnp.arange(1, 1001) / 1000)
    gaps = np.linalg.norm(np.diff(rows, axis=0), axis=1)
    assert rows.shape == (1000, 32) and gaps.min() > 0.5
    low = sinusoidal_features(jnp.array(0.999, jnp.bfloat16), 4)
    assert low.dtype == jnp.float32


def test_the_frechet_distance_is_the_formula_and_sees_two_moments_only():
    random = np.random.RandomState(0)
    a, b = random.normal(size=(500, 3)), random.normal(size=(400, 3)) @ random.normal(size=(3, 3))
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6)
    x = random.choice([-1.0, 1.0], size=(800, 2))
    y = random.normal(size=(800, 2))
    assert frechet_distance(x, y) < 0.02 and neighbour_accuracy(x + 0.01 * y, y) > 0.8
    with pytest.raises(ValueError, match="of one size"):
        neighbour_accuracy(a, b)


def test_the_error_of_a_gaussian_denoiser_is_that_of_its_draws():
    random = np.random.RandomState(0)
    train, images = random.normal(size=(50, 3)) @ random.normal(size=(3, 3)), np.ones((2, 3))
    logs, draws = np.log([0.9, 0.2]), 50_000
    mean, covariance = train.mean(0), np.cov(train.T)
    total, error = np.zeros(2), np.zeros(2)
    for kept in np.exp(logs):
        noise = random.normal(size=(draws, 2, 3))
        x_t = np.sqrt(kept) * images + np.sqrt(1 - kept) * noise
        matrix = np.sqrt(1 - kept) * np.linalg.inv(kept * covariance + (1 - kept) * np.eye(3))
        losses = ((noise - (x_t - np.sqrt(kept) * mean) @ matrix) ** 2).sum(-1)
        total, error = total + losses.mean(0) / 2, error + losses.var(0) / draws / 4
    found = gaussian_denoising_error(train, images, logs)
    assert (np.abs(found - total) < 5 * np.sqrt(error)).all()
    # Zeros have one for each pixel.
    assert gaussian_denoising_error(train, train, logs).mean() < 3


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
