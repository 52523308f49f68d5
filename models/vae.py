"""The variational autoencoder, for one image.

Model: z ~ N(0, I), x ~ likelihood(decoder(z)). Guide: z ~ N(mean(x), diag scale(x)²).

Model and guide are programs over *one* image. A batch is `jax.vmap` of the objective, so that a
bound with several particles is a bound on every image, not on the batch.

References:
    Kingma, Welling. Auto-encoding variational Bayes. ICLR 2014.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key, Num

import ppgen
from ppgen.models.likelihoods import LIKELIHOODS, AbstractLikelihood
from ppgen.models.networks import DiagonalGaussianMLP, PixelMLP


class VAE(eqx.Module):
    """The networks and the likelihood of a variational autoencoder."""

    encoder: DiagonalGaussianMLP
    decoder: PixelMLP
    likelihood: AbstractLikelihood
    latent: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        pixels: int,
        levels: int,
        likelihood: str = "logistic",
        latent: int = 16,
        hidden: int = 128,
        depth: int = 1,
        key: Key[Array, ""],
    ) -> None:
        """Makes a VAE with fresh weights.

        Args:
            pixels: Pixels of an image.
            levels: Grey levels of a pixel.
            likelihood: A name in `ppgen.models.likelihoods.LIKELIHOODS`.
            latent: Dimensions of z.
            hidden: Width of both networks.
            depth: Hidden layers of both networks.
            key: Draws the weights.
        """
        encoder_key, decoder_key = jax.random.split(key)
        self.likelihood = LIKELIHOODS[likelihood](levels)
        self.encoder = DiagonalGaussianMLP(pixels, latent, hidden, depth, key=encoder_key)
        self.decoder = PixelMLP(
            latent, pixels, self.likelihood.channels, hidden, depth, key=decoder_key
        )
        self.latent = latent


def vae_model(vae: VAE, x: Num[Array, " pixels"] | None = None) -> Float[Array, " pixels"]:
    """The generative program: p(z) p(x | z).

    Args:
        vae: The parameters.
        x: What `observed` gives for an image, or None to draw one.

    Returns:
        The mean of x given z, for pictures.
    """
    z = numpyro.sample("z", dist.Normal(0, 1).expand([vae.latent]).to_event(1))
    outputs = vae.decoder(z)  # pyright: ignore[reportArgumentType]
    numpyro.sample("x", vae.likelihood(outputs), obs=x)
    return vae.likelihood.mean(outputs)


def vae_guide(vae: VAE, x: Num[Array, " pixels"]) -> None:
    """The variational program: q(z | x)."""
    mean, scale = vae.encoder(2 * x / (vae.likelihood.values - 1) - 1)
    numpyro.sample("z", dist.Normal(mean, scale).to_event(1))


def observed(vae: VAE, image: Float[Array, " pixels"]) -> Num[Array, " pixels"]:
    """What the likelihood scores in place of the grey levels of an image.

    For a continuous likelihood this draws the dequantisation noise, so it belongs inside the
    objective, where the expectation over the noise is taken along with all others.
    """
    x = vae.likelihood.discretize(image)
    if vae.likelihood.continuous:
        x = x + ppgen.draw(dist.Uniform(0, 1).expand(x.shape).to_event(1), name="noise")
    return x


def reconstruct(vae: VAE, x: Num[Array, " pixels"]) -> Float[Array, " pixels"]:
    """Draws z from the guide and gives the mean of x under the model. Draws, so needs a seed."""
    trace = ppgen.simulate(vae_guide)(vae, x)
    return vae.likelihood.mean(vae.decoder(trace["z"]))


def image_objective(
    bound: Callable[[VAE, Num[Array, " pixels"]], Float[Array, ""]],
) -> Callable[[VAE, Float[Array, " pixels"]], Float[Array, ""]]:
    """Makes a bound on what is scored, such as `elbo(vae_model, vae_guide)`, one on an image.

    Returns:
        A function of a VAE and an image of grey levels, for `ppgen.expectation`.
    """
    return lambda vae, image: bound(vae, observed(vae, image))


def batch_objective(
    bound: Callable[[VAE, Num[Array, " pixels"]], Float[Array, ""]],
) -> Callable[[VAE, Float[Array, "batch pixels"]], Float[Array, ""]]:
    """The mean of `image_objective(bound)` over a batch, for `ppgen.inference.fit`."""
    per_image = jax.vmap(image_objective(bound), in_axes=(None, 0))
    return lambda vae, images: jnp.mean(per_image(vae, images))
