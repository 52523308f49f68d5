"""The interface of latent representations."""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float


class AbstractLatent(eqx.Module):
    """A latent representation: two programs over the same sites, for *one* image.

    To add one, define the number of statistics from the encoder and of values for the decoder,
    write both programs, and add the class to `LATENTS` if it can be made from a name alone.

    Attributes:
        statistics: Numbers that the encoder gives for an image.
        code: Numbers that the decoder reads.
    """

    statistics: eqx.AbstractVar[int]
    code: eqx.AbstractVar[int]

    @abstractmethod
    def prior(self) -> Float[Array, " code"]:
        """A program that draws the latent sites, and returns the input of the decoder."""

    @abstractmethod
    def posterior(self, h: Float[Array, " statistics"]) -> Float[Array, " code"]:
        """A program that draws the same sites, given the encoder's statistics of an image.

        Args:
            h: The statistics, in any precision.

        Returns:
            The input of the decoder, as for `prior`.
        """
