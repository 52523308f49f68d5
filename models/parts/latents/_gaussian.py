"""A Gaussian latent vector."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppgen.models.parts.latents._latent import AbstractLatent


class GaussianLatent(AbstractLatent):
    """Prior z ~ N(0, I), posterior z ~ N(mean, diag scale²): a mean and a log variance each."""

    statistics: int = eqx.field(static=True)
    code: int = eqx.field(static=True)

    def __init__(self, dimensions: int) -> None:
        self.statistics, self.code = 2 * dimensions, dimensions

    def prior(self) -> Float[Array, " code"]:
        """Draws z from N(0, I)."""
        return standard_normal("z", self.code)

    def posterior(self, h: Float[Array, " statistics"]) -> Float[Array, " code"]:
        """Draws z from N(mean, diag scale²)."""
        mean, log_variance = jnp.split(h, 2)
        return sample("z", dist.Normal(mean, jnp.exp(0.5 * log_variance)).to_event(1))


def standard_normal(name: str, dimensions: int) -> Array:
    """Draws from N(0, I)."""
    return sample(name, dist.Normal(0, 1).expand([dimensions]).to_event(1))


def sample(name: str, d: dist.Distribution) -> Array:
    """`numpyro.sample`, whose result is of any type."""
    value: Any = numpyro.sample(name, d)
    return value
