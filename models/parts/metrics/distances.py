"""Distances between two sets of images, such as a model's draws and the data."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Array, Float

from ppgen.inference import Estimate
from ppgen.inference.evaluation._frechet import plug_in_distance


def frechet_distance(
    one: Float[np.ndarray | Array, "m pixels"], other: Float[np.ndarray | Array, "n pixels"]
) -> float:
    """The Fréchet distance between Gaussians with the means and covariances of two sets.

    It is the squared 2-Wasserstein distance of those Gaussians. It is *biased* upwards by sampling,
    so compare it at equal sizes, and with its value between two halves of the data, or take
    `ppgen.inference.frechet`, which is without most of the bias. It depends on two moments only: a
    Gaussian that is fitted to the data attains it without being like the data.

    Args:
        one: Images, flattened.
        other: Images of the same shape.

    Returns:
        The distance, in squared units of a pixel.

    References:
        Dowson, Landau. The Fréchet distance between multivariate normal distributions. Journal of
        Multivariate Analysis 12, 1982.

    Examples:
        >>> import numpy as np
        >>> x = np.random.RandomState(0).normal(size=(1000, 2))
        >>> print(f"{frechet_distance(x, x + 2):.3f}")
        8.000
    """
    return plug_in_distance(np.asarray(one), np.asarray(other))


def neighbour_accuracy(
    one: Float[np.ndarray | Array, "n pixels"], other: Float[np.ndarray | Array, "m pixels"]
) -> float:
    """How often an image's nearest neighbour, among all others of both sets, is of its own set.

    One half for two samples of one distribution, 1 where the sets are apart, and less than one half
    where each set has copies of the other's images. It does not depend on moments alone, so it
    detects differences that `frechet_distance` does not.

    Args:
        one: Images, flattened.
        other: As many of them.

    Returns:
        The leave-one-out accuracy of a classifier by the nearest neighbour.

    Raises:
        ValueError: The sets are of different sizes.

    References:
        Lopez-Paz, Oquab. Revisiting classifier two-sample tests. ICLR 2017.

    Examples:
        >>> import numpy as np
        >>> x, y = np.random.RandomState(0).normal(size=(2, 500, 2))
        >>> print(f"{neighbour_accuracy(x, y):.1f}, {neighbour_accuracy(x, y + 9):.1f}")
        0.5, 1.0
    """
    if len(one) != len(other):
        raise ValueError(f"the sets must be of one size, not {len(one)} and {len(other)}")
    from sklearn.neighbors import NearestNeighbors

    both = np.concatenate([np.asarray(one), np.asarray(other)])
    nearest = NearestNeighbors(n_neighbors=1).fit(both).kneighbors(return_distance=False)[:, 0]
    own = (np.arange(len(both)) < len(one)) == (nearest < len(one))
    return float(own.mean())


def told_apart(
    draws: Float[np.ndarray | Array, "m pixels"], images: Float[np.ndarray, "n pixels"]
) -> Estimate:
    """The `neighbour_accuracy` of draws and images, with a standard error for independent answers.

    Args:
        draws: Images that a model drew, flattened.
        images: At least as many images, of which the first ones are used.

    Returns:
        The accuracy and its standard error.
    """
    share = neighbour_accuracy(np.asarray(draws, np.float32), images[: len(draws)])
    return Estimate(share, math.sqrt(share * (1 - share) / (2 * len(draws))))


def nearest_distances(
    images: Float[np.ndarray | Array, "n pixels"], others: Float[np.ndarray | Array, "m pixels"]
) -> Float[np.ndarray, " n"]:
    """The squared distance of each image to the nearest one of others: small for copies.

    Args:
        images: Images, flattened.
        others: The images of which they may be copies.

    Examples:
        >>> import numpy as np
        >>> nearest_distances(np.array([[0.0, 1.0]]), np.array([[0.0, 3.0], [9.0, 9.0]])).tolist()
        [4.0]
    """
    one, other = np.asarray(images), np.asarray(others)
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return squares.min(1)
