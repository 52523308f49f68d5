"""Problems with numerical solutions: to score a process on, and to observe."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ppgen.models.parts.data import fingerprint
from ppgen.models.random_grid.model import Observations
from ppgen.models.random_grid.problem import AbstractProblem


class References(NamedTuple):
    """Problems and their numerical solutions, at points that all of them share.

    Programs read one row of `each`, in which no array is shared.

    Attributes:
        z: Parameters of the equation.
        w: Conditions.
        points: The points of a fine grid.
        u: The solutions there.
    """

    z: Float[np.ndarray, "problems z"]
    w: Float[np.ndarray, "problems w"]
    points: Float[np.ndarray, "nodes d"]
    u: Float[np.ndarray, "problems nodes fields"]

    def each(self) -> References:
        """As rows of data: every array has a leading axis of the problems."""
        shape = (len(self.z), *self.points.shape[-2:])
        return self._replace(points=jnp.broadcast_to(self.points, shape))


class Problems(NamedTuple):
    """Problems with their solutions: see `ppgen.models.parts.recipe.Dataset`.

    Attributes:
        solved: Problems solved by finite differences, for figures.
        seen: Observed problems, if any.
        observations: Their observations.
    """

    solved: References
    seen: References | None = None
    observations: Observations | None = None

    @property
    def train(self) -> References | None:
        """The problems that are observed, one by one."""
        return None if self.seen is None else self.seen.each()

    @property
    def held_out(self) -> References:
        """The solved ones, one by one."""
        return self.solved.each()

    def facts(self) -> dict[str, Any]:
        """A fingerprint, because solutions depend on the version of the solver too."""
        return {"sha256": fingerprint(self)}


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


def load_problems(
    problem: AbstractProblem,
    *,
    held_out: int = 64,
    observed: int = 0,
    observations: int = 30,
    noise: float = 0.01,
) -> Problems:
    """Problems and numerical solutions: always the same ones.

    Args:
        problem: The equation.
        held_out: Problems to solve for figures.
        observed: Other problems, to observe.
        observations: Points at which each of them is.
        noise: Standard deviation of the noise of an observation.

    Returns:
        The data.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    solved = draw_references(problem, held_out, key=keys[0])
    if not observed:
        return Problems(solved)
    seen = draw_references(problem, observed, key=keys[1])
    return Problems(solved, seen, observe(seen, observations, noise=noise, key=keys[2]))
