"""The maximum of a concave likelihood, by Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ppgen.inference.preferences._determined import VotesError

_TOLERANCE, _FLAT = 1e-12, 1e-9


class Derivatives(NamedTuple):
    """Of a log likelihood at a point.

    Attributes:
        value: The log likelihood.
        slope: Its gradient.
        information: Minus its second derivatives.
        spread: The sum over votes of the squares of their gradients.
    """

    value: float
    slope: np.ndarray
    information: np.ndarray
    spread: np.ndarray


class Maximum(NamedTuple):
    """Where a likelihood is largest, and two covariances of the errors of that point."""

    point: np.ndarray
    covariance: np.ndarray
    robust: np.ndarray
    value: float


def flat() -> VotesError:
    """The error for a likelihood without a maximum, or with many."""
    return VotesError(
        "the votes do not determine the rewards: some combination of features never differs "
        "between items that were compared, or decides all votes",
        instead="fewer features, or more votes",
    )


def maximum(
    derivatives: Callable[[np.ndarray], Derivatives],
    basis: np.ndarray,
    start: np.ndarray,
    *,
    last_steps: int = 0,
) -> Maximum:
    """The maximum over a span of columns.

    Args:
        derivatives: Of the log likelihood.
        basis: Orthonormal columns.
        start: The weights of the columns at the beginning.
        last_steps: Further steps at the end, each of which doubles the number of digits.

    Returns:
        The maximum, with covariances by the information and by the sandwich.

    Raises:
        VotesError: The likelihood is flat, there or on the way.
    """
    weights = start
    value, slope, information, spread = derivatives(basis @ weights)
    scale = np.trace(basis.T @ information @ basis)
    done, left = False, last_steps
    while left >= 0:
        curvature = basis.T @ information @ basis
        # If the likelihood has no maximum, it becomes flat on the way.
        if not len(weights) or np.linalg.eigvalsh(curvature)[0] <= _FLAT * scale:
            raise flat()
        step = np.linalg.solve(curvature, basis.T @ slope)
        gain, size = float(step @ (basis.T @ slope)), 1.0
        done = gain < _TOLERANCE * (1 + abs(value))
        new = derivatives(basis @ (weights + step))
        # Concave, so that half steps always end in an ascent; the last one is below rounding.
        while not done and new.value < value + 1e-4 * size * gain:
            size /= 2
            new = derivatives(basis @ (weights + size * step))
        weights, (value, slope, information, spread) = weights + size * step, new
        left -= done
    inverse = basis @ np.linalg.inv(basis.T @ information @ basis) @ basis.T
    return Maximum(basis @ weights, inverse, inverse @ spread @ inverse, value)
