"""Distances between two laws from samples of both, without bias and with standard errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from ppgen.claims import claims
from ppgen.inference.evaluation._kernels import Kernel
from ppgen.inference.metrics import Estimate

_LEAST = 4  # Below, the variance of an interaction within a set has no estimate.


@claims("unbiased", "the squared maximum mean discrepancy")
def mmd(one: Any, other: Any, kernel: Kernel) -> Estimate:
    r"""The squared maximum mean discrepancy of two laws, from independent draws of each.

    .. math:: E[k(X, X')] + E[k(Y, Y')] - 2 E[k(X, Y)],

    where X, X' are of the one law and Y, Y' of the other. It is zero of equal laws and, by a
    characteristic kernel such as `gaussian_kernel`, positive of any other two. *Unbiased* (a
    U-statistic): no draw is compared with itself, so it is negative about as often as not where
    the laws are equal. The square of the standard error is unbiased too, but for a part that is
    cut off at zero; near zero the estimate is not normal, so a test should permute.

    Args:
        one: Draws, with a leading axis; at least four.
        other: Draws of the other law; their number may be another one.
        kernel: `gaussian_kernel(scale)`, or any function of two arrays of draws to a matrix.
            Nothing in it may be fitted to these draws.

    Returns:
        The estimate and its standard error, in units of the kernel.

    Raises:
        ValueError: There are fewer than four draws of a law, or the kernel is not finite or returns
            another shape.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf, Smola. A kernel two-sample test. JMLR 13, 2012.

    Examples:
        >>> import numpy as np
        >>> from ppgen.inference import gaussian_kernel, mmd
        >>> x, y = np.random.RandomState(0).normal(size=(2, 500, 2))
        >>> for shift in (0.0, 1.0):  # 0 and 0.189 of these laws
        ...     found = mmd(x, y + shift, gaussian_kernel(1.0))
        ...     print(f"{found.mean:.4f} ± {found.standard_error:.4f}")
        0.0003 ± 0.0020
        0.2159 ± 0.0194
    """
    first, second = len(one), len(other)
    if min(first, second) < _LEAST:
        raise ValueError(
            f"at least {_LEAST} draws of each law are needed, not {first} and {second}"
        )
    within, between = (kernel(one, one), kernel(other, other)), kernel(one, other)
    for matrix, shape in zip(
        (*within, between), ((first, first), (second, second), (first, second)), strict=True
    ):
        if matrix.shape != shape:
            raise ValueError(f"the kernel returned the shape {matrix.shape}, not {shape}")
        if not np.all(np.isfinite(matrix)):
            raise ValueError("the kernel is not finite")
    off = [np.asarray(matrix, np.float64).copy() for matrix in within]
    for matrix in off:
        np.fill_diagonal(matrix, 0.0)
    between = np.asarray(between, np.float64)
    mean = sum(x.sum() / (len(x) * (len(x) - 1)) for x in off) - 2 * between.mean()
    linear, interaction = _variance(off[0], off[1], between)
    return Estimate(float(mean), math.sqrt(max(linear, 0.0) + interaction))


@claims("unbiased", "the squared energy distance")
def energy_distance(one: Any, other: Any) -> Estimate:
    """The energy distance 2 E|X − Y| − E|X − X'| − E|Y − Y'| of two laws, from draws of each.

    It is zero of equal laws only, has no scale to choose, and does not change under rotations; it
    is `mmd` with the kernel −|x − y|, and what is said there holds: *unbiased*, with a standard
    error. (Some call its square root by this name, `scipy.stats` for one.)

    Args:
        one: Draws, with a leading axis; at least four. They are flattened behind it.
        other: Draws of the other law; their number may be another one.

    Returns:
        The estimate and its standard error, in the units of the draws.

    Raises:
        ValueError: There are fewer than four draws of a law, or they are not finite.

    References:
        Székely, Rizzo. Energy statistics: a class of statistics based on distances. Journal of
        Statistical Planning and Inference 143, 2013.

    Examples:
        >>> import numpy as np
        >>> from ppgen.inference import energy_distance
        >>> x, y = np.random.RandomState(0).normal(size=(2, 500, 1))
        >>> print(energy_distance(x, y + 3.0))  # 3.78 of these laws
        3.72 ± 0.13
    """

    def minus_distance(x: Any, y: Any) -> np.ndarray:
        flat = [np.asarray(z, np.float64).reshape(len(z), -1) for z in (x, y)]
        return -cdist(flat[0], flat[1])

    return mmd(one, other, minus_distance)


def _variance(x: np.ndarray, y: np.ndarray, between: np.ndarray) -> tuple[float, float]:
    """The variance of the estimate: the parts of single draws, and of pairs of them.

    Hoeffding's decomposition; each part is estimated without bias.

    Args:
        x: The kernel within the first set, zero on the diagonal.
        y: That within the second set.
        between: That of each of the first to each of the second.
    """
    m, n = between.shape
    centred = between - between.mean(0) - between.mean(1, keepdims=True) + between.mean()
    crossed = float((centred**2).sum()) / ((m - 1) * (n - 1))
    linear, interaction = 0.0, 4 * crossed / (m * n)
    for inside, across in ((x, between), (y, between.T)):
        size, others = across.shape
        rows = inside.sum(1) / (size - 2)
        pairs = inside - rows[:, None] - rows + rows.sum() / (size - 1)
        np.fill_diagonal(pairs, 0.0)
        paired = float((pairs**2).sum()) / (size * (size - 3))
        # The witness at each draw, whose own variance is less that of the mean over the others.
        witness = float(np.var(rows - across.mean(1), ddof=1))
        linear += 4 / size * (witness - paired / (size - 2) - crossed / others)
        interaction += 2 * paired / (size * (size - 1))
    return linear, interaction
