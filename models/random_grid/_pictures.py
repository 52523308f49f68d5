"""Pictures of the solutions of a random grid neural process."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from ppgen.models.pictures import draw_bands
from ppgen.models.random_grid._process import RGNP
from ppgen.models.random_grid._scores import References, solve_references


def draw_solutions(
    path: str | Path, rgnp: RGNP, references: References, *, key: Key[Array, ""], most: int = 8
) -> None:
    """Writes solutions, mean and two standard deviations, next to their references.

    Along the first coordinate; of a problem in more dimensions, where the others are in the middle.

    Args:
        path: The PNG file.
        rgnp: The process.
        references: The problems and their solutions.
        key: Draws the grids.
        most: Problems to show, each with a panel for each field.
    """
    count = min(most, len(references.z))
    shown = References(
        references.z[:count], references.w[:count], references.points, references.u[:count]
    )
    law = solve_references(rgnp, shown, key=key).u
    mean, deviation = jax.tree.map(np.asarray, (law.mean, jnp.sqrt(law.variance())))
    others = references.points[:, 1:]
    middle = np.median(np.unique(others, axis=0), axis=0) if others.size else np.zeros(0)
    apart = np.abs(others - middle).sum(1)
    line = np.flatnonzero(apart == apart.min())
    line = line[np.argsort(references.points[line, 0])]
    panels = [
        (
            f"problem {i + 1}",
            np.asarray(shown.u)[i, line, field],
            mean[i, line, field],
            deviation[i, line, field],
        )
        for i in range(count)
        for field in range(rgnp.problem.fields)
    ]
    draw_bands(
        path,
        references.points[line, 0],
        panels,
        title=f"{type(rgnp.problem).__name__}: solutions on random grids of {rgnp.points} points",
        columns=4 if rgnp.problem.fields == 1 else rgnp.problem.fields,
    )
