"""Trivial baselines, which a model must beat."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from ppgen.models.parts.data.labels import within_labels
from ppgen.models.parts.likelihoods import AbstractLikelihood


def pixel_marginal_log_likelihood(
    train: Num[np.ndarray, "train pixels"], held_out: Num[np.ndarray, "n pixels"], *, values: int
) -> Float[np.ndarray, " n"]:
    """Log likelihood of images under independent pixels, each with its own histogram.

    The histogram of a pixel is that of the training images with one pseudo-count spread over all
    values, so that a value which was never seen there has a positive probability. It is normalised
    and exact: neither a bound nor an estimate.

    Args:
        train: Images to count, whole numbers 0, ..., `values - 1`.
        held_out: Images to score.
        values: Number of values of a pixel.

    Returns:
        The log likelihood of each held-out image, in nats.
    """
    counts = np.stack([(train == value).sum(0) for value in range(values)])
    logs = np.log((counts + 1 / values) / (len(train) + 1))
    pixels = np.arange(train.shape[1])
    return logs[held_out.astype(int), pixels].sum(1)


def pixel_histograms(
    likelihood: AbstractLikelihood, train: Any, rows: Any
) -> Float[np.ndarray, " n"]:
    """`pixel_marginal_log_likelihood` of what a likelihood scores.

    Of labelled images it is told the label, as the model is: each label has histograms of its own.

    Args:
        likelihood: Makes values of grey levels.
        train: Images to count, or labelled ones.
        rows: Images to score.

    Returns:
        The log likelihood of each, in nats.
    """

    def score(*parts: Any) -> Float[np.ndarray, " n"]:
        found = [np.asarray(likelihood.discretize(jnp.asarray(part))) for part in parts]
        return pixel_marginal_log_likelihood(*found, values=likelihood.values)

    return within_labels(score, train, rows)


def gaussian_denoising_error(
    train: Float[np.ndarray, "train pixels"],
    images: Float[np.ndarray, "n pixels"],
    log_kept: Float[Array | np.ndarray, " levels"],
) -> Float[np.ndarray, " n"]:
    r"""Squared error of the noise that the Gaussian of the training images predicts.

    With the mean μ and the covariance Σ of those images, it predicts the expectation of ε given
    :math:`x_t = \sqrt{a}\, x + \sqrt{1 - a}\, \varepsilon` for x from N(μ, Σ): the best linear
    prediction. A network has to beat it. Zeros, as a prediction, have an error of one for each
    pixel. *Exact*: the expectation over ε, and the mean over levels.

    Args:
        train: Images that the Gaussian is fitted to.
        images: Images to score.
        log_kept: log a of each level, negative.

    Returns:
        The sum over pixels for each image.
    """
    centre = train.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(train, rowvar=False, dtype=np.float64)))
    squares = ((images - centre) @ vectors) ** 2
    kept = np.exp(np.asarray(log_kept, np.float64))[:, None]
    noise = -np.expm1(np.asarray(log_kept, np.float64))[:, None]
    smoothed = kept * values.clip(0) + noise
    spread = ((kept * values / smoothed) ** 2).sum(1).mean()
    return spread + squares @ (noise * kept / smoothed**2).mean(0)


def trivial_draws(
    key: Key[Array, ""], train: Float[np.ndarray, "train pixels"], number: int
) -> dict[str, Float[np.ndarray, "number pixels"]]:
    """Draws of two trivial models: independent pixels, and a Gaussian.

    Args:
        key: Draws them.
        train: Images that both are fitted to: histograms of each pixel, mean and covariance.
        number: The number of draws of each.

    Returns:
        Images, by the name of the model.
    """
    random = np.random.RandomState(int(jax.random.randint(key, (), 0, 2**31 - 1)))
    columns = [random.choice(column, number) for column in train.T]
    covariance = np.cov(train, rowvar=False)
    return {
        "independent pixels": np.stack(columns, 1),
        "Gaussian": random.multivariate_normal(train.mean(0), covariance, number),
    }
