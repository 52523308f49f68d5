"""What a model must beat before its figures mean anything."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num


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
