"""The normal law of a random field at any points: a low-rank covariance plus white noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpyro.distributions as dist
from jaxtyping import Array, Float


class Moments(NamedTuple):
    """The law N(mean, diag(scale²) + factor factorᵀ) of fields at some points.

    Attributes:
        mean: The mean of each field.
        scale: Standard deviation of the independent noise of each field at each point.
        factor: Coefficients of the `rank` noises that all points share.
    """

    mean: Float[Array, "... fields"]
    scale: Float[Array, "... fields"]
    factor: Float[Array, "... fields rank"]

    def at(
        self, common: Float[Array, " rank"], white: Float[Array, "... fields"]
    ) -> Float[Array, "... fields"]:
        """The fields for given standard normal noises."""
        return self.mean + self.factor @ common + self.scale * white

    def joint(self, noise: float = 0.0) -> dist.Distribution:
        """The law of all fields at all points, flattened, when observed with some more noise.

        Args:
            noise: Standard deviation of the noise of the observation.

        Returns:
            A law whose density takes time linear in the number of points. The fields are
            integrated out in closed form, by Woodbury's identity.
        """
        return dist.LowRankMultivariateNormal(
            self.mean.ravel(),
            self.factor.reshape(self.mean.size, -1),
            self.scale.ravel() ** 2 + noise**2,
        )

    def variance(self) -> Float[Array, "... fields"]:
        """The variance of each field at each point."""
        return self.scale**2 + (self.factor**2).sum(-1)


RandomField = Callable[[Float[Array, " d"]], Moments]
"""The moments at a point, as a function of it."""
