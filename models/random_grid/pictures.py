"""Pictures of the solutions of a random grid neural process."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

import ppgen
from ppgen.models.parts.pictures import draw_bands, draw_curves, draw_samples
from ppgen.models.random_grid.model import rgnp_guide
from ppgen.models.random_grid.process import RGNP
from ppgen.models.random_grid.scores import References, solve_references


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


def draw_functions(path: str | Path, rgnp: RGNP, count: int, *, key: Key[Array, ""]) -> None:
    """Writes solutions of random problems: of each a draw, without its white noise.

    Curves on a line; in the plane images of the first field, dark where it is high.

    Args:
        path: The PNG file.
        rgnp: The process.
        count: How many.
        key: Draws problems, grids and solutions.
    """
    low, high = rgnp.problem.low, rgnp.problem.high
    axes = [
        np.linspace(*ends, 101 if len(low) == 1 else 24) for ends in zip(low, high, strict=True)
    ]
    points = jnp.asarray(np.stack(np.meshgrid(*axes), -1).reshape(-1, len(low)), jnp.float32)

    @eqx.filter_jit
    def draw(keys: Key[Array, " n"], rgnp: RGNP) -> Float[Array, "n points"]:
        def one(key: Key[Array, ""]) -> Array:
            z, w, x, common, _ = ppgen.seed(rgnp_guide)(key, rgnp)
            law = jax.vmap(rgnp.solution(z, w, x))(points)
            return law.at(common, jnp.zeros_like(law.mean))[:, 0]

        return jax.lax.map(one, keys)

    u = np.asarray(draw(jax.random.split(key, count), rgnp))
    title = f"{type(rgnp.problem).__name__}: solutions of {count} random problems"
    if len(low) == 1:
        draw_curves(path, axes[0], u, title=title)
        return
    # The last coordinate goes up.
    images = u.reshape(count, len(axes[1]), len(axes[0]))[:, ::-1]
    images = (images - images.min()) / (np.ptp(images) + 1e-9)
    draw_samples(path, images, top=1, title=title)
