"""Scores of a random grid neural process on problems whose solutions are known."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

import ppgen
from ppgen.models.random_grid.law import Moments
from ppgen.models.random_grid.process import RGNP
from ppgen.models.random_grid.references import References


class Scores(NamedTuple):
    """Figures of each problem.

    Attributes:
        nse_u: Normalised squared error ‖mean − u‖² / ‖u‖² of the forward map: zero scores 1.
        nse_z: The same of the inverse map, around the mean of the prior, which scores 1 on average.
        error_z: Squared errors of the inverse map, over the variances of the prior: of its mean,
            they are 1 on average.
        coverage_u: Share of the points at which u is within two standard deviations of the mean.
        coverage_z: Share of the parameters, likewise. A calibrated law covers .954.
    """

    nse_u: Float[np.ndarray, " problems"]
    nse_z: Float[np.ndarray, " problems"]
    error_z: Float[np.ndarray, "problems z"]
    coverage_u: Float[np.ndarray, " problems"]
    coverage_z: Float[np.ndarray, " problems"]


def normalized_squared_error(
    guess: Float[Array, "... n"], truth: Float[Array, "... n"]
) -> Float[Array, "..."]:
    """‖guess − truth‖² / ‖truth‖², over the last axis."""
    return jnp.sum((guess - truth) ** 2, -1) / jnp.sum(truth**2, -1)


def mean_solution_error(
    references: References, others: References
) -> Float[np.ndarray, " problems"]:
    """The error of each reference, if the mean of other solutions is taken for its solution."""
    mean, u = others.u.mean(0).ravel(), references.u.reshape(len(references.u), -1)
    return np.asarray(normalized_squared_error(jnp.asarray(mean), jnp.asarray(u)))


class Solved(NamedTuple):
    """The laws that a process infers for a reference, or for many with a leading axis.

    Attributes:
        u: The law of the solution, at the points of the references.
        z_mean: Mean of the law of the parameters, given the solution.
        z_scale: Its standard deviation.
    """

    u: Moments
    z_mean: Float[Array, "... z"]
    z_scale: Float[Array, "... z"]


def solved(rgnp: RGNP, reference: References) -> Solved:
    """Solves one problem forward, and inversely from its reference, on a grid that it draws.

    The inverse map reads the reference at those of its points that are next to the grid.

    Args:
        rgnp: The process.
        reference: One of `References.each`.

    Returns:
        The laws of u and z.
    """
    z, w, points, u = map(jnp.asarray, reference)
    x = ppgen.draw(rgnp.grids())
    nearest = jnp.argmin(jnp.sum((x[:, None] - points) ** 2, -1), 1)
    inverse = rgnp.parameters(u[nearest], w, points[nearest])
    moments = jax.vmap(rgnp.solution(z, w, x))(points)
    return Solved(moments, inverse.mean, jnp.sqrt(inverse.variance))


@eqx.filter_jit
def solve_references(rgnp: RGNP, references: References, *, key: Key[Array, ""]) -> Solved:
    """Runs `solved` on every problem.

    Args:
        rgnp: The process.
        references: The problems.
        key: Draws the grids.

    Returns:
        The laws of u and z, with a leading axis of the problems.
    """
    keys = jax.random.split(key, len(references.z))
    one = ppgen.seed(lambda reference: solved(rgnp, reference))
    return jax.vmap(one)(keys, references.each())


def score(rgnp: RGNP, references: References, *, key: Key[Array, ""]) -> Scores:
    """Compares `solve_references` with the references.

    Args:
        rgnp: The process.
        references: The problems and their solutions.
        key: Draws the grids.

    Returns:
        The figures, one of each kind for each problem.
    """
    law, z_mean, z_scale = solve_references(rgnp, references, key=key)
    count, variance, prior = len(references.z), law.variance(), rgnp.problem.parameters()
    # Where the conditions determine u, its variance is zero, and only rounding errors remain.
    free = variance > 1e-4 * variance.max((1, 2), keepdims=True)
    covered = jnp.abs(law.mean - references.u) <= 2 * jnp.sqrt(variance)
    flat = [x.reshape(count, -1) for x in (law.mean, jnp.asarray(references.u))]
    spread = jnp.sqrt(prior.variance)
    units = [(jnp.asarray(z) - prior.mean) / spread for z in (z_mean, references.z)]
    sure = jnp.abs(z_mean - references.z) <= 2 * z_scale
    return Scores(
        np.asarray(normalized_squared_error(*flat)),
        np.asarray(normalized_squared_error(*units)),
        np.asarray((units[0] - units[1]) ** 2),
        np.asarray(jnp.mean(covered, (1, 2), where=free)),
        np.asarray(jnp.mean(sure, 1)),
    )
