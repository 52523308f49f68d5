"""A policy that reaches the outcome that it is told, and what it becomes for a reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Float, Key

from ppgen import inference
from ppgen.inference import Hypergrid, Point, Policy

PATIENCE = -2.0
"""The logit of the end in a walk that explores; those of steps are 0."""


class OutcomeTask(eqx.Module):
    """A grid, and a reward on it that pre-training does not see; there are no rows of data. Final.

    Attributes:
        dag: the grid.
        floor: the least reward.
    """

    dag: Hypergrid
    floor: float = eqx.field(static=True, default=0.01)
    train: None = None
    held_out: None = None

    def facts(self) -> dict[str, Any]:
        """The size of the grid: see `Dataset`."""
        return {"side": self.dag.side, "dimensions": self.dag.dimensions}

    def outcomes(self) -> Point:
        """All objects."""
        half = self.dag.side**self.dag.dimensions
        return jax.tree.map(lambda x: x[half:], self.dag.states())

    def log_rewards(self) -> Float[Array, " outcomes"]:
        """Of all objects: a mode near each corner, and little between."""
        off = jnp.abs(self.outcomes().position / max(self.dag.side - 1, 1) - 0.5)
        outer, ring = jnp.all(off > 0.25, -1), jnp.all((off > 0.3) & (off < 0.4), -1)
        return jnp.log(self.floor + 0.5 * outer + 2.0 * ring)


class OutcomeFlows(eqx.Module):
    """Logits of the actions and the log flow of a state, given an outcome. Final."""

    body: eqx.nn.MLP

    def __init__(self, dag: Hypergrid, hidden: int, depth: int, *, key: Key[Array, ""]) -> None:
        inputs = 2 * dag.side * dag.dimensions
        self.body = eqx.nn.MLP(inputs, dag.actions + 1, hidden, depth, jax.nn.leaky_relu, key=key)


class Amortiser(eqx.Module):
    """Log N of every action of a state, and which outcomes it serves: log Q. Final."""

    body: eqx.nn.MLP

    def __init__(self, dag: Hypergrid, hidden: int, depth: int, *, key: Key[Array, ""]) -> None:
        inputs, outcomes = dag.side * dag.dimensions, dag.side**dag.dimensions
        outputs = dag.actions * (1 + outcomes)
        self.body = eqx.nn.MLP(inputs, outputs, hidden, depth, jax.nn.leaky_relu, key=key)

    def __call__(
        self, dag: Hypergrid, state: Point
    ) -> tuple[Float[Array, " actions"], Float[Array, "actions outcomes"]]:
        """Evaluate both."""
        out = self.body(dag.features(state)).reshape(dag.actions, -1)
        return out[:, 0], jax.nn.log_softmax(out[:, 1:], -1)


class OutcomeStages(NamedTuple):
    """What is learned without a reward, and what is learned of it for one."""

    flows: OutcomeFlows
    amortiser: Amortiser


def outcome_policy(dag: Hypergrid) -> Policy:
    """The policy that is told an outcome; its parameters are `OutcomeFlows`."""

    def both(net: OutcomeFlows, state: Any, outcome: Any) -> Float[Array, " n"]:
        return net.body(jnp.concatenate([dag.features(state), dag.features(outcome)]))

    return Policy(lambda *args: both(*args)[:-1], log_flow=lambda *args: both(*args)[-1])


def patient_walk(dag: Hypergrid) -> inference.Walk:
    """The program of a walk that goes far before it ends."""
    logits = jnp.zeros(dag.actions).at[-1].set(PATIENCE)
    return inference.walk(dag, Policy(lambda params, state: logits))


def outcome_loss(
    dag: Hypergrid, *, failure: float, over: Any = 0.9, contrast: bool = True
) -> Callable[..., Float[Array, ""]]:
    """The loss of pre-training: *unbiased* for the balance of two kinds of walks.

    An outcome is where a patient walk ends, so that far ones are seen too. Reaching it is worth 1,
    and any other end `failure`. Half of the loss is of that walk, which does reach it; the other
    half is of a walk of the policy, which is told to reach it and may fail.

    Args:
        dag: the grid.
        over: as for `ppgen.inference.balance`.
        failure: the reward of other ends, which bounds what `adapted` can resolve.
        contrast: whether there is the second half.
    """
    policy, explore = outcome_policy(dag), inference.epsilon_uniform(0.1)

    def loss(net: OutcomeFlows) -> Float[Array, ""]:
        found = patient_walk(dag)()

        def energy(end: Any) -> Float[Array, ""]:
            reached = jnp.all(end.position == found.end.position)
            return jnp.where(reached, 0.0, -jnp.log(failure))

        options: dict[str, Any] = {"over": over}
        given = inference.imbalance(dag, policy, energy, **options)(found, net, found.end)
        if not contrast:
            return given
        told = inference.balance(dag, policy, energy, behaviour=explore, **options)
        with numpyro.handlers.scope(prefix="told"):
            return 0.5 * (given + told(net, found.end))

    return loss


def amortiser_loss(task: OutcomeTask) -> Callable[..., Float[Array, ""]]:
    r"""The loss of a network that takes the place of the sum over outcomes.

    .. math:: \log N(s, a) + \log Q(y \mid s, a) = \log r(y) + \log F(s, a \mid y) \quad
              \text{for all } y,

    so that N is the sum. The squared difference is averaged over y as flows are, along patient
    walks: *unbiased* for that mean.
    """
    dag, told = task.dag, edge_flows(task)

    def loss(model: OutcomeStages) -> Float[Array, ""]:
        route = patient_walk(dag)()

        def at(state: Any) -> Float[Array, ""]:
            log_n, log_q = model.amortiser(dag, state)
            allowed = dag.allowed(state)
            wanted = jax.lax.stop_gradient(told(model.flows, state))
            # What is not allowed has no flow, and must be finite where it is not selected.
            wanted = jnp.where(allowed[:, None], wanted, 0.0)
            weights = jax.nn.softmax(wanted, -1)
            gaps = jnp.sum(weights * (log_n[:, None] + log_q - wanted) ** 2, -1)
            return jnp.sum(jnp.where(allowed, gaps, 0.0))

        going = ~jax.vmap(dag.is_terminal)(route.states)
        return jnp.sum(jnp.where(going, jax.vmap(at)(route.states), 0.0)) / route.length

    return loss


def edge_flows(task: OutcomeTask) -> Callable[..., Float[Array, "actions outcomes"]]:
    """Log flows of the actions of a state towards each outcome, times its reward."""
    dag, policy = task.dag, outcome_policy(task.dag)

    def flows(net: OutcomeFlows, state: Any) -> Float[Array, "actions outcomes"]:
        def towards(y: Any, log_reward: Any) -> Float[Array, " actions"]:
            assert policy.forward is not None and policy.log_flow is not None
            logits = jnp.where(dag.allowed(state), policy.forward(net, state, y), -jnp.inf)
            return log_reward + policy.log_flow(net, state, y) + jax.nn.log_softmax(logits)

        return jax.vmap(towards)(task.outcomes(), task.log_rewards()).T

    return flows


def adapted(task: OutcomeTask) -> Policy:
    """The policy for the reward, by the sum over all outcomes; its parameters: `OutcomeFlows`."""
    policy = outcome_policy(task.dag)
    return inference.adapt(task.dag, policy, task.outcomes(), task.log_rewards())


def amortised(task: OutcomeTask) -> Policy:
    """The policy for the reward in one pass; its parameters: an `Amortiser`."""
    return Policy(lambda net, state: net(task.dag, state)[0])


def success(task: OutcomeTask, net: OutcomeFlows) -> Float[Array, ""]:
    """How often an outcome is reached that is asked for, the mean over all: *exact*."""
    law = inference.terminal_law(task.dag, outcome_policy(task.dag))
    each = jax.vmap(lambda y: law(net, y)[task.dag.index(y)])
    return jnp.mean(each(task.outcomes()))


def total_variation(task: OutcomeTask, policy: Policy, params: Any) -> Float[Array, ""]:
    """Half the sum of absolute differences from the law of the rewards: *exact*."""
    law = inference.terminal_law(task.dag, policy)(params)
    wanted = jax.nn.softmax(task.log_rewards())
    return 0.5 * jnp.sum(jnp.abs(law[-len(wanted) :] - wanted))
