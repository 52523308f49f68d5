"""Kernels: similarities of vectors, of histograms, and of sets of points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

Kernel = Callable[[Any, Any], Float[np.ndarray, "m n"]]
"""A function of two arrays of m and n things, to the similarity of each to each."""


def gaussian_kernel(scale: float) -> Kernel:
    """exp(−|x − y|² / 2s²), of arrays that are flattened behind their leading axis.

    Args:
        scale: s, in the units of the data; of the order of the distances between them.

    Returns:
        A kernel for `mmd`.

    Examples:
        >>> import numpy as np
        >>> from ppgen.inference import gaussian_kernel
        >>> print(gaussian_kernel(1.0)(np.zeros((1, 2)), np.array([[1.0, 0.0]])).round(4))
        [[0.6065]]
    """
    _check_scale(scale)

    def kernel(one: Any, other: Any) -> Float[np.ndarray, "m n"]:
        return np.exp(cdist(_rows(one), _rows(other), "sqeuclidean") / (-2 * scale**2))

    return kernel


def gaussian_emd_kernel(scale: float, *, width: float = 1.0) -> Kernel:
    """exp(−W² / 2s²) with the earth mover's distance W of histograms over a line.

    It is not positive definite, although it is in common use for graphs (You et al. 2018): the
    squared discrepancy by it may be negative, and zero of different laws. It is for comparison with
    published numbers; `gaussian_kernel` and `total_variation_kernel(scale, squared=False)` are
    without that defect.

    Args:
        scale: s, in the units of `width`.
        width: The distance between neighbouring bins.

    Returns:
        A kernel for `mmd`, of histograms: rows of counts or of probabilities, which are normalised.

    References:
        You, Ying, Ren, Hamilton, Leskovec. GraphRNN: generating realistic graphs with deep
        auto-regressive models. ICML 2018.

    Examples:
        One half is moved by one bin, so W = ½:

        >>> import numpy as np
        >>> from ppgen.inference import gaussian_emd_kernel
        >>> print(gaussian_emd_kernel(1.0)(np.array([[2, 0]]), np.array([[1, 1]])).round(4))
        [[0.8825]]
    """
    _check_scale(scale)

    def kernel(one: Any, other: Any) -> Float[np.ndarray, "m n"]:
        first, second = (np.cumsum(_histograms(x), axis=1) for x in (one, other))
        distance = width * cdist(first, second, "cityblock")
        return np.exp(distance**2 / (-2 * scale**2))

    return kernel


def total_variation_kernel(scale: float, *, squared: bool = True) -> Kernel:
    """exp(−T² / 2s²), or exp(−T / s), with the total variation T of histograms.

    Args:
        scale: s; T is from 0 to 1.
        squared: Whether it is T² that is in the exponent, as is usual for graphs (Liao et al.
            2019). It is then not positive definite, and what is said of `gaussian_emd_kernel`
            holds; with T itself it is.

    Returns:
        A kernel for `mmd`, of histograms: rows of counts or of probabilities, which are normalised.

    References:
        Liao, Li, Song, Wang, Hamilton, Duvenaud, Urtasun, Zemel. Efficient graph generation with
        graph recurrent attention networks. NeurIPS 2019.

    Examples:
        >>> import numpy as np
        >>> from ppgen.inference import total_variation_kernel
        >>> print(total_variation_kernel(1.0)(np.array([[2, 0]]), np.array([[1, 1]])).round(4))
        [[0.8825]]
    """
    _check_scale(scale)

    def kernel(one: Any, other: Any) -> Float[np.ndarray, "m n"]:
        distance = cdist(_histograms(one), _histograms(other), "cityblock") / 2
        return np.exp(distance**2 / (-2 * scale**2) if squared else -distance / scale)

    return kernel


def set_kernel(points: Kernel, scale: float) -> Kernel:
    r"""A kernel of sets of points, from one of points: whatever their order, and their number.

    .. math:: \exp\Big(-\frac{|\mu_S - \mu_T|^2}{2 s^2}\Big), \qquad
              \mu_S = \frac{1}{|S|} \sum_{x \in S} k(x, \cdot).

    The mean of k over all pairs of points is a kernel too, but `mmd` by it only compares the laws
    of single points; this one compares the laws of sets.

    Args:
        points: k, positive definite.
        scale: s, in units of the root of k: where k is at most 1, two sets are at most √2 apart.

    Returns:
        A kernel for `mmd` of arrays of shape (sets, points, dimensions). Points with a NaN are
        absent, so that sets may be of different sizes.

    Examples:
        >>> import numpy as np
        >>> from ppgen.inference import gaussian_kernel, set_kernel
        >>> kernel = set_kernel(gaussian_kernel(1.0), 0.5)
        >>> sets = np.array([[[0.0], [1.0]], [[1.0], [0.0]], [[5.0], [np.nan]]])
        >>> print(kernel(sets[:1], sets).round(3))
        [[1.    1.    0.027]]
    """
    _check_scale(scale)

    def inner(one: list[np.ndarray], other: list[np.ndarray]) -> Float[np.ndarray, "m n"]:
        ends = np.cumsum([0, *(len(x) for x in other)])[:-1]
        counts = np.array([len(x) for x in other])
        together = np.concatenate(other)
        sums = [np.add.reduceat(points(x, together).mean(0), ends) for x in one]
        return np.stack(sums) / counts

    def kernel(one: Any, other: Any) -> Float[np.ndarray, "m n"]:
        first, second = _sets(one), _sets(other)
        squares = [np.array([points(x, x).mean() for x in sets]) for sets in (first, second)]
        distance = squares[0][:, None] + squares[1] - 2 * inner(first, second)
        return np.exp(distance.clip(0) / (-2 * scale**2))

    return kernel


def _sets(x: Any) -> list[np.ndarray]:
    x = np.asarray(x, np.float64)
    if x.ndim != 3:
        raise ValueError(f"expected sets of shape (sets, points, dimensions), not {x.shape}")
    found = [points[~np.isnan(points).any(1)] for points in x]
    if any(not len(points) for points in found):
        raise ValueError("a set has no points")
    return found


def _rows(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x.reshape(len(x), -1)


def _histograms(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or np.any(x < 0) or not np.all(x.sum(1) > 0):
        raise ValueError("expected histograms: rows that are nonnegative and not all zero")
    return x / x.sum(1, keepdims=True)


def _check_scale(scale: float) -> None:
    if not 0 < scale < np.inf:
        raise ValueError(f"the scale of a kernel must be positive and finite, not {scale}")
