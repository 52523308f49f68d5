"""Pictures of a generative flow network: what it makes, and its law against the true one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppgen.inference import Policy, target_law, terminal_law, walk
from ppgen.models.gflownet.tasks import Task
from ppgen.models.parts.pictures import draw_agreement
from ppgen.models.parts.recipe import Picture, image_picture


def object_picture(title: str, task: Task, policy: Policy, params: Any) -> Picture:
    """Objects, each as an image.

    Args:
        title: what they are.
        task: draws an object as an image.
        policy: makes them.
        params: of the policy.
    """
    shape = jax.eval_shape(lambda: task.image(task.dag.source())).shape
    return image_picture(title, lambda: task.image(walk(task.dag, policy)(params).end), shape)


def law_picture(title: str, task: Task, policy: Policy, params: Any) -> Picture:
    """The probability of every object, learnt against true.

    Args:
        title: what they are.
        task: has the true law.
        policy: has the learnt one.
        params: of the policy.
    """
    ends = np.asarray(jax.vmap(task.dag.is_terminal)(task.dag.states()))

    def draw(path: Path, laws: Any, title: str) -> None:
        true, learnt = (np.log(np.maximum(law[0][ends], 1e-30)) for law in laws)
        labels = "true log probability (nats)", "learnt log probability (nats)"
        draw_agreement(path, true, learnt, labels=labels, title=title)

    def both() -> Any:
        law = terminal_law(task.dag, policy)(params)
        return jnp.asarray(target_law(task.dag, task.energy)), law

    return Picture(title, both, draw, most=1)
