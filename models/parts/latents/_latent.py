"""What every latent representation is."""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float


class AbstractLatent(eqx.Module):
    """What an image is decoded from: two programs over the same sites, for *one* image.

    To add one: say how many numbers the encoder has to give and the decoder reads, write both
    programs, and put the class into `LATENTS` if a name is all that it takes.

    Attributes:
        statistics: Numbers that the encoder gives for an image.
        code: Numbers that the decoder reads.
    """

    statistics: eqx.AbstractVar[int]
    code: eqx.AbstractVar[int]

    @abstractmethod
    def prior(self) -> Float[Array, " code"]:
        """A program that draws the latent sites, and returns what the decoder reads of them."""

    @abstractmethod
    def posterior(self, h: Float[Array, " statistics"]) -> Float[Array, " code"]:
        """A program that draws the same sites, given what the encoder says of an image.

        Args:
            h: The statistics, in any precision.

        Returns:
            What the decoder reads, as `prior` does.
        """
