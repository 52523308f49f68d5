"""A prior that is fitted after the autoencoder: ex-post density estimation (Ex-PDE)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ppgen.models.diffuse_vae.autoencoder import Autoencoder


def fit_mixture_prior(
    vae: Autoencoder,
    images: Float[Array | np.ndarray, "n pixels"],
    *,
    key: Key[Array, ""],
    components: int = 20,
    draws: int = 10,
    regularization: float = 1e-2,
) -> dist.Distribution:
    """Fits a mixture of Gaussians to the aggregate posterior, the mean of q(z | x) over images.

    In training, the decoder and a chain conditioned on its output see draws of the aggregate
    posterior. N(0, I) is another distribution, and its draws where the aggregate posterior has no
    mass give bad images. *Heuristic*: the mixture is fitted by expectation maximisation to draws of
    q(z | x); no bound contains it. With one draw for each image the mixture overfits the draws: on
    digits, latent vectors of other images were less likely under such a mixture than under N(0, I).

    Args:
        vae: The trained first stage.
        images: Images, on the scale of the data.
        key: Draws z, and starts expectation maximisation.
        components: Gaussians in the mixture, with full covariances.
        draws: Draws of z for each image.
        regularization: Added to the variances, which are of order 1.

    Returns:
        A distribution of z, for the `prior` of a program.

    References:
        Ghosh, Sajjadi, Vergari, Black, Schölkopf. From variational to deterministic autoencoders.
        ICLR 2020.
        Pandey, Mukherjee, Rai, Kumar. DiffuseVAE. TMLR 2022, section 4.3.
    """
    from sklearn.mixture import GaussianMixture

    draw_key, start_key = jax.random.split(key)
    keys = jax.random.split(draw_key, len(images))

    def draw(key: Key[Array, ""], image: Array) -> Any:
        return vae.posterior(image).sample(key, (draws,))

    z = jnp.concatenate(jax.vmap(draw)(keys, jnp.asarray(images)))
    seed = int(jax.random.randint(start_key, (), 0, np.iinfo(np.int32).max))
    mixture: Any = GaussianMixture(components, reg_covar=regularization, random_state=seed)
    mixture.fit(np.asarray(z, np.float64))
    dtype = z.dtype
    return dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.asarray(mixture.weights_, dtype)),
        dist.MultivariateNormal(
            jnp.asarray(mixture.means_, dtype),
            scale_tril=jnp.asarray(np.linalg.cholesky(mixture.covariances_), dtype),
        ),
    )


def aggregate_posterior(
    vae: Autoencoder, images: Float[Array | np.ndarray, "n pixels"]
) -> dist.Distribution:
    """The mean of q(z | x) over images itself, the target of `fit_mixture_prior`.

    Args:
        vae: The trained first stage.
        images: Images, on the scale of the data.

    Returns:
        A distribution of z, for the `prior` of a program.
    """
    mean, scale = jax.vmap(vae.encoder)(jnp.asarray(images))
    even = dist.Categorical(probs=jnp.full(len(images), 1 / len(images)))
    return dist.MixtureSameFamily(even, dist.Normal(mean, scale).to_event(1))
