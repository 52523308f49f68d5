"""Training in two stages, or in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ppgen.inference import Fitted, fit
from ppgen.models.diffuse_vae._autoencoder import Autoencoder, autoencoder_bound
from ppgen.models.diffuse_vae._chain import Sampler
from ppgen.models.diffuse_vae._objectives import denoising_loss, joint_loss
from ppgen.models.diffuse_vae._programs import DiffuseVAE

Images = Float[np.ndarray | Array, "n pixels"]
Labels = Int[np.ndarray | Array, " n"]


def fit_autoencoder(
    vae: Autoencoder,
    images: Images,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    steps: int,
    batch_size: int = 128,
    **options: Any,
) -> Fitted:
    """Trains the first stage on its evidence lower bound.

    Args:
        vae: Where to start.
        images: Images, on the scale [−1, 1].
        optimizer: From optax.
        key: Everything random here follows from it.
        steps: Steps to take.
        batch_size: Images in a step.
        **options: Any others of `ppgen.inference.fit`, such as a callback.

    Returns:
        The trained first stage, and the bound at each step in nats for each image.
    """

    def bound(vae: Autoencoder, batch: Array) -> Array:
        return jnp.mean(jax.vmap(autoencoder_bound, in_axes=(None, 0))(vae, batch))

    return fit(
        bound,
        vae,
        optimizer,
        key=key,
        steps=steps,
        data=images,
        batch_size=batch_size,
        maximize=True,
        **options,
    )


def fit_denoiser(
    model: DiffuseVAE,
    schedule: Float[Array, " levels"],
    images: Images,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    steps: int,
    labels: Labels | None = None,
    batch_size: int = 128,
    dropout: float = 0.0,
    **options: Any,
) -> Fitted:
    """Trains the second stage on `denoising_loss`, the first stage frozen.

    Args:
        model: A trained first stage, and where to start with the second.
        schedule: log ᾱ_0, ..., log ᾱ_T.
        images: Images, on the scale [−1, 1].
        optimizer: From optax.
        key: Everything random here follows from it.
        steps: Steps to take.
        labels: The class of each image, if the model has classes.
        batch_size: Images in a step.
        dropout: Probability of leaving out the condition; 1 trains an unconditional model.
        **options: Any others of `ppgen.inference.fit`, such as a callback.

    Returns:
        The whole model, and the loss at each step.
    """
    sampler = Sampler(schedule)

    def loss(net: Any, batch: tuple[Array, Array | None]) -> Array:
        whole = eqx.tree_at(lambda m: m.net, model, net)
        return _mean(denoising_loss, whole, sampler, batch, dropout=dropout)

    fitted = fit(
        loss,
        model.net,
        optimizer,
        key=key,
        steps=steps,
        data=(images, labels),
        batch_size=batch_size,
        **options,
    )
    return Fitted(eqx.tree_at(lambda m: m.net, model, fitted.params), fitted.history)


def fit_jointly(
    model: DiffuseVAE,
    schedule: Float[Array, " levels"],
    images: Images,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    steps: int,
    labels: Labels | None = None,
    batch_size: int = 128,
    dropout: float = 0.0,
    weight: float = 1.0,
    **options: Any,
) -> Fitted:
    """Trains both stages together on `joint_loss`.

    Args:
        model: Where to start.
        schedule: As for `fit_denoiser`.
        images: As for `fit_denoiser`.
        optimizer: From optax.
        key: Everything random here follows from it.
        steps: Steps to take.
        labels: As for `fit_denoiser`.
        batch_size: Images in a step.
        dropout: As for `fit_denoiser`.
        weight: Of the second stage.
        **options: Any others of `ppgen.inference.fit`, such as a callback.

    Returns:
        The model, and the loss at each step.
    """
    sampler = Sampler(schedule)

    def loss(model: DiffuseVAE, batch: tuple[Array, Array | None]) -> Array:
        return _mean(joint_loss, model, sampler, batch, dropout=dropout, weight=weight)

    return fit(
        loss,
        model,
        optimizer,
        key=key,
        steps=steps,
        data=(images, labels),
        batch_size=batch_size,
        **options,
    )


def _mean(
    loss: Callable[..., Array],
    model: DiffuseVAE,
    sampler: Sampler,
    batch: tuple[Array, Array | None],
    **options: float,
) -> Array:
    def per_image(image: Array, label: Array | None) -> Array:
        return loss(model, sampler, image, label, **options)

    return jnp.mean(jax.vmap(per_image, in_axes=(0, None if batch[1] is None else 0))(*batch))
