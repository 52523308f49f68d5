"""The Fréchet distance of two sets, and how much of it is due to their size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ppgen.claims import claims
from ppgen.inference.metrics import Estimate


class Frechet(NamedTuple):
    """A Fréchet distance.

    Attributes:
        distance: An estimate from which the part of the bias that falls like one over the sizes of
            the sets is taken, with its standard error. It may be negative.
        plug_in: The distance of the sets themselves, which is what is usually reported: too large.
        bias: What was taken: the bias of `plug_in` at these sizes.
    """

    distance: Estimate
    plug_in: float
    bias: float


@claims("biased", "the Fréchet distance of two laws", but="by order n^-2, where n is the size")
def frechet(one: Any, other: Any, *, groups: int = 20) -> Frechet:
    """The Fréchet distance of two laws from draws of each, less its bias, with a standard error.

    The distance of two sets (`ppgen.models.parts.metrics.frechet_distance`) depends on their size:
    its bias falls like 1/n, in many dimensions from far above what is to be measured. Here the bias
    is estimated by leaving out groups of draws (the jackknife) and taken off, so that distances at
    different sizes can be compared. *Biased* still, by order 1/n², and useless where n is not
    several times the number of dimensions.

    Args:
        one: Draws with a leading axis, in random order; flattened behind it.
        other: Draws of the other law; their number may be another one.
        groups: How many groups there are in each set. More of them cost more, and are less noisy.

    Returns:
        The distance with and without its bias.

    Raises:
        ValueError: There are fewer than two groups, or fewer than two draws for each of them.

    References:
        Chong, Forsyth. Effectively unbiased FID and Inception Score and where to find them. CVPR
        2020. Quenouille. Notes on bias in estimation. Biometrika 43, 1956.

    Examples:
        Of equal laws in eight dimensions, whose distance is zero:

        >>> import numpy as np
        >>> from ppgen.inference import frechet
        >>> x, y = np.random.RandomState(0).normal(size=(2, 400, 8))
        >>> found = frechet(x, y)
        >>> print(f"{found.plug_in:.3f}, less its bias {found.distance}")
        0.134, less its bias 0.00 ± 0.04
    """
    sets = [np.asarray(x, np.float64).reshape(len(x), -1) for x in (one, other)]
    if groups < 2 or min(map(len, sets)) < 2 * groups:
        raise ValueError(
            f"{groups} groups of two draws or more are needed, and there are "
            f"{len(sets[0])} and {len(sets[1])} draws"
        )
    plug_in = plug_in_distance(*sets)
    bias, variance = 0.0, 0.0
    for which, rows in enumerate(sets):
        left_out = np.arange(len(rows)) % groups
        values = []
        for group in range(groups):
            pair = list(sets)
            pair[which] = rows[left_out != group]
            values.append(plug_in_distance(pair[0], pair[1]))
        bias += (groups - 1) * (float(np.mean(values)) - plug_in)
        variance += (groups - 1) * float(np.var(values))
    return Frechet(Estimate(plug_in - bias, math.sqrt(variance)), plug_in, bias)


def plug_in_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Fréchet distance between Gaussians with the means and covariances of two sets.

    Args:
        one: Rows.
        other: Rows of the same length.
    """
    sets = [np.asarray(x, np.float64) for x in (one, other)]
    means = [x.mean(0) for x in sets]
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in sets]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    cross = np.sqrt(product.clip(0)).sum()
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    # Rounding may leave a little less than nothing of equal sets.
    return max(float(((means[0] - means[1]) ** 2).sum() + traces - 2 * cross), 0.0)
