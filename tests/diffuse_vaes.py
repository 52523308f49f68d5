"""DiffuseVAEs for tests: one with the exact noise of Gaussian data, and small ones."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppgen.models.diffuse_vae import (
    Autoencoder,
    DiffuseVAE,
)
from ppgen.models.parts.networks import DenoisingMLP

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
