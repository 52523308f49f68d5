"""The front of the best trade-offs, and what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from ppgen.inference import terminal_law
from ppgen.models.order_gflownet.model import OrderNetwork, OrderTask, order_policy
from ppgen.models.parts.recipe import Picture


def front_picture(title: str, task: OrderTask, net: OrderNetwork) -> Picture:
    """All points by their scores, the front in a circle each, and what is made in ink.

    Args:
        title: what they are.
        task: has the scores.
        net: makes points.
    """
    half = task.dag.side**task.dag.dimensions
    objects = jax.tree.map(lambda x: x[half:], task.dag.states())
    scores, front = np.asarray(jax.vmap(task.scores)(objects)), np.asarray(task.front())

    def draw(path: Path, laws: Any, title: str) -> None:
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.scatter(*scores.T, s=4, color="lightgrey")
        axes.scatter(*scores[front].T, s=40, facecolors="none", edgecolors="tab:orange")
        axes.scatter(*scores.T, s=400 * laws[0][half:], color="tab:blue", alpha=0.7, linewidths=0)
        axes.set_xlabel("Branin, negated")
        axes.set_ylabel("Currin")
        axes.set_title(title)
        figure.savefig(path, dpi=150)

    return Picture(title, lambda: terminal_law(task.dag, order_policy(task.dag))(net), draw, 1)
