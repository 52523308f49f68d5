"""Exact laws of walks, by dynamic programming over the listed states of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ppgen.claims import claims
from ppgen.inference.gflownets._dags import AbstractListedDag, State
from ppgen.inference.gflownets._policies import Energy, Policy, log_backward, log_forward


@claims("exact", "the law of the ends of walks")
def terminal_law(dag: AbstractListedDag, policy: Policy) -> Callable[..., Float[Array, " states"]]:
    """The law of the object that a policy makes, *exact*: by dynamic programming over all states.

    Its cost is that of `longest` passes over the edges of the graph, whatever the number of walks.
    It is differentiable, and double precision where the logits are.

    Args:
        dag: a graph whose states can be listed.
        policy: its forward kernel.

    Returns:
        A function `(params, *context)` to a probability for each of `dag.states()`, zero where a
        state is not terminal.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ppgen.inference import Hypergrid, Policy, terminal_law
        >>> dag = Hypergrid(2, 2)
        >>> law = terminal_law(dag, Policy())()
        >>> ends = jax.vmap(dag.is_terminal)(dag.states())
        >>> [round(float(p), 3) for p in law[ends]]
        [0.333, 0.167, 0.167, 0.333]
    """

    def law(params: Any = None, *context: Any) -> Float[Array, " states"]:
        states = _listed(dag)
        terminal, children, edges = _edges(dag)
        each = jax.vmap(lambda s: jnp.exp(log_forward(dag, policy, params, s, context)))(states)
        moves = jnp.where(edges, each, 0.0)
        mass = jnp.zeros(len(terminal), moves.dtype).at[dag.index(dag.source())].set(1.0)

        def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            mass, ended = carry
            moved = jnp.zeros_like(mass).at[children].add(mass[:, None] * moves)
            return (jnp.where(terminal, 0.0, moved), ended + jnp.where(terminal, moved, 0.0)), None

        ended = jnp.where(terminal, mass, 0.0)
        begun = (jnp.where(terminal, 0.0, mass), ended)
        return jax.lax.scan(step, begun, None, length=dag.longest)[0][1]

    return law


@claims("exact", "the law of objects in proportion to their rewards")
def target_law(dag: AbstractListedDag, energy: Energy) -> Float[Array, " states"]:
    """The law exp(-E)/Z of objects, *exact*: a probability for each of `dag.states()`.

    Args:
        dag: a graph whose states can be listed.
        energy: of a terminal state, in nats.
    """
    states = _listed(dag)
    terminal = jax.vmap(dag.is_terminal)(states)
    energies = jax.vmap(lambda s: jnp.asarray(energy(s), float))(states)
    return jax.nn.softmax(jnp.where(terminal, -energies, -jnp.inf))


@claims("exact", "the log flows of the optimum")
def optimal_log_flows(
    dag: AbstractListedDag, policy: Policy, energy: Energy
) -> Callable[..., Float[Array, " states"]]:
    r"""The log flows that balance an energy, *exact*: by recursion from the ends backwards.

    .. math:: F(s) = \sum_{s'} F(s')\, P_B(s \mid s'), \qquad F(x) = e^{-E(x)}.

    The flow of the source is Z. A policy that takes an action with probability in proportion to the
    flow that it leads to, times :math:`P_B` back, makes objects with the law exp(-E)/Z.

    Args:
        dag: a graph whose states can be listed.
        policy: its backward kernel.
        energy: of a terminal state, in nats; infinite where there must be none.

    Returns:
        A function `(params, *context)` to the log flow of each of `dag.states()`.
    """

    def flows(params: Any = None, *context: Any) -> Float[Array, " states"]:
        states = _listed(dag)
        terminal, children, edges = _edges(dag)
        actions = jnp.arange(dag.actions)
        undone = jax.vmap(lambda s: jax.vmap(lambda a: dag.undo(s, a))(actions))(states)
        each = jax.vmap(lambda s: log_backward(dag, policy, params, s, context))(states)
        back = jnp.where(edges, each[children, jnp.where(edges, undone, 0)], -jnp.inf)
        energies = jax.vmap(lambda s: jnp.asarray(energy(s), float))(states)
        ends = jnp.where(terminal, -energies, -jnp.inf)

        def step(flow: Array, _: None) -> tuple[Array, None]:
            return jnp.where(terminal, ends, jax.nn.logsumexp(flow[children] + back, 1)), None

        return jax.lax.scan(step, ends, None, length=dag.longest)[0]

    return flows


def _listed(dag: AbstractListedDag) -> State:
    """All states, hidden from XLA's constant folding, which would take longer than the rest."""
    return jax.lax.optimization_barrier(dag.states())


def _edges(
    dag: AbstractListedDag,
) -> tuple[Bool[Array, " n"], Int[Array, "n a"], Bool[Array, "n a"]]:
    """Which states are terminal; where each action of each state leads to; which ones there are."""
    states, actions = _listed(dag), jnp.arange(dag.actions)
    terminal = jax.vmap(dag.is_terminal)(states)
    allowed = jax.vmap(dag.allowed)(states) & ~terminal[:, None]
    children = jax.vmap(lambda s: jax.vmap(lambda a: dag.index(dag.step(s, a)))(actions))(states)
    return terminal, jnp.where(allowed, children, 0), allowed
