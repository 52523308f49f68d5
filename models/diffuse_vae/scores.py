"""Scores of a DiffuseVAE: errors of predicted noise, and how easily draws are told from data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ppgen.inference import per_datum
from ppgen.models.diffuse_vae.autoencoder import Autoencoder, autoencoder_bound, autoencoder_model
from ppgen.models.diffuse_vae.chain import Sampler
from ppgen.models.diffuse_vae.model import DiffuseVAE, draw_images
from ppgen.models.diffuse_vae.objectives import denoising_loss
from ppgen.models.parts.metrics.baselines import gaussian_denoising_error, trivial_draws
from ppgen.models.parts.metrics.distances import told_apart
from ppgen.models.parts.runs import each_of

DRAWN = 4000
"""Most images that are drawn for comparison with held-out ones."""


def noise_errors(
    model: DiffuseVAE,
    sampler: Sampler,
    images: Float[np.ndarray, "n pixels"],
    *,
    key: Key[Array, ""],
    draws: int,
    dropout: float = 0.0,
) -> Float[np.ndarray, " n"]:
    """The `denoising_loss` of each image.

    Args:
        model: The parameters.
        sampler: The levels, as for `denoising_loss`.
        images: On the scale of the data.
        key: Everything random follows from it.
        draws: The number of draws to average for each image.
        dropout: As for `denoising_loss`; 1 for a model that is told nothing.

    Returns:
        Sums over pixels.
    """

    def loss(model: DiffuseVAE, image: Array) -> Array:
        return denoising_loss(model, sampler, image, dropout=dropout)

    return per_datum(loss, model, images, key=key, draws=draws)


def autoencoder_bounds(
    vae: Autoencoder, images: Float[np.ndarray, "n pixels"], *, key: Key[Array, ""], draws: int
) -> Float[np.ndarray, " n"]:
    """The `autoencoder_bound` of each image, *a bound*, in nats.

    Args:
        vae: The parameters.
        images: On the scale of the data.
        key: Everything random follows from it.
        draws: To average for each image.
    """
    return per_datum(autoencoder_bound, vae, images, key=key, draws=draws)


def decoded_draws(
    key: Key[Array, ""], vae: Autoencoder, number: int, *, prior: dist.Distribution | None = None
) -> Float[np.ndarray, "{number} pixels"]:
    """Decoded draws of the prior: images of the first stage alone.

    Args:
        key: Draws them.
        vae: The parameters.
        number: How many.
        prior: As for `autoencoder_model`.
    """
    return each_of(lambda: autoencoder_model(vae, prior=prior), number, key=key)


def image_scores(
    model: DiffuseVAE,
    sampler: Sampler,
    levels: Sampler,
    train: Float[np.ndarray, "train pixels"],
    images: Float[np.ndarray, "n pixels"],
    *,
    prior: dist.Distribution | None,
    draws: int,
    keys: Key[Array, " 5"],
) -> dict[str, dict[str, Any]]:
    """Errors of the noise, and accuracies of telling draws from images: trivial models first.

    Args:
        model: The parameters.
        sampler: The sampler of images; as many are drawn as are scored, at most `DRAWN`.
        levels: The levels at which noise is predicted.
        train: Images that trivial models are fitted to.
        images: Images to score, on the same scale.
        prior: As for `diffuse_vae_model`.
        draws: The number of draws of the noise for each image.
        keys: Everything random follows from them.

    Returns:
        By label and unit: errors of each image, accuracies as estimates.
    """
    number = min(DRAWN, len(images))
    drawn = trivial_draws(keys[1], train, number) | {
        "autoencoder": decoded_draws(keys[0], model.vae, number, prior=prior),
        "DiffuseVAE": draw_images(keys[4], model, sampler, number, prior=prior),
    }
    errors = {
        "zeros": np.full(len(images), images.shape[1]),
        "Gaussian": gaussian_denoising_error(train, images, levels.moves.before),
        "DiffuseVAE": noise_errors(model, levels, images, key=keys[2], draws=draws),
    }
    rows: dict[str, dict[str, Any]] = {label: {} for label in ("zeros", *drawn)}
    for label, error in errors.items():
        rows[label]["error of the noise"] = error
    for label, x in drawn.items():
        rows[label]["told from data"] = told_apart(x, images)
    return rows
