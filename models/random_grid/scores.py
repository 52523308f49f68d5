"""How well a random grid neural process solves problems whose solutions are known."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

import ppgen
from ppgen.models.random_grid.law import Moments
from ppgen.models.random_grid.model import Observations
from ppgen.models.random_grid.problem import AbstractProblem
from ppgen.models.random_grid.process import RGNP


class References(NamedTuple):
    """Problems and their numerical solutions, at points that all of them share.

    Attributes:
        z: Parameters of the equation.
        w: Conditions.
        points: Of a fine grid.
        u: The solutions there.
    """

    z: Float[np.ndarray, "problems z"]
    w: Float[np.ndarray, "problems w"]
    points: Float[np.ndarray, "nodes d"]
    u: Float[np.ndarray, "problems nodes fields"]


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


def draw_references(
    problem: AbstractProblem, number: int, *, key: Key[Array, ""], refine: int = 1
) -> References:
    """Draws problems from p(z) p(w) and solves them.

    Args:
        problem: The equation.
        number: How many.
        key: Draws the problems: the same ones for the same key.
        refine: Resolution of the solver, in multiples of the usual one; the points stay.

    Returns:
        The problems and their solutions.
    """
    z_key, w_key = jax.random.split(key)
    z = np.asarray(problem.parameters().sample(z_key, (number,)))
    w = np.asarray(problem.conditions().sample(w_key, (number,)))
    solved = [problem.solve(*pair, refine=refine) for pair in zip(z, w, strict=True)]
    u = np.stack([values for _, values in solved]).astype(z.dtype)
    return References(z, w, solved[0][0].astype(z.dtype), u)


def observe(
    references: References, number: int, *, noise: float, key: Key[Array, ""]
) -> Observations:
    """Observes each reference at a few of its points, at random, with noise.

    Args:
        references: The solutions.
        number: Points for each.
        noise: Standard deviation of the noise of each field.
        key: Draws the points and the noise.

    Returns:
        The observations, with a leading axis of the problems.
    """
    where_key, noise_key = jax.random.split(key)
    count, nodes, fields = references.u.shape
    where = jax.random.randint(where_key, (count, number), 0, nodes)
    exact = jnp.take_along_axis(jnp.asarray(references.u), where[:, :, None], axis=1)
    values = exact + noise * jax.random.normal(noise_key, exact.shape)
    points = jnp.asarray(references.points)[where]
    return Observations(jnp.asarray(references.z), jnp.asarray(references.w), points, values)


def normalized_squared_error(
    guess: Float[Array, "... n"], truth: Float[Array, "... n"]
) -> Float[Array, "..."]:
    """‖guess − truth‖² / ‖truth‖², over the last axis."""
    return jnp.sum((guess - truth) ** 2, -1) / jnp.sum(truth**2, -1)


class Solved(NamedTuple):
    """What a process makes of references.

    Attributes:
        u: The law of the solution, at the points of the references.
        z_mean: Mean of the law of the parameters, given the solution.
        z_scale: Its standard deviation.
    """

    u: Moments
    z_mean: Float[Array, "problems z"]
    z_scale: Float[Array, "problems z"]


@eqx.filter_jit
def solve_references(rgnp: RGNP, references: References, *, key: Key[Array, ""]) -> Solved:
    """Solves every problem forward, and inversely from its reference, on a grid of its own.

    The inverse map reads the reference at those of its points that are next to the grid.

    Args:
        rgnp: The process.
        references: The problems.
        key: Draws the grids.

    Returns:
        The laws of u and z, with a leading axis of the problems.
    """
    points = jnp.asarray(references.points)

    def one(key: Key[Array, ""], z: Array, w: Array, u: Array) -> Solved:
        x = ppgen.seed(lambda: ppgen.draw(rgnp.grids()))(key)
        nearest = jnp.argmin(jnp.sum((x[:, None] - points) ** 2, -1), 1)
        inverse = rgnp.parameters(u[nearest], w, points[nearest])
        moments = jax.vmap(rgnp.solution(z, w, x))(points)
        return Solved(moments, inverse.mean, jnp.sqrt(inverse.variance))

    keys = jax.random.split(key, len(references.z))
    return jax.vmap(one)(keys, *map(jnp.asarray, (references.z, references.w, references.u)))


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
    # Where the conditions fix u, it has no variance, and is right up to rounding.
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
