"""The steady flow in a square cavity that its lid drives, by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import spsolve

from ppgen.inference import DataError


class Flow(NamedTuple):
    """A flow at the inner vertices of a regular grid of cells; the first axis is x.

    Attributes:
        u: Velocity along x.
        v: Velocity along y.
        p: Pressure, zero in the corner at the origin.
    """

    u: Float[np.ndarray, "vertices vertices"]
    v: Float[np.ndarray, "vertices vertices"]
    p: Float[np.ndarray, "vertices vertices"]


def solve_cavity(
    density: float,
    viscosity: float,
    lid: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]],
    *,
    cells: int = 32,
    tolerance: float = 1e-10,
) -> Flow:
    """Solves the steady Navier-Stokes equations on [0, 1]².

    ρ (u·∇)u = −∇p + μ ∇²u, ∇·u = 0, with u at rest at the walls but for the lid, y = 1, that slides
    along x. On a staggered grid: pressures in the cells, velocities on their faces, momentum in
    conservative form. The error is of the order of the squared size of a cell, where the flow is
    smooth. Newton's method from rest, which converges up to Reynolds numbers of some hundreds.

    Args:
        density: ρ.
        viscosity: μ, the dynamic one, positive.
        lid: The velocity of the lid, as a function of x.
        cells: In each direction.
        tolerance: On the largest entry of the residual.

    Returns:
        The flow at the `cells − 1` inner vertices in each direction.

    Raises:
        DataError: If Newton's method does not converge.

    Examples:
        >>> import numpy as np
        >>> from ppgen.models.random_grid import solve_cavity
        >>> flow = solve_cavity(1.0, 0.1, lambda x: 16 * x**2 * (1 - x) ** 2, cells=16)
        >>> flow.u.shape, bool(flow.u[7, 7] < 0 < flow.u[7, -1])  # backwards below, on at the lid
        ((15, 15), True)
    """
    n, h = cells, 1.0 / cells
    # In one direction, n centres and n − 1 inner faces; what is on the outer faces is zero.
    diags: Any = sparse.diags  # of lists too, which its annotation leaves out
    diags: Any = sparse.diags  # of lists too, which its annotation leaves out
    inner, centres = sparse.identity(n - 1), sparse.identity(n)
    to_faces = diags([1 / h, -1 / h], [1, 0], shape=(n - 1, n))
    to_centres = -to_faces.T
    faces_mean = diags([0.5, 0.5], [1, 0], shape=(n - 1, n))
    centres_mean = faces_mean.T
    # A wall half a cell away is met by a mirrored value outside.
    bend = np.full(n, -2.0)
    bend[[0, -1]] = -3.0
    along_wall = diags([np.ones(n - 1), bend, np.ones(n - 1)], [-1, 0, 1]) / h**2

    def both(x: Any, y: Any) -> Any:
        return sparse.kron(x, y, format="csr")

    u_in_cells, v_in_cells = both(centres_mean, centres), both(centres, centres_mean)
    u_at_vertices, v_at_vertices = both(inner, faces_mean), both(faces_mean, inner)
    d_cells = both(to_faces, centres), both(centres, to_faces)
    d_vertices = both(inner, to_centres), both(to_centres, inner)
    laplacians = (
        both(to_faces @ to_centres, centres) + both(inner, along_wall),
        both(along_wall, inner) + both(centres, to_faces @ to_centres),
    )
    divergence = sparse.hstack([both(to_centres, centres), both(centres, to_centres)]).tolil()
    # The divergences sum to zero: in place of one of them, the first pressure is.
    divergence[0] = 0
    pin = sparse.csr_matrix(([1.0], ([0], [0])), shape=(n * n, n * n))
    drag = np.zeros((n - 1, n))
    drag[:, -1] = 2 * lid(np.arange(1, n) * h) / h**2
    size = n * (n - 1)
    linear = sparse.bmat(
        [
            [-viscosity * laplacians[0], None, d_cells[0]],
            [None, -viscosity * laplacians[1], d_cells[1]],
            [divergence[:, :size], divergence[:, size:], pin],
        ],
        format="csr",
    )
    load = np.concatenate([viscosity * drag.ravel(), np.zeros(size + n * n)])

    state = np.zeros(2 * size + n * n)
    for _ in range(30):
        u, v = state[:size], state[size : 2 * size]
        cells_u, cells_v = u_in_cells @ u, v_in_cells @ v
        vertices_u, vertices_v = u_at_vertices @ u, v_at_vertices @ v
        momentum = [
            d_cells[0] @ cells_u**2 + d_vertices[0] @ (vertices_u * vertices_v),
            d_cells[1] @ cells_v**2 + d_vertices[1] @ (vertices_u * vertices_v),
        ]
        residual = linear @ state - load
        residual[: 2 * size] += density * np.concatenate(momentum)
        if np.abs(residual).max() < tolerance:
            break
        by_u = sparse.diags(vertices_v) @ u_at_vertices
        by_v = sparse.diags(vertices_u) @ v_at_vertices
        advection = sparse.bmat(
            [
                [
                    d_cells[0] @ sparse.diags(2 * cells_u) @ u_in_cells + d_vertices[0] @ by_u,
                    d_vertices[0] @ by_v,
                    None,
                ],
                [
                    d_vertices[1] @ by_u,
                    d_cells[1] @ sparse.diags(2 * cells_v) @ v_in_cells + d_vertices[1] @ by_v,
                    None,
                ],
                [None, None, sparse.csr_matrix((n * n, n * n))],
            ],
            format="csr",
        )
        state = state - spsolve((linear + density * advection).tocsc(), residual)
    else:
        raise DataError(f"Newton's method did not converge for ρ = {density}, μ = {viscosity}")
    pressures = state[2 * size :].reshape(n, n)
    corner = (9 * pressures[0, 0] - 3 * (pressures[0, 1] + pressures[1, 0]) + pressures[1, 1]) / 4
    p = both(faces_mean, faces_mean) @ pressures.ravel() - corner
    return Flow(*(part.reshape(n - 1, n - 1) for part in (vertices_u, vertices_v, p)))
