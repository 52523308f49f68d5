"""The variational autoencoder, for one image.

Model: z ~ prior, x ~ likelihood(decoder(z)). Guide: z ~ posterior(encoder(x)). z is a Gaussian
vector or any other latent representation (`ppgen.models.parts.latents`). With labelled images,
decoder and encoder are given the label: p(z) p(x | z, label), q(z | x, label).

Model and guide are programs over *one* image. A batch is `jax.vmap` of the objective, so that a
bound with several particles is a bound on every image, not on the batch.

References:
    Kingma, Welling. Auto-encoding variational Bayes. ICLR 2014.
    Sohn, Lee, Yan. Learning structured output representation using deep conditional generative
    models. NeurIPS 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, Key, Num

import ppgen
from ppgen.models.parts.data import Labelled, datum_and_label, with_label
from ppgen.models.parts.latents import LATENTS, AbstractLatent
from ppgen.models.parts.likelihoods import LIKELIHOODS, AbstractLikelihood
from ppgen.models.parts.networks import (
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    PixelMLP,
    VectorMLP,
)


class VAE(eqx.Module):
    """The networks, the latent representation and the likelihood of a variational autoencoder."""

    encoder: VectorMLP | ConvolutionalEncoder
    decoder: PixelMLP | ConvolutionalDecoder
    latent: AbstractLatent
    likelihood: AbstractLikelihood
    classes: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        pixels: int,
        levels: int,
        likelihood: str = "logistic",
        latent: AbstractLatent | str = "gaussian",
        dimensions: int = 16,
        network: Literal["mlp", "conv"] = "mlp",
        shape: tuple[int, int] | None = None,
        hidden: int = 128,
        depth: int = 1,
        classes: int = 0,
        key: Key[Array, ""],
    ) -> None:
        """Makes a VAE with fresh weights.

        Args:
            pixels: Pixels of an image.
            levels: Grey levels of a pixel.
            likelihood: A name in `ppgen.models.parts.likelihoods.LIKELIHOODS`.
            latent: A latent representation, or a name in `ppgen.models.parts.latents.LATENTS`.
            dimensions: Dimensions of the latent representation, if it is given by name.
            network: Perceptrons, or convolutions of `hidden // 8` channels at half of the
                resolution, twice as many at a quarter.
            shape: Height and width of an image, for convolutions: multiples of four.
            hidden: Width of the networks.
            depth: Hidden layers of the perceptrons.
            classes: Number of labels, of which encoder and decoder are told one; 0 for none.
            key: Draws the weights.

        Raises:
            ValueError: Convolutions without a shape, or with one that does not fit.
        """
        encoder_key, decoder_key = jax.random.split(key)
        if isinstance(latent, str):
            latent = LATENTS[latent](dimensions, hidden, jax.random.fold_in(key, 2))
        self.latent = latent
        self.likelihood, self.classes = LIKELIHOODS[likelihood](levels), classes
        outputs, numbers = latent.statistics, self.likelihood.channels
        code = latent.code + classes
        if network == "mlp":
            self.encoder = VectorMLP(pixels + classes, outputs, hidden, depth, key=encoder_key)
            self.decoder = PixelMLP(code, pixels, numbers, hidden, depth, key=decoder_key)
            return
        if shape is None or shape[0] * shape[1] != pixels:
            raise ValueError(f"convolutions need the shape of {pixels} pixels, not {shape}")
        channels = max(hidden // 8, 1)
        self.encoder = ConvolutionalEncoder(
            shape, outputs, channels=channels, extra=classes, key=encoder_key
        )
        self.decoder = ConvolutionalDecoder(
            code, shape, numbers, channels=channels, key=decoder_key
        )


def vae_model(
    vae: VAE, x: Num[Array, " pixels"] | None = None, label: Int[Array, ""] | int | None = None
) -> Float[Array, " pixels"]:
    """The generative program: p(z) p(x | z).

    Args:
        vae: The parameters.
        x: The result of `observed` for an image, or None to draw one.
        label: The label of the image, for a model of labelled images.

    Returns:
        The mean of x given z, for pictures.
    """
    outputs = vae.decoder(with_label(vae.latent.prior(), label, vae.classes))
    numpyro.sample("x", vae.likelihood(outputs), obs=x)
    return vae.likelihood.mean(outputs)


def vae_guide(
    vae: VAE, x: Num[Array, " pixels"], label: Int[Array, ""] | int | None = None
) -> Float[Array, " code"]:
    """The variational program: q(z | x). Returns the input of the decoder."""
    centred = 2 * x / (vae.likelihood.values - 1) - 1
    return vae.latent.posterior(vae.encoder(with_label(centred, label, vae.classes)))


def observed(vae: VAE, image: Float[Array, " pixels"]) -> Num[Array, " pixels"]:
    """The values that the likelihood scores for the grey levels of an image.

    For a continuous likelihood this draws the dequantisation noise, so it belongs inside the
    objective, where the expectation over the noise is taken along with all others.
    """
    x = vae.likelihood.discretize(image)
    if vae.likelihood.continuous:
        x = x + ppgen.draw(dist.Uniform(0, 1).expand(x.shape).to_event(1), name="noise")
    return x


def reconstruct(
    vae: VAE, x: Num[Array, " pixels"], label: Int[Array, ""] | int | None = None
) -> Float[Array, " pixels"]:
    """Draws z from the guide and gives the mean of x under the model. Draws, so needs a seed."""
    z = vae_guide(vae, x, label)
    return vae.likelihood.mean(vae.decoder(with_label(z, label, vae.classes)))


def image_objective(
    bound: Callable[..., Float[Array, ""]],
) -> Callable[[VAE, Float[Array, " pixels"] | Labelled], Float[Array, ""]]:
    """Turns a bound on scored values, such as `elbo(vae_model, vae_guide)`, into one on an image.

    Returns:
        A function of a VAE and an image of grey levels, or a labelled one, for
        `ppgen.expectation`: then it bounds the log probability of the image given its label.
    """

    def objective(vae: VAE, datum: Float[Array, " pixels"] | Labelled) -> Float[Array, ""]:
        image, label = datum_and_label(datum)
        return bound(vae, observed(vae, image), label)

    return objective


def batch_objective(
    bound: Callable[..., Float[Array, ""]],
) -> Callable[[VAE, Float[Array, "batch pixels"] | Labelled], Float[Array, ""]]:
    """The mean of `image_objective(bound)` over a batch, for `ppgen.inference.fit`."""
    per_image = jax.vmap(image_objective(bound), in_axes=(None, 0))
    return lambda vae, images: jnp.mean(per_image(vae, images))
