"""A latent direction."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppgen.models.parts.distributions import VonMisesFisher
from ppgen.models.parts.latents._gaussian import sample
from ppgen.models.parts.latents._latent import AbstractLatent


class SphericalLatent(AbstractLatent):
    """Prior z uniform on the unit sphere of R^m, posterior von Mises-Fisher.

    The decoder reads √m z, whose coordinates have unit variance under the prior.

    References:
        Davidson, Falorsi, De Cao, Kipf, Tomczak. Hyperspherical variational auto-encoders. UAI
        2018 (whose gradient corrects for the rejection instead).
    """

    statistics: int = eqx.field(static=True)
    code: int = eqx.field(static=True)

    def __init__(self, dimensions: int) -> None:
        """Makes one.

        Args:
            dimensions: m, at least two: a sphere of m - 1 dimensions.

        Raises:
            ValueError: The sphere would consist of two points.
        """
        if dimensions < 2:
            raise ValueError(f"a sphere needs at least two coordinates, not {dimensions}")
        self.statistics, self.code = dimensions + 1, dimensions

    def prior(self) -> Float[Array, " code"]:
        """Draws z from the uniform distribution."""
        return self._scaled(VonMisesFisher(jnp.eye(self.code)[0], 0.0))

    def posterior(self, h: Float[Array, " statistics"]) -> Float[Array, " code"]:
        """Draws z around a direction, with a concentration in units of m."""
        h = h.astype(float)
        direction = h[:-1] / jnp.linalg.norm(h[:-1])
        return self._scaled(VonMisesFisher(direction, self.code * jax.nn.softplus(h[-1])))

    def _scaled(self, d: VonMisesFisher) -> Array:
        return math.sqrt(self.code) * sample("z", d)
