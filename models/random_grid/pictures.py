"""Pictures of the solutions of a random grid neural process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ppgen.models.parts.pictures import draw_bands, draw_curves, draw_samples
from ppgen.models.parts.recipe import Picture
from ppgen.models.parts.runs import each_of
from ppgen.models.random_grid.model import rgnp_guide
from ppgen.models.random_grid.process import RGNP
from ppgen.models.random_grid.references import References
from ppgen.models.random_grid.scores import solved


def solutions_picture(rgnp: RGNP) -> Picture:
    """Solutions, mean and two standard deviations, next to their references.

    They are drawn along the first coordinate; further coordinates are at the middle of the box.

    Args:
        rgnp: The process.

    Returns:
        A picture of references, each with a panel for each field.
    """

    def program(reference: References) -> dict[str, Array]:
        law = solved(rgnp, reference).u
        deviation = jnp.sqrt(law.variance())
        return reference._asdict() | {"mean": law.mean, "deviation": deviation}

    def draw(path: Path, drawn: dict[str, np.ndarray], title: str) -> None:
        points, curves = drawn["points"][0], [drawn[k] for k in ("u", "mean", "deviation")]
        others = points[:, 1:]
        middle = np.median(np.unique(others, axis=0), axis=0) if others.size else np.zeros(0)
        apart = np.abs(others - middle).sum(1)
        line = np.flatnonzero(apart == apart.min())
        line = line[np.argsort(points[line, 0])]
        fields = range(rgnp.problem.fields)
        panels = [
            (f"problem {i + 1}", *(curve[i, line, field] for curve in curves))
            for i in range(len(curves[0]))
            for field in fields
        ]
        columns = 4 if len(fields) == 1 else len(fields)
        draw_bands(path, points[line, 0], panels, title=title, columns=columns)

    title = f"{_name(rgnp)}: solutions on random grids of {rgnp.points} points"
    return Picture(title, program, draw, most=8)


def functions_picture(rgnp: RGNP) -> Picture:
    """Solutions of random problems: one draw each, without white noise.

    Curves on a line; in the plane images of the first field, dark where it is high.

    Args:
        rgnp: The process.

    Returns:
        A picture whose program takes no argument, and draws a problem, a grid and a solution.
    """
    low, high = rgnp.problem.low, rgnp.problem.high
    axes = [
        np.linspace(*ends, 101 if len(low) == 1 else 24) for ends in zip(low, high, strict=True)
    ]
    points = jnp.asarray(np.stack(np.meshgrid(*axes), -1).reshape(-1, len(low)), jnp.float32)

    def program() -> Float[Array, " points"]:
        z, w, x, common, _ = rgnp_guide(rgnp)
        law = jax.vmap(rgnp.solution(z, w, x))(points)
        return law.at(common, jnp.zeros_like(law.mean))[:, 0]

    def draw(path: Path, u: Float[np.ndarray, "n points"], title: str) -> None:
        if len(low) == 1:
            draw_curves(path, axes[0], u, title=title)
            return
        # The last coordinate goes up.
        images = u.reshape(len(u), len(axes[1]), len(axes[0]))[:, ::-1]
        images = (images - images.min()) / (np.ptp(images) + 1e-9)
        draw_samples(path, images, top=1, title=title)

    return Picture(f"{_name(rgnp)}: solutions of random problems", program, draw)


def draw_solutions(
    path: str | Path, rgnp: RGNP, references: References, *, key: Key[Array, ""], most: int = 8
) -> None:
    """Writes `solutions_picture`.

    Args:
        path: The PNG file.
        rgnp: The process.
        references: The problems and their solutions.
        key: Draws the grids.
        most: Problems to show.
    """
    shown = jax.tree.map(lambda x: x[:most], references.each())
    _write(path, solutions_picture(rgnp), shown, key)


def draw_functions(path: str | Path, rgnp: RGNP, count: int, *, key: Key[Array, ""]) -> None:
    """Writes `functions_picture`.

    Args:
        path: The PNG file.
        rgnp: The process.
        count: Problems to draw.
        key: Draws problems, grids and solutions.
    """
    _write(path, functions_picture(rgnp), count, key)


def _write(path: str | Path, picture: Picture, rows: Any, key: Key[Array, ""]) -> None:
    picture.draw(Path(path), each_of(picture.program, rows, key=key), picture.title)


def _name(rgnp: RGNP) -> str:
    return type(rgnp.problem).__name__
