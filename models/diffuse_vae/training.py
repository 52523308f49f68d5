"""Training in two stages, or in one: objectives of a batch, and fits of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ppgen.inference import Fitted, fit, per_batch
from ppgen.models.diffuse_vae.autoencoder import Autoencoder, autoencoder_bound
from ppgen.models.diffuse_vae.chain import Sampler
from ppgen.models.diffuse_vae.model import DiffuseVAE
from ppgen.models.diffuse_vae.objectives import denoising_loss, joint_loss

Images = Float[np.ndarray | Array, "n pixels"]
Labels = Int[np.ndarray | Array, " n"]
Batch = tuple[Array, Array | None]


def autoencoder_objective(vae: Autoencoder, images: Float[Array, "batch pixels"]) -> Array:
    """The mean of `autoencoder_bound` over a batch: *a bound*, in nats for each image."""
    return per_batch(autoencoder_bound)(vae, images)


def denoising_objective(
    model: DiffuseVAE, schedule: Float[Array, " levels"], *, dropout: float = 0.0
) -> Callable[[Any, Batch], Float[Array, ""]]:
    """The mean of `denoising_loss` over a batch, the first stage frozen.

    Args:
        model: A trained first stage. Its network is replaced.
        schedule: log ᾱ_0, ..., log ᾱ_T.
        dropout: As for `denoising_loss`; 1 trains an unconditional model.

    Returns:
        A function of a network and a batch, images and their labels or None.
    """
    sampler = Sampler(schedule)

    def objective(net: Any, batch: Batch) -> Array:
        return _mean(denoising_loss, _with_net(model, net), sampler, batch, dropout=dropout)

    return objective


def joint_objective(
    schedule: Float[Array, " levels"], *, dropout: float = 0.0, weight: float = 1.0
) -> Callable[[DiffuseVAE, Batch], Float[Array, ""]]:
    """The mean of `joint_loss` over a batch.

    Args:
        schedule: log ᾱ_0, ..., log ᾱ_T.
        dropout: As for `joint_loss`.
        weight: As for `joint_loss`.

    Returns:
        A function of a model and a batch, images and their labels or None.
    """
    sampler = Sampler(schedule)

    def objective(model: DiffuseVAE, batch: Batch) -> Array:
        return _mean(joint_loss, model, sampler, batch, dropout=dropout, weight=weight)

    return objective


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
        **options: Any others of `ppgen.inference.fit`, such as `ema=` or a callback.

    Returns:
        The trained first stage, and the bound at each step in nats for each image.
    """
    return fit(
        autoencoder_objective,
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
        dropout: As for `denoising_objective`.
        **options: Any others of `ppgen.inference.fit`, such as `ema=` or a callback.

    Returns:
        The whole model, with its moving average if there is one, and the loss at each step.
    """
    fitted = fit(
        denoising_objective(model, schedule, dropout=dropout),
        model.net,
        optimizer,
        key=key,
        steps=steps,
        data=(images, labels),
        batch_size=batch_size,
        **options,
    )
    average = None if fitted.ema is None else _with_net(model, fitted.ema)
    return fitted._replace(params=_with_net(model, fitted.params), ema=average)


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
        weight: The weight of the second stage.
        **options: Any others of `ppgen.inference.fit`, such as `ema=` or a callback.

    Returns:
        The model, and the loss at each step.
    """
    return fit(
        joint_objective(schedule, dropout=dropout, weight=weight),
        model,
        optimizer,
        key=key,
        steps=steps,
        data=(images, labels),
        batch_size=batch_size,
        **options,
    )


def _with_net(model: DiffuseVAE, net: Any) -> DiffuseVAE:
    return eqx.tree_at(lambda m: m.net, model, net)


def _mean(
    loss: Callable[..., Array],
    model: DiffuseVAE,
    sampler: Sampler,
    batch: Batch,
    **options: float,
) -> Array:
    def per_image(model: DiffuseVAE, image: Array, label: Array | None) -> Array:
        return loss(model, sampler, image, label, **options)

    return per_batch(per_image)(model, *batch)
