"""Two layers of Gaussian latent vectors."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ppgen.models.parts.latents._gaussian import sample, standard_normal
from ppgen.models.parts.latents._latent import AbstractLatent
from ppgen.models.parts.networks import DiagonalGaussianMLP


class HierarchicalLatent(AbstractLatent):
    """Prior z_top ~ N(0, I), z | z_top ~ N(m(z_top), diag s(z_top)²); the decoder reads z.

    The posterior draws in the same order. Its density of z | z_top is proportional to the prior's
    times a Gaussian from the encoder, which is exact if p(x | z) is Gaussian as a function of z.

    References:
        Sønderby, Raiko, Maaløe, Sønderby, Winther. Ladder variational autoencoders. NeurIPS 2016.
    """

    downward: DiagonalGaussianMLP
    top: int = eqx.field(static=True)
    statistics: int = eqx.field(static=True)
    code: int = eqx.field(static=True)

    def __init__(
        self,
        dimensions: int,
        hidden: int = 128,
        *,
        depth: int = 1,
        top: int | None = None,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with a fresh network.

        Args:
            dimensions: The dimensions of z.
            hidden: Width of the network from z_top to z.
            depth: Its hidden layers.
            top: Dimensions of z_top; half of those of z if None.
            key: Draws the weights.
        """
        self.top = max(dimensions // 2, 1) if top is None else top
        self.statistics, self.code = 2 * (dimensions + self.top), dimensions
        self.downward = DiagonalGaussianMLP(self.top, dimensions, hidden, depth, key=key)

    def prior(self) -> Float[Array, " code"]:
        """Draws z_top, and then z."""
        mean, scale = self.downward(standard_normal("z_top", self.top))
        return sample("z", dist.Normal(mean, scale).to_event(1))

    def posterior(self, h: Float[Array, " statistics"]) -> Float[Array, " code"]:
        """Draws z_top, and then z from the product of two Gaussians."""
        n = self.code
        seen, log_variance, top, top_log_variance = jnp.split(h, [n, 2 * n, 2 * n + self.top])
        z_top = sample("z_top", dist.Normal(top, jnp.exp(0.5 * top_log_variance)).to_event(1))
        mean, scale = self.downward(z_top)
        prior_precision, precision = scale**-2, jnp.exp(-log_variance)
        total = prior_precision + precision
        mean = (prior_precision * mean + precision * seen) / total
        return sample("z", dist.Normal(mean, total**-0.5).to_event(1))
