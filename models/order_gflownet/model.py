"""Points of a grid with several scores, and policies for the best trade-offs among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float, Key

import ppgen
from ppgen import inference
from ppgen.inference import Hypergrid, Policy


class OrderTask(eqx.Module):
    """A grid of the unit square, with Branin's function, negated, and Currin's as scores. Final.

    There are no rows of data.

    Attributes:
        dag: the grid, of two dimensions.
    """

    dag: Hypergrid
    train: None = None
    held_out: None = None

    def facts(self) -> dict[str, Any]:
        """The size of the grid: see `Dataset`."""
        return {"side": self.dag.side}

    def scores(self, state: Any) -> Float[Array, " 2"]:
        """Of a point, each scaled to values from about 0 to 1; larger is better."""
        u, v = state.position / max(self.dag.side - 1, 1)
        x, y = 15 * u - 5, 15 * v
        bowl = (y - 5.1 * x**2 / (4 * jnp.pi**2) + 5 * x / jnp.pi - 6) ** 2
        branin = bowl + 10 * (1 - 1 / (8 * jnp.pi)) * jnp.cos(x) + 10
        # At v = 0 the first factor is 1, its limit.
        factor = 1 - jnp.where(v > 0, jnp.exp(-1 / (2 * jnp.where(v > 0, v, 1.0))), 0.0)
        above = 2300 * u**3 + 1900 * u**2 + 2092 * u + 60
        currin = factor * above / (100 * u**3 + 500 * u**2 + 4 * u + 20)
        return jnp.stack([1 - branin / 308.13, currin / 13.8])

    def front(self) -> Bool[Array, " objects"]:
        """Which objects no other one dominates."""
        return inference.nondominated(self.all_scores())

    def all_scores(self) -> Float[Array, "objects 2"]:
        """The scores of all objects, which come last among the states."""
        return jax.vmap(self.scores)(self.dag.states())[self.dag.side**self.dag.dimensions :]


class OrderNetwork(eqx.Module):
    """Logits of the actions of a point, and log Z if it is told weights of the scores. Final.

    Attributes:
        body: from the features of a point, and weights.
        source: from weights to log Z; None without any, as orders do not need it.
    """

    body: eqx.nn.MLP
    source: eqx.nn.MLP | None

    def __init__(
        self, dag: Hypergrid, hidden: int, depth: int, *, told: int = 0, key: Key[Array, ""]
    ) -> None:
        inputs, keys = dag.side * dag.dimensions + told, jax.random.split(key)
        activation = jax.nn.leaky_relu
        self.body = eqx.nn.MLP(inputs, dag.actions, hidden, depth, activation, key=keys[0])
        told_z = lambda: eqx.nn.MLP(told, "scalar", hidden, 1, activation, key=keys[1])  # noqa: E731
        self.source = told_z() if told else None


def order_policy(dag: Hypergrid) -> Policy:
    """The policy that orders train; it has no flow, as Z does not matter."""
    return Policy(lambda net, state: net.body(dag.features(state)))


def weighed_policy(dag: Hypergrid) -> Policy:
    """The policy of a baseline, which is told how to weigh the scores."""

    def forward(net: OrderNetwork, state: Any, weights: Any) -> Float[Array, " actions"]:
        return net.body(jnp.append(dag.features(state), weights))

    def log_z(net: OrderNetwork, state: Any, weights: Any) -> Float[Array, ""]:
        assert net.source is not None
        return 10 * net.source(weights)

    return Policy(forward, log_flow=log_z)


def weighed_loss(task: OrderTask, beta: float, epsilon: float) -> Callable[..., Float[Array, ""]]:
    """The loss of the baseline: *unbiased* for trajectory balance, averaged over weights.

    The reward of a point is exp(β w·scores), with weights w that are uniform on the simplex.

    Args:
        task: the grid.
        beta: β.
        epsilon: share of uniform actions.
    """
    policy, explore = weighed_policy(task.dag), inference.epsilon_uniform(epsilon)

    def loss(net: OrderNetwork) -> Float[Array, ""]:
        first = jnp.asarray(ppgen.draw(dist.Uniform(), name="weight"))
        weights = jax.lax.stop_gradient(jnp.stack([first, 1 - first]))
        energy = lambda s: -beta * jnp.sum(weights * task.scores(s))  # noqa: E731
        return inference.balance(task.dag, policy, energy, behaviour=explore)(net, weights)

    return loss


class FrontScores(NamedTuple):
    """How a law does on the best trade-offs: both are 1 for the uniform law on them.

    Attributes:
        mass: the probability of the front.
        coverage: one less the total variation from the uniform law on the front.
    """

    mass: Float[Array, ""]
    coverage: Float[Array, ""]


def front_scores(task: OrderTask, law: Float[Array, " states"]) -> FrontScores:
    """The scores of a law of `terminal_law`, or of a mean of several: *exact*."""
    front = task.front()
    of_objects = law[-len(front) :]
    share = jnp.where(front, jnp.minimum(of_objects, 1 / jnp.sum(front)), 0.0)
    return FrontScores(jnp.sum(jnp.where(front, of_objects, 0.0)), jnp.sum(share))
