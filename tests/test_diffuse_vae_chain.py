"""The chain of a DiffuseVAE: schedules, steps, and the law of what it draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from diffuse_vaes import COVARIANCE, MEAN, gaussian, levels, step_of

from ppgen.inference import ancestral, decode
from ppgen.models.diffuse_vae import (
    Sampler,
    ScheduleError,
    draw_images,
    linear_schedule,
    quadratic_times,
    uniform_times,
)
from ppgen.models.diffuse_vae import chain as chain_module
from ppgen.models.diffuse_vae.chain import path_like

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
