"""The nonlinear Poisson problem on a line, solved by finite differences and Newton's method."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.polynomial import chebyshev
from scipy.linalg import solve_banded
from scipy.special import expit

from ppgen.inference import DataError

FLOOR = 0.1
"""The least conductivity."""


def solve_poisson(
    z: Float[np.ndarray, " coefficients"], w: float, *, nodes: int = 401, tolerance: float = 1e-11
) -> Float[np.ndarray, " nodes"]:
    r"""Solves (κ(x, u) u′)′ + w = 0 on [−1, 1] with u(±1) = 0.

    .. math:: \kappa(x, u) = \mathrm{softplus}\bigl(u \textstyle\sum_n z_n T_n(x)\bigr) + 0.1

    with the Chebyshev polynomials T. Fluxes between neighbours, with κ at their midpoint, make an
    error of the order of the squared distance of the nodes; Newton steps, halved while they do not
    lower the residual, solve the discrete equations in double precision.

    Args:
        z: Coefficients of the Chebyshev polynomials T₀, T₁, ....
        w: The source.
        nodes: Evenly spaced, ends included.
        tolerance: On the largest entry of the residual, relative to the source.

    Returns:
        The solution at `numpy.linspace(-1, 1, nodes)`.

    Raises:
        DataError: If Newton's method does not converge.

    Examples:
        With z = 0 the conductivity is log 2 + 0.1 everywhere:

        >>> import numpy as np
        >>> from ppgen.models.random_grid import solve_poisson
        >>> u = solve_poisson(np.zeros(5), 1.0, nodes=3)
        >>> print(f"{u[1]:.3f} {0.5 / (np.log(2) + 0.1):.3f}")
        0.630 0.630
    """
    x = np.linspace(-1.0, 1.0, nodes)
    h = 2.0 / (nodes - 1)
    slope = chebyshev.chebval((x[1:] + x[:-1]) / 2, z)

    def residual(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The residual inside, and its derivative in the bands of `solve_banded`."""
        full = np.concatenate([[0.0], u, [0.0]])
        middle, rise = (full[1:] + full[:-1]) / 2, np.diff(full) / h
        kappa = np.logaddexp(0.0, slope * middle) + FLOOR
        bend = expit(slope * middle) * slope / 2 * rise
        # Derivatives of the flux by its two ends.
        left, right = bend - kappa / h, bend + kappa / h
        bands = np.zeros((3, nodes - 2))
        bands[0, 1:] = right[1:-1] / h
        bands[1] = (left[1:] - right[:-1]) / h
        bands[2, :-1] = -left[1:-1] / h
        return np.diff(kappa * rise) / h + w, bands

    u = w * (1 - x[1:-1] ** 2) / 2
    error, bands = residual(u)
    for _ in range(100):
        # Rounding leaves ε κ u / h² of the residual.
        if np.abs(error).max() <= tolerance * abs(w) + 1e-14 / h**2:
            return np.concatenate([[0.0], u, [0.0]])
        step, size = solve_banded((1, 1), bands, error), 1.0
        while True:
            tried, tried_bands = residual(u - size * step)
            if np.linalg.norm(tried) < np.linalg.norm(error) or size < 1e-3:
                break
            size /= 2
        u, error, bands = u - size * step, tried, tried_bands
    raise DataError(f"Newton's method did not converge for z = {z}, w = {w}")
