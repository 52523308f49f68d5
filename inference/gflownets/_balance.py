"""Balance: squared differences between what flows forwards and what flows backwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

import ppgen
from ppgen.claims import claims
from ppgen.inference.gflownets._dags import AbstractDag, State
from ppgen.inference.gflownets._errors import DagError
from ppgen.inference.gflownets._policies import Behaviour, Energy, Policy
from ppgen.inference.gflownets._walks import Route, Walk, log_kernels
from ppgen.inference.objectives import detached


@claims(
    "unbiased",
    "the mean squared imbalance of walks of the behaviour",
    gradient="unbiased",
    but="the behaviour, or the policy in its place, is held fixed; it bounds nothing",
)
def balance(
    dag: AbstractDag,
    policy: Policy,
    energy: Energy,
    *,
    over: Literal["transition", "trajectory"] | float | int = "trajectory",
    behaviour: Behaviour | None = None,
    truncate: dist.Distribution | None = None,
) -> Callable[..., Float[Array, ""]]:
    r"""The loss of a generative flow network: zero where walks end in x in proportion to exp(-E).

    Every transition of a walk has an imbalance,

    .. math:: \delta_t = \log F(s_t) + \log P_F(s_{t+1} \mid s_t)
              - \log F(s_{t+1}) - \log P_B(s_t \mid s_{t+1}),

    and the loss is a weighted mean over the parts of the walk that go from step i to step j,

    .. math:: E_{\tau \sim \text{behaviour}} \Big[ \sum_{i < j} w_{ij}
              \Big( \sum_{i \le t < j} \delta_t \Big)^2 \Big], \qquad \sum_{i < j} w_{ij} = 1:

    `over="transition"`, detailed balance, is of single steps (their *mean* within each walk, so
    that long walks do not count more); `over="trajectory"`, trajectory balance, of the whole walk;
    a number λ, sub-trajectory balance, of all parts, with weights in proportion to
    :math:`\lambda^{j - i}`, which has the others as limits for λ → 0 and λ → ∞. The log flow of a
    terminal state is minus its energy: it is never asked of the policy.

    *Unbiased*, value and gradients, for this expectation *with the behaviour held fixed*. It bounds
    nothing. It is zero for every behaviour that takes all walks if and only if objects have the law
    exp(-E)/Z. On policy, the gradient of trajectory balance *for the forward kernel* is twice that
    of the Kullback-Leibler divergence from `backward_walk`, which `elbo` estimates too.

    Args:
        dag: the graph.
        policy: its kernels and its log flow; the one of the source is log Z.
        energy: of a terminal state, in nats, finite: minus the log of its reward.
        over: see above.
        behaviour: as for `walk`; by default walks are drawn by the policy. It is never
            differentiated.
        truncate: a law of whole numbers, at least 1: after how many steps the walk is cut. What
            comes later does not count, so that the energy is learned from walks that end before.
            With "trajectory" the part up to the cut counts, whose last state has the policy's flow.

    Returns:
        A function `(params, *context) -> scalar`: one draw of the loss, to be minimised.

    Raises:
        DagError: there is no log flow.
        ValueError: λ is not positive and finite.

    References:
        Bengio, Lahlou, Deleu, Hu, Tiwari, Bengio. GFlowNet foundations. JMLR 2023. Malkin, Jain,
        Bengio, Sun, Bengio. Trajectory balance: improved credit assignment in GFlowNets. NeurIPS
        2022. Madan et al. Learning GFlowNets from partial episodes. ICML 2023.

    Example:
        At the optimum every draw is zero.

        >>> import jax, jax.numpy as jnp, ppgen
        >>> from ppgen.inference import Policy, TableDag, balance
        >>> dag, energies = TableDag([[1, 2], [-1, -1], [-1, -1]]), jnp.array([0.0, 0.0, 1.0])
        >>> policy = Policy(lambda p, s: p, log_flow=lambda p, s: jax.nn.logsumexp(p))
        >>> loss = ppgen.expectation(balance(dag, policy, lambda s: energies[s]))
        >>> float(loss(jax.random.key(0), jnp.array([0.0, -1.0]))) < 1e-10
        True
    """
    of_route = imbalance(dag, policy, energy, over=over)
    draw = detached(Walk(dag, policy, behaviour or as_it_is))

    def loss(params: Any = None, *context: Any) -> Float[Array, ""]:
        route: Route = draw(params, *context)
        cut = None if truncate is None else jnp.asarray(ppgen.draw(truncate, name="cut"))
        return of_route(route, params, *context, steps=cut)

    return loss


def imbalance(
    dag: AbstractDag,
    policy: Policy,
    energy: Energy,
    *,
    over: Literal["transition", "trajectory"] | float | int = "trajectory",
) -> Callable[..., Any]:
    """The loss of `balance` of a walk that is given: from a buffer, or of another policy.

    A mean over given walks is a mean over them, and not over those of the policy; its zero is the
    same as long as every walk has a chance to be given.

    Args:
        dag: as for `balance`.
        policy: as for `balance`.
        energy: as for `balance`.
        over: as for `balance`.

    Returns:
        A function `(route, params, *context, steps=None) -> scalar`, without draws. Of `steps`, if
        they are given, no more than these first steps count.

    Raises:
        DagError: there is no log flow.
        ValueError: λ is not positive and finite.

    Example:
        >>> import jax, jax.numpy as jnp, ppgen
        >>> from ppgen.inference import Policy, TableDag, imbalance, walk
        >>> dag = TableDag([[1, 2], [-1, -1], [-1, -1]])
        >>> policy = Policy(lambda p, s: p, log_flow=lambda p, s: jax.nn.logsumexp(p))
        >>> route = ppgen.seed(walk(dag, Policy()))(jax.random.key(0))
        >>> loss = imbalance(dag, policy, lambda s: jnp.array([0.0, 0.0, 1.0])[s])
        >>> float(loss(route, jnp.array([0.0, -1.0]))) < 1e-10
        True
    """
    check_log_flow(policy)
    if isinstance(over, str):
        if over not in ("transition", "trajectory"):
            raise ValueError(f'over must be "transition", "trajectory" or a number, not {over!r}')
    elif not 0 < over < math.inf:
        raise ValueError(f"the weight of a step must be positive and finite, not {over}")

    def loss(route: Route, params: Any = None, *context: Any, steps: Any = None) -> Array:
        forward, backward = log_kernels(dag, policy, params, route, context)
        log_ratios = forward - backward
        if over == "trajectory" and steps is None:
            return _whole(dag, policy, energy, params, route, context, log_ratios)
        flows = log_flows(dag, policy, energy, params, route, context)
        counted = route.length if steps is None else jnp.minimum(route.length, steps)
        return _weighted(flows[:-1] + log_ratios - flows[1:], counted, over)

    return loss


def as_it_is(log_probs: Float[Array, " actions"], state: State) -> Float[Array, " actions"]:
    """The behaviour of the policy itself, held fixed."""
    return log_probs


def check_log_flow(policy: Policy) -> None:
    """Refuse a policy without a log flow."""
    if policy.log_flow is None:
        raise DagError(
            "the policy has no log flow, and that of the source is log Z, which balance learns",
            instead="Policy(forward, backward, log_flow=...); a flow of the source alone is enough "
            "over a whole trajectory",
        )


def log_flows(
    dag: AbstractDag,
    policy: Policy,
    energy: Energy,
    params: Any,
    route: Route,
    context: tuple[Any, ...] = (),
) -> Float[Array, " n"]:
    """Log flows of the states of a walk; those of terminal states are minus their energy."""
    assert policy.log_flow is not None
    terminal, log_flow = jax.vmap(dag.is_terminal)(route.states), policy.log_flow
    source = dag.source()

    def flow(state: State, ended: Array) -> Array:
        # Where the flow is not asked for, it must be finite, else its derivative is NaN.
        inner = jax.tree.map(lambda s, x: jnp.where(ended, s, x).astype(x.dtype), source, state)
        return jnp.asarray(log_flow(params, inner, *context))

    return jnp.where(terminal, -energy(route.end), jax.vmap(flow)(route.states, terminal))


def _whole(
    dag: AbstractDag,
    policy: Policy,
    energy: Energy,
    params: Any,
    route: Route,
    context: tuple[Any, ...],
    log_ratios: Float[Array, " t"],
) -> Float[Array, ""]:
    """Of the whole walk, for which the flow of the source is enough."""
    assert policy.log_flow is not None
    source = dag.source()
    log_z = jnp.asarray(policy.log_flow(params, source, *context))
    imbalance = log_z + jnp.sum(log_ratios) + jnp.asarray(energy(route.end))
    # A source that is terminal has the flow that it should have.
    return jnp.where(dag.is_terminal(source), 0.0, imbalance) ** 2


def _weighted(
    imbalances: Float[Array, " t"],
    steps: Any,
    over: Literal["transition", "trajectory"] | float | int,
) -> Float[Array, ""]:
    """The weighted mean of squared imbalances over the parts of the first `steps` steps."""
    within = jnp.arange(len(imbalances)) < steps
    imbalances = jnp.where(within, imbalances, 0.0)
    if over == "transition":
        return jnp.sum(imbalances**2) / jnp.maximum(steps, 1)
    if over == "trajectory":
        return jnp.sum(imbalances) ** 2
    upto = jnp.concatenate([jnp.zeros(1, imbalances.dtype), jnp.cumsum(imbalances)])
    places = jnp.arange(len(upto))
    lengths = places[None, :] - places[:, None]
    parts = (lengths > 0) & (places[None, :] <= steps)
    # In logarithms, so that λ may be as small or as large as it likes.
    log_weights = jnp.where(parts, (lengths - jnp.maximum(steps, 1)) * math.log(over), -jnp.inf)
    some = jnp.any(parts)
    weights = jax.nn.softmax(jnp.where(some, log_weights, 0.0).ravel()).reshape(parts.shape)
    return jnp.sum(jnp.where(parts, weights * (upto[None, :] - upto[:, None]) ** 2, 0.0))
