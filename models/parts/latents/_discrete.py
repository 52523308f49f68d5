"""Latent flips and classes. The gradient estimators of their sites are chosen when fitting."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppgen.models.parts.latents._gaussian import sample
from ppgen.models.parts.latents._latent import AbstractLatent


class BinaryLatent(AbstractLatent):
    """Fair flips under the prior, independent flips under the posterior; decoded as ±1."""

    statistics: int = eqx.field(static=True)
    code: int = eqx.field(static=True)

    def __init__(self, dimensions: int) -> None:
        self.statistics = self.code = dimensions

    def prior(self) -> Float[Array, " code"]:
        """Draws fair flips."""
        return self._signs(jnp.zeros(self.code))

    def posterior(self, h: Float[Array, " statistics"]) -> Float[Array, " code"]:
        """Draws flips with logits `h`."""
        return self._signs(h)

    def _signs(self, logits: Array) -> Array:
        return 2.0 * sample("z", dist.Bernoulli(logits=logits).to_event(1)) - 1.0


class CategoricalLatent(AbstractLatent):
    """Categorical variables, uniform under the prior.

    The decoder reads them as one-hot vectors, one after the other.
    """

    statistics: int = eqx.field(static=True)
    code: int = eqx.field(static=True)
    classes: int = eqx.field(static=True)

    def __init__(self, dimensions: int, classes: int = 8) -> None:
        """Makes one.

        Args:
            dimensions: How many variables.
            classes: The number of classes of each, at least two.

        Raises:
            ValueError: There are fewer than two classes.
        """
        if classes < 2:
            raise ValueError(f"a variable needs at least two classes, not {classes}")
        self.statistics = self.code = dimensions * classes
        self.classes = classes

    def prior(self) -> Float[Array, " code"]:
        """Draws uniform classes."""
        return self._one_hot(jnp.zeros(self.code))

    def posterior(self, h: Float[Array, " statistics"]) -> Float[Array, " code"]:
        """Draws classes with logits `h`."""
        return self._one_hot(h)

    def _one_hot(self, logits: Array) -> Array:
        classes = dist.CategoricalLogits(logits.reshape(-1, self.classes)).to_event(1)
        return jax.nn.one_hot(sample("z", classes), self.classes).ravel()
