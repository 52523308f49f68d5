"""Policies for a reward, out of policies that reach any outcome they are told."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppgen.claims import claims
from ppgen.inference.gflownets._balance import check_log_flow
from ppgen.inference.gflownets._dags import AbstractDag, State
from ppgen.inference.gflownets._policies import Policy, log_forward


@claims(
    "exact",
    "the mixture of flows",
    but="where the policy of each outcome is; a sum over drawn outcomes is biased in its logarithm",
)
def adapt(
    dag: AbstractDag, policy: Policy, outcomes: Any, log_rewards: Float[Array, " outcomes"]
) -> Policy:
    r"""The policy for a reward, from one that is told an outcome: without training.

    Flows add up, and so does what they are in proportion to:

    .. math:: P_F(a \mid s) = \frac{\sum_y r(y)\, F(s \mid y)\, P_F(a \mid s, y)}
                                   {\sum_y r(y)\, F(s \mid y)}.

    *Exact* if `policy` reaches each outcome that it is told, and no other: objects then have the
    law r/Σr. If it was trained with a small reward ε for the others, what is adapted has that
    floor too. The sum is over all given outcomes; over a drawn part of them it is biased in its
    logarithm.

    Args:
        dag: the graph.
        policy: of one more context: the outcome, which is the last argument.
        outcomes: terminal states, with a leading axis.
        log_rewards: of each, in nats.

    Returns:
        A policy of the same parameters, without an outcome. A backward kernel is called without
        one, too: it must not depend on it.

    Raises:
        DagError: there is no log flow.

    References:
        Pan, Jain, Madan, Bengio. Pre-training and fine-tuning generative flow networks. ICLR 2024.
    """
    check_log_flow(policy)
    log_flow = policy.log_flow
    assert log_flow is not None

    def flows(params: Any, state: State, context: Any) -> Float[Array, " outcomes"]:
        each = jax.vmap(lambda y: jnp.asarray(log_flow(params, state, *context, y)))(outcomes)
        return each + log_rewards

    def forward(params: Any, state: State, *context: Any) -> Float[Array, " actions"]:
        told = jax.vmap(lambda y: log_forward(dag, policy, params, state, (*context, y)))(outcomes)
        return jax.nn.logsumexp(flows(params, state, context)[:, None] + told, 0)

    def mixed(params: Any, state: State, *context: Any) -> Float[Array, ""]:
        return jax.nn.logsumexp(flows(params, state, context))

    return Policy(forward, policy.backward, mixed)
