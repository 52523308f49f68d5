"""A generative flow network: a policy and its flows from one perceptron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ppgen import inference
from ppgen.models.gflownet.tasks import Task

SCALE = 10.0
"""log Z moves this much faster than weights, as it has a longer way to go."""


class FlowNetwork(eqx.Module):
    """Logits of the actions and the log flow of a state. Final.

    Attributes:
        body: from the features of a state.
        source: log Z, by `SCALE`.
    """

    body: eqx.nn.MLP
    source: Float[Array, ""]

    def __init__(
        self, features: int, actions: int, hidden: int, depth: int, *, key: Key[Array, ""]
    ) -> None:
        self.body = eqx.nn.MLP(features, actions + 1, hidden, depth, jax.nn.leaky_relu, key=key)
        self.source = jnp.zeros(())

    def logits(self, features: Float[Array, " f"]) -> Float[Array, " actions"]:
        """Of the actions."""
        return self.body(features)[:-1]

    def log_flow(self, features: Float[Array, " f"]) -> Float[Array, ""]:
        """Of a state, relative to log Z."""
        return self.body(features)[-1] + self.log_z()

    def log_z(self) -> Float[Array, ""]:
        """Of the source, where no other flow is learned."""
        return SCALE * self.source


def gflownet_policy(task: Task, objective: str) -> inference.Policy:
    """The policy that an objective trains.

    Args:
        task: the graph, and the energies that `"fl"` is told.
        objective: `"tb"` has one flow, log Z; `"fl"` a forward-looking flow; others that of each
            state.
    """
    see = task.dag.features
    each: Callable[..., Any] = lambda net, s: net.log_flow(see(s))  # noqa: E731
    flows = {
        "tb": lambda net, s: net.log_z(),
        "fl": inference.forward_looking(each, task.energy),
    }
    return inference.Policy(lambda net, s: net.logits(see(s)), log_flow=flows.get(objective, each))


def gflownet_loss(
    task: Task, objective: str, *, epsilon: float = 0.0, decay: float = 0.9, cut: int = 0
) -> Callable[..., Float[Array, ""]]:
    """The loss of an objective, *unbiased* for its mean over walks of the behaviour.

    Args:
        task: what is to be made.
        objective: `"tb"`, `"db"`, `"subtb"` or `"fl"`: trajectory, detailed or sub-trajectory
            balance, or detailed balance of forward-looking flows.
        epsilon: share of uniform actions.
        decay: λ of `"subtb"`.
        cut: walks are cut after 1 to `cut` steps, at random; 0 for whole walks.

    Returns:
        A function of a `FlowNetwork`: one draw.
    """
    over: Any = {"tb": "trajectory", "subtb": decay}.get(objective, "transition")
    return inference.balance(
        task.dag,
        gflownet_policy(task, objective),
        task.energy,
        over=over,
        behaviour=inference.epsilon_uniform(epsilon) if epsilon else None,
        truncate=dist.DiscreteUniform(1, cut) if cut else None,
    )


def total_variation(task: Task, policy: inference.Policy, params: Any) -> Float[Array, ""]:
    """Half the sum of absolute differences between a policy's law and the target: *exact*."""
    law = inference.terminal_law(task.dag, policy)(params)
    return 0.5 * jnp.sum(jnp.abs(law - inference.target_law(task.dag, task.energy)))
