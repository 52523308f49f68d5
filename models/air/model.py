"""Attend, infer, repeat: a scene is a few things, and inference looks at one after the other.

Model: while z_pres_t, something is painted, at z_where_t and with the looks decoder(z_what_t), both
normal a priori; the image is the canvas plus noise. Guide: look at what is not explained yet; is
there something (z_pres_t), where (z_where_t), what (z_what_t)? Take it away and look again.

Model and guide are programs over *one* image, `jax.vmap` of an objective is a batch. How often they
look is random: what follows a "no" has no density and leaves no trace on the canvas.

References:
    Eslami, Heess, Weber, Tassa, Szepesvari, Kavukcuoglu, Hinton. Attend, infer, repeat: fast scene
    understanding with generative models. NeurIPS 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, Key

import ppgen
from ppgen.models.parts.networks import DiagonalGaussianMLP, attend, paint

NEVER = -100.0
"""The logit of an impossible event: probability zero in single precision, but finite."""

PRESENT = (0.05, 0.05**2.3, 0.05**5)
"""The published prior of z_pres_t, given that there was something before: it must be worth it."""

PLACE_MEAN = (3.0, 0.0, 0.0)
"""The mean of the published prior of z_where: a third of the canvas, in its middle."""

PLACE_SCALE = (0.2, 1.0, 1.0)
"""The standard deviation of that prior: about this size, anywhere."""


class AIR(eqx.Module):
    """The networks of attend, infer, repeat, and its constants."""

    finder: eqx.nn.MLP
    encoder: DiagonalGaussianMLP
    decoder: eqx.nn.MLP
    canvas: int = eqx.field(static=True)
    side: int = eqx.field(static=True)
    what: int = eqx.field(static=True)
    present: tuple[float, ...] = eqx.field(static=True)
    noise: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        canvas: int = 24,
        side: int = 8,
        what: int = 10,
        hidden: int = 128,
        present: Sequence[float] = PRESENT,
        noise: float = 0.3,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            canvas: Height and width of an image.
            side: Height and width of a glimpse.
            what: Dimensions of z_what.
            hidden: Width of the networks.
            present: The prior probability that a look finds something, given that the previous one
                did.
            noise: Standard deviation of a pixel around the canvas.
            key: Draws the weights.
        """
        keys = jax.random.split(key, 3)
        finder = eqx.nn.MLP(canvas**2, 7, hidden, 2, jax.nn.gelu, key=keys[0])
        # It begins with a narrow guess at the middle, and with "probably there is something".
        self.finder = eqx.tree_at(
            lambda net: net.layers[-1].bias, finder, jnp.array([1.0, 0, 0, 0, -2, -1, -1])
        )
        self.encoder = DiagonalGaussianMLP(side**2, what, hidden, 1, key=keys[1])
        decoder = eqx.nn.MLP(what, side**2, hidden, 1, jax.nn.gelu, key=keys[2])
        # It begins with an almost empty glimpse, so that a misplaced one costs little.
        self.decoder = eqx.tree_at(lambda net: net.layers[-1].bias, decoder, replace_fn=_empty)
        self.canvas, self.side, self.what = canvas, side, what
        self.present, self.noise = tuple(present), noise

    def find(
        self, image: Float[Array, "canvas canvas"]
    ) -> tuple[Float[Array, ""], Float[Array, "3"], Float[Array, "3"]]:
        """The logit of there being something, and mean and scale of its place."""
        logit, mean, log_scale = jnp.split(self.finder(image.ravel()), [1, 4])
        scale = jnp.asarray(PLACE_SCALE)
        return logit[0], jnp.asarray(PLACE_MEAN) + scale * mean, scale * jnp.exp(log_scale)

    def painted(
        self, z_what: Float[Array, " what"], z_where: Float[Array, "3"]
    ) -> Float[Array, "canvas canvas"]:
        """One thing, on an empty canvas."""
        glimpse = jax.nn.sigmoid(self.decoder(z_what)).reshape(self.side, self.side)
        return paint(glimpse, z_where, self.canvas)


def _empty(bias: Array) -> Array:
    return bias - 2.0


def air_model(
    air: AIR, image: Float[Array, "canvas canvas"] | None = None
) -> Float[Array, "canvas canvas"]:
    """The generative program.

    Args:
        air: The parameters.
        image: What was seen, or None to draw an image.

    Returns:
        The canvas: the image without noise.
    """
    canvas = jnp.zeros((air.canvas, air.canvas))
    present: Any = 1
    for t, probability in enumerate(air.present):
        present = numpyro.sample(
            f"z_pres_{t}", _flip(present, jax.scipy.special.logit(probability))
        )
        z_where: Any = numpyro.sample(
            f"z_where_{t}", _normal(jnp.array(PLACE_MEAN), jnp.array(PLACE_SCALE), present)
        )
        z_what: Any = numpyro.sample(
            f"z_what_{t}", _normal(jnp.zeros(air.what), jnp.ones(air.what), present)
        )
        canvas = canvas + present * air.painted(z_what, z_where)
    numpyro.sample("image", dist.Normal(canvas, air.noise).to_event(2), obs=image)
    return canvas


def air_guide(
    air: AIR, image: Float[Array, "canvas canvas"], *, conditional: bool = False
) -> Int[Array, ""]:
    """The variational program.

    Args:
        air: The parameters.
        image: The observed image.
        conditional: Whether to remove only what is present from the image. The distribution is the
            same, because sites after a "no" have no density, but it is more expensive: the looks
            have to be repeated for each value of the previous `z_pres` that an estimator evaluates.

    Returns:
        How many things it found.
    """
    unexplained = image
    present: Any = 1
    count = jnp.zeros((), int)
    for t in range(len(air.present)):
        logit, mean, scale = air.find(unexplained)
        present = numpyro.sample(f"z_pres_{t}", _flip(present, logit))
        z_where: Any = numpyro.sample(f"z_where_{t}", _normal(mean, scale, present))
        glimpse = attend(unexplained, z_where, air.side)
        look = _normal(*air.encoder(glimpse.ravel()), present)
        z_what: Any = numpyro.sample(f"z_what_{t}", look)
        # Taken away whether present or not: the next look matters only if this one found something.
        # So no network depends on z_pres, and to enumerate it repeats the likelihood alone.
        taken = air.painted(z_what, z_where)
        unexplained = unexplained - (present * taken if conditional else taken)
        count = count + present
    return count


def reconstruct(air: AIR, image: Float[Array, "canvas canvas"]) -> Float[Array, "canvas canvas"]:
    """The things that the guide finds in an image, painted on a canvas.

    Args:
        air: The parameters.
        image: What was seen.
    """
    found: Any = ppgen.simulate(air_guide)(air, image).choices
    again: Any = numpyro.handlers.condition(air_model, found)
    return again(air)


def _flip(before: Array | int, logit: Array) -> dist.Distribution:
    """A flip that is zero after a zero."""
    return dist.Bernoulli(logits=jnp.where(before == 1, logit, NEVER))


def _normal(mean: Array, scale: Array, present: Array | int) -> dist.Distribution:
    """The place or look of a thing, without a density if there is none."""
    return dist.Normal(mean, scale).to_event(1).mask(present == 1)
