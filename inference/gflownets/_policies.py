"""Policies: what is learned about the edges and the states of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ppgen.inference.gflownets._dags import AbstractDag, State

Energy = Callable[[State], Any]
"""Of a state, in nats: -log of the reward of an object."""

Behaviour = Callable[[Float[Array, " actions"], State], Any]
"""From the log probabilities of the policy in a state to the logits by which a walk is drawn."""


class Policy(NamedTuple):
    """A forward kernel, a backward kernel and flows on a graph, as functions of parameters.

    Each is a function `(params, state, *context)`. Logits of actions that a state does not allow
    are ignored. What there is no log flow for is a terminal state: it is minus its energy, always.

    Attributes:
        forward: the logits of the actions; None for the uniform law on what is allowed.
        backward: the logits of the backward actions; None for the uniform law on the parents. It
            must not depend on what it could not know when states are left backwards: the context
            is known.
        log_flow: the log flow of a state that is not terminal; that of the source is log Z.

    Example:
        >>> import jax, ppgen
        >>> from ppgen.inference import Hypergrid, Policy, walk
        >>> uniform = walk(Hypergrid(4, 2), Policy())
        >>> route = ppgen.seed(uniform)(jax.random.key(0))
        >>> bool(route.end.ended), int(route.length) == 1 + int(route.end.position.sum())
        (True, True)
    """

    forward: Callable[..., Any] | None = None
    backward: Callable[..., Any] | None = None
    log_flow: Callable[..., Any] | None = None


def log_forward(
    dag: AbstractDag, policy: Policy, params: Any, state: State, context: tuple[Any, ...] = ()
) -> Float[Array, " actions"]:
    """Log probabilities of the actions in a state.

    A terminal state has one action, the first, which leads nowhere: walks of different lengths are
    then of one shape, and their densities are what they are without it.
    """
    mask = jnp.where(dag.is_terminal(state), jnp.arange(dag.actions) == 0, dag.allowed(state))
    return masked_log_softmax(_logits(policy.forward, params, state, context, dag.actions), mask)


def log_backward(
    dag: AbstractDag, policy: Policy, params: Any, state: State, context: tuple[Any, ...] = ()
) -> Float[Array, " backward_actions"]:
    """Log probabilities of the backward actions in a state."""
    logits = _logits(policy.backward, params, state, context, dag.backward_actions)
    return masked_log_softmax(logits, dag.parents(state))


def _logits(
    function: Callable[..., Any] | None, params: Any, state: State, context: Any, number: int
) -> Float[Array, " number"]:
    if function is None:
        return jnp.zeros(number)
    return jnp.broadcast_to(jnp.asarray(function(params, state, *context), float), (number,))


def masked_log_softmax(logits: Float[Array, " n"], mask: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Log probabilities that are -inf, exactly, where the mask is false.

    Where nothing in the mask has a positive weight, the law is uniform on the mask, and on
    everything if the mask is empty: such states have probability zero, and must not make NaNs.
    """
    mask = mask | ~jnp.any(mask)
    dead = ~jnp.any(mask & (logits > -jnp.inf))
    # The value that is not selected has to be finite, else its derivative is NaN.
    logits = jnp.where(mask & ~dead, logits, jnp.zeros((), logits.dtype))
    return jax.nn.log_softmax(jnp.where(mask, logits, -jnp.inf))


def epsilon_uniform(epsilon: Any) -> Behaviour:
    """A behaviour: with probability ε a uniform action among the allowed ones, else the policy's.

    Args:
        epsilon: between 0 and 1.

    Returns:
        For `walk`, `balance` and `order_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import epsilon_uniform
        >>> logits = epsilon_uniform(0.5)(jnp.log(jnp.array([0.9, 0.1, 0.0])), None)
        >>> [round(float(p), 3) for p in jnp.exp(logits)]
        [0.7, 0.3, 0.0]
    """

    def behaviour(log_probs: Float[Array, " actions"], state: State) -> Float[Array, " actions"]:
        # An action of zero probability that is allowed is `walk`'s to keep out: it knows the mask.
        allowed = log_probs > -jnp.inf
        uniform = allowed / jnp.sum(allowed)
        return jnp.log((1 - epsilon) * jnp.exp(log_probs) + epsilon * uniform)

    return behaviour


def forward_looking(log_flow: Callable[..., Any], energy: Energy) -> Callable[..., Any]:
    r"""A log flow that knows the energy of unfinished objects.

    .. math:: \log F(s) = \log \tilde F(s) - E(s), \qquad \tilde F = 1 \text{ at terminal states}.

    Along a transition the flow then changes by the difference of energies, without waiting for the
    end of the walk: credit is local, and walks that are cut before they end teach something. The
    policy of the optimum is the same, *whatever* energy is given to unfinished objects, as that of
    terminal states is what counts. That :math:`\tilde F` is 1 there needs no care: the flow of a
    terminal state never comes from a policy.

    Args:
        log_flow: a function `(params, state, *context)`.
        energy: of any state, in nats.

    Returns:
        For `Policy.log_flow`.

    References:
        Pan, Malkin, Zhang, Bengio. Better training of GFlowNets with local credit and incomplete
        trajectories. ICML 2023.
    """

    def flow(params: Any, state: State, *context: Any) -> Any:
        return log_flow(params, state, *context) - energy(state)

    return flow
