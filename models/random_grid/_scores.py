"""How well a random grid neural process solves problems whose solutions are known."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

import ppgen
from ppgen.models.random_grid._problem import AbstractProblem
from ppgen.models.random_grid._process import RGNP
from ppgen.models.random_grid._programs import Observations


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
        coverage_u: Share of the points at which u is within two standard deviations of the mean.
        coverage_z: Share of the parameters, likewise. A calibrated law covers .954.
    """

    nse_u: Float[np.ndarray, " problems"]
    nse_z: Float[np.ndarray, " problems"]
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


def score(rgnp: RGNP, references: References, *, key: Key[Array, ""]) -> Scores:
    """Solves every problem forward, and inversely from its reference, on a grid of its own.

    The inverse map reads the reference at those of its points that are next to the grid.

    Args:
        rgnp: The process.
        references: The solutions.
        key: Draws the grids.

    Returns:
        The figures.
    """
    points = jnp.asarray(references.points)

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(None, 0, 0, 0, 0))
    def one(rgnp: RGNP, key: Key[Array, ""], z: Array, w: Array, u: Array) -> Scores:
        x = ppgen.seed(lambda: ppgen.draw(rgnp.grids()))(key)
        law = jax.vmap(rgnp.solution(z, w, x))(points)
        apart = jnp.sum((x[:, None] - points) ** 2, -1)
        nearest = jnp.argmin(apart, 1)
        inverse = rgnp.parameters(u[nearest], w, points[nearest])
        prior = rgnp.problem.parameters()
        scale = jnp.sqrt(prior.variance)
        # At the ends law and solution are both fixed, and agree up to rounding.
        inside = law.variance() > 1e-4 * law.variance().max()
        covered = jnp.abs(law.mean - u) <= 2 * jnp.sqrt(law.variance())
        return Scores(
            normalized_squared_error(law.mean.ravel(), u.ravel()),
            normalized_squared_error((inverse.mean - prior.mean) / scale, (z - prior.mean) / scale),
            jnp.mean(covered, where=inside),
            jnp.mean(jnp.abs(inverse.mean - z) <= 2 * jnp.sqrt(inverse.variance)),
        )

    keys = jax.random.split(key, len(references.z))
    parts = [jnp.asarray(part) for part in (references.z, references.w, references.u)]
    return Scores(*map(np.asarray, one(rgnp, keys, *parts)))
