"""Walks from the source of a graph to an object, as programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

import ppgen
from ppgen.annotations import Program
from ppgen.inference.gflownets._dags import AbstractDag, State
from ppgen.inference.gflownets._policies import (
    Behaviour,
    Energy,
    Policy,
    log_backward,
    log_forward,
    masked_log_softmax,
)


class Route(NamedTuple):
    """One walk: what `walk` returns.

    Attributes:
        states: the states, the source first, with a leading axis of `longest + 1`. After the end
            they stay there.
        actions: the actions, `(longest,)`; 0 after the end.
        end: the last state: the object.
        length: the number of steps.
    """

    states: State
    actions: Int[Array, " t"]
    end: State
    length: Int[Array, ""]


class Walk(eqx.Module):
    """A program of one walk: see `walk`. Final.

    Attributes:
        dag: the graph.
        policy: its forward kernel draws the actions.
        behaviour: changes the law by which they are drawn.
    """

    dag: AbstractDag
    policy: Policy
    behaviour: Behaviour | None = None

    def move(self, state: State, t: Any = None, params: Any = None, *context: Any) -> State:
        """One step, as a program: the next state. A terminal state stays where it is.

        Its arguments are in the order in which `smc` gives them; `t` does not matter.
        """
        return self._move(state, params, context)[0]

    def __call__(self, params: Any = None, *context: Any) -> Route:
        """Walk from the source to an object. It draws."""
        source = jax.tree.map(jnp.asarray, self.dag.source())
        if self.dag.longest == 0:
            states = jax.tree.map(lambda x: x[None], source)
            return Route(states, jnp.zeros(0, int), source, jnp.zeros((), int))

        def body(state: State, _: None) -> tuple[State, tuple[State, Array]]:
            after, action = self._move(state, params, context)
            return after, (after, action)

        end, (rest, actions) = jax.lax.scan(body, source, None, length=self.dag.longest)
        states = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), source, rest)
        return Route(states, actions, end, jnp.sum(~jax.vmap(self.dag.is_terminal)(states)))

    def _move(self, state: State, params: Any, context: Any) -> tuple[State, Array]:
        logits = log_forward(self.dag, self.policy, params, state, context)
        if self.behaviour is not None:
            held = jax.lax.stop_gradient(logits)
            drawn = jax.lax.stop_gradient(self.behaviour(held, state))
            logits = masked_log_softmax(drawn, logits > -jnp.inf)
        # NumPyro's validation would refuse logits of -inf, which are meant.
        law: Any = dist.Categorical(logits=logits, validate_args=False)
        action = jnp.asarray(numpyro.sample("action", law))
        # Where enumeration tries what is not allowed, there is nowhere to go either.
        stay = self.dag.is_terminal(state) | ~self.dag.allowed(state)[action]
        after = self.dag.step(state, action)
        kept = jax.tree.map(
            lambda old, new: jnp.where(stay, old, new).astype(old.dtype), state, after
        )
        return kept, action


def walk(dag: AbstractDag, policy: Policy, *, behaviour: Behaviour | None = None) -> Walk:
    r"""A program that makes an object: a walk from the source of a graph to a terminal state.

    Its sites are `"action"`, in a `jax.lax.scan` over `dag.longest` steps. After the end of a walk
    the action is 0, with probability one, so that the density is that of the walk. As a program it
    is scored, tilted, curated and filtered; its density sums to one over all walks, *exactly*.

    Args:
        dag: the graph.
        policy: its forward kernel.
        behaviour: `(log_probs, state) -> logits`, from what the policy says to what is drawn by:
            `epsilon_uniform`, or a temperature. It may not allow what the policy forbids. *No
            derivative* flows through it, nor through the policy then: walks that are drawn by a
            behaviour are data.

    Returns:
        A program `(params, *context) -> Route`. Its `move` is the program of one step, for `smc`.

    Example:
        Of three objects made by one decision each, the policy makes the last one half the time:

        >>> import jax, jax.numpy as jnp, ppgen
        >>> from ppgen.inference import Policy, TableDag, walk
        >>> dag = TableDag([[1, 2, 3], [-1] * 3, [-1] * 3, [-1] * 3])
        >>> policy = Policy(lambda params, state: params)
        >>> program, logits = walk(dag, policy), jnp.log(jnp.array([0.2, 0.3, 0.5]))
        >>> print(f"{jnp.exp(ppgen.log_density(program)({'action': jnp.array([2])}, logits)):.2f}")
        0.50
    """
    return Walk(dag, policy, behaviour)


def backward_walk(dag: AbstractDag, policy: Policy, energy: Energy) -> Program:
    r"""The unnormalised program of walks that the backward kernel makes of the target.

    .. math:: p(\tau) = e^{-E(x)} \prod_t P_B(s_t \mid s_{t+1}), \qquad \sum_\tau p(\tau) = Z
              = \sum_x e^{-E(x)},

    where x is the end of the walk τ. It has the sites of `walk`, which is its guide:
    `elbo(backward_walk(dag, policy, energy), walk(dag, policy))` is a lower bound on log Z. Its
    gradient for the forward kernel is minus half that of trajectory balance on policy.

    Args:
        dag: the graph.
        policy: its backward kernel.
        energy: of a terminal state, in nats.

    Returns:
        A program `(params, *context) -> Route`: a tilt of the uniform walk.

    References:
        Malkin, Lahlou, Deleu, Ji, Hu, Everett, Zhang, Bengio. GFlowNets and variational inference.
        ICLR 2023.
    """

    def program(params: Any = None, *context: Any) -> Route:
        def cost(route: Route) -> Any:
            uniform, backward = log_kernels(
                dag, policy._replace(forward=None), params, route, context
            )
            return energy(route.end) + jnp.sum(uniform - backward)

        return ppgen.tilt(Walk(dag, Policy()), cost)(params, *context)

    return program


def log_kernels(
    dag: AbstractDag, policy: Policy, params: Any, route: Route, context: tuple[Any, ...] = ()
) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
    """Log probabilities of each step of a walk, forward and backward; zero after its end."""
    before = jax.tree.map(lambda x: x[:-1], route.states)
    after = jax.tree.map(lambda x: x[1:], route.states)
    # What is not allowed has probability zero: whatever it costs, it must be finite.
    legal = jnp.take_along_axis(jax.vmap(dag.allowed)(before), route.actions[:, None], 1)[:, 0]
    within = (jnp.arange(dag.longest) < route.length) & legal

    def chosen(rows: Array, places: Array) -> Array:
        values = jnp.take_along_axis(rows, places[:, None], 1)[:, 0]
        return jnp.where(within, values, jnp.zeros((), values.dtype))

    def each(kernel: Callable[..., Array], states: State) -> Array:
        return jax.vmap(lambda s: kernel(dag, policy, params, s, context))(states)

    back = jnp.where(within, jax.vmap(dag.undo)(before, route.actions), 0)
    return chosen(each(log_forward, before), route.actions), chosen(each(log_backward, after), back)
