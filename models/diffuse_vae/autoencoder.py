"""The first stage: a variational autoencoder with Gaussian pixels of one fixed variance.

Model: z ~ N(0, I), x ~ N(Dec(z), s² I). Guide: z ~ N(mean(x), diag scale(x)²). With s² = ½, the
published loss Σ (x − Dec(z))² + KL. One image, on the scale [−1, 1]; `jax.vmap` is a batch.
"""

from __future__ import annotations

import equinox as eqx
import jax
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ppgen.inference import elbo
from ppgen.models.parts.networks import DiagonalGaussianMLP


class Autoencoder(eqx.Module):
    """The networks of a variational autoencoder with a latent vector and Gaussian pixels."""

    encoder: DiagonalGaussianMLP
    decoder: eqx.nn.MLP
    latent: int = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        pixels: int,
        latent: int = 8,
        hidden: int = 128,
        depth: int = 1,
        scale: float = 0.5**0.5,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            pixels: Pixels of an image.
            latent: Dimensions of z.
            hidden: Width of both networks.
            depth: Hidden layers of both networks.
            scale: Standard deviation s of a pixel, given z. Images of few pixels need a smaller
                one: else the divergence outweighs them, and latent dimensions go unused.
            key: Draws the weights.
        """
        keys = jax.random.split(key)
        self.encoder = DiagonalGaussianMLP(pixels, latent, hidden, depth, key=keys[0])
        self.decoder = eqx.nn.MLP(latent, pixels, hidden, depth, jax.nn.gelu, key=keys[1])
        self.latent, self.scale = latent, scale

    @property
    def prior(self) -> dist.Distribution:
        """N(0, I)."""
        return dist.Normal(0, 1).expand([self.latent]).to_event(1)

    def posterior(self, x: Float[Array, " pixels"]) -> dist.Distribution:
        """The distribution q(z | x)."""
        mean, scale = self.encoder(x)
        return dist.Normal(mean, scale).to_event(1)


def autoencoder_model(
    vae: Autoencoder,
    x: Float[Array, " pixels"] | None = None,
    *,
    prior: dist.Distribution | None = None,
) -> Float[Array, " pixels"]:
    """The generative program of the first stage.

    Args:
        vae: The parameters.
        x: An observed image, or None to draw one.
        prior: A prior in place of N(0, I), such as that of `fit_mixture_prior`.

    Returns:
        Dec(z), the mean of x given z.
    """
    x_hat = decoded(vae, prior)
    numpyro.sample("x", dist.Normal(x_hat, vae.scale).to_event(1), obs=x)
    return x_hat


def autoencoder_guide(vae: Autoencoder, x: Float[Array, " pixels"]) -> None:
    """The variational program of the first stage: q(z | x)."""
    numpyro.sample("z", vae.posterior(x))


def decoded(vae: Autoencoder, prior: dist.Distribution | None = None) -> Float[Array, " pixels"]:
    """The part of a generative program that draws z and decodes it."""
    z = numpyro.sample("z", vae.prior if prior is None else prior)
    return vae.decoder(z)  # pyright: ignore[reportArgumentType]


def autoencoder_bound(vae: Autoencoder, x: Float[Array, " pixels"]) -> Float[Array, ""]:
    """The evidence lower bound of the first stage, for one image: *a bound*, in nats.

    Less a constant it is −Σ (x − Dec(z))² / 2s² − KL(q(z | x) ‖ p(z)), the divergence in closed
    form.
    """
    return elbo(autoencoder_model, autoencoder_guide, analytic_kl=True)(vae, x)
