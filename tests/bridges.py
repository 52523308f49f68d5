"""The paths of the literature, each a few lines: data where t is one."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def normal(size):
    return dist.Normal(jnp.zeros(size), 1.0).to_event(1)


def student(degrees):
    """Noise of PFGM++ with D = `degrees`: a multivariate Student-t."""
    return lambda size: dist.MultivariateStudentT(degrees, jnp.zeros(size), jnp.eye(size))


def bridge_of(alpha, sigma, data, noise=normal):
    """A path from the functions that everybody writes down."""

    def bridge():
        t = numpyro.sample("t", dist.Uniform())
        x1 = numpyro.sample("x1", data)
        x0 = numpyro.sample("x0", noise(data.event_shape[0]))
        return alpha(t) * x1 + sigma(t) * x0

    return bridge


def vp_alpha(t, low=0.1, high=20.0):
    return jnp.exp(-0.25 * (1 - t) ** 2 * (high - low) - 0.5 * (1 - t) * low)


PATHS = {
    "VP": (vp_alpha, lambda t: jnp.sqrt(1 - vp_alpha(t) ** 2)),
    "sub-VP": (vp_alpha, lambda t: 1 - vp_alpha(t) ** 2),
    "VE": (lambda t: 1.0, lambda t: 0.01 * 5000.0 ** (1 - t)),
    "EDM": (lambda t: 1.0, lambda t: ((1 - t) * 80 ** (1 / 7) + t * 0.002 ** (1 / 7)) ** 7),
    "rectified": (lambda t: t, lambda t: 1 - t),
    "trigonometric": (lambda t: jnp.sin(jnp.pi * t / 2), lambda t: jnp.cos(jnp.pi * t / 2)),
}


def rectified_chain(denoised, mixture, times, eta=1.0):
    """A sampler of a Gaussian mixture along straight lines, from its expected data; its decoder."""
    from ppgen.inference import Chain, ancestral, decode

    decoder = decode(denoised, bridge_of(*PATHS["rectified"], mixture.distribution), given="x1")
    begin = mixture.smoothed(times[0], 1 - times[0]).distribution
    return Chain(begin, ancestral(decoder, eta), times), decoder


def logit_normal(loc, scale):
    from jax.scipy.special import expit, ndtri

    from ppgen.inference import Warped

    return Warped(lambda u, m, s: expit(m + s * ndtri(u)), loc, scale)


def mode(scale):
    from ppgen.inference import Warped

    return Warped(lambda u, s: u + s * (u - jnp.sin(jnp.pi * u / 2) ** 2), scale)


def cosine():
    from ppgen.inference import Warped

    return Warped(lambda u: 1 - 1 / (1 + jnp.tan(jnp.pi * u / 2)))
