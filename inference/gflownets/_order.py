"""Losses that only ask which objects are better than others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from ppgen.claims import claims
from ppgen.inference.gflownets._balance import as_it_is
from ppgen.inference.gflownets._dags import AbstractDag, State
from ppgen.inference.gflownets._policies import Behaviour, Policy
from ppgen.inference.gflownets._walks import Route, Walk, log_kernels
from ppgen.inference.objectives import detached


def nondominated(scores: Num[Array, "n k"]) -> Bool[Array, " n"]:
    """Which rows no other row beats: as large in every score, and larger in one.

    Equal rows do not beat each other, so that all copies of a best row are among the best.

    Args:
        scores: larger is better.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import nondominated
        >>> nondominated(jnp.array([[0.0, 2.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])).tolist()
        [True, True, False, True]
    """
    larger = jnp.all(scores[:, None] >= scores[None], -1)
    beats = larger & jnp.any(scores[:, None] > scores[None], -1)
    return ~jnp.any(beats, 0)


@claims(
    "unbiased",
    "the expected cross-entropy of a batch of that size",
    gradient="unbiased",
    but="the behaviour, or the policy in its place, is held fixed; each size is another loss",
)
def order_loss(
    dag: AbstractDag,
    policy: Policy,
    score: Callable[[State], Any],
    *,
    batch: int,
    behaviour: Behaviour | None = None,
) -> Callable[..., Float[Array, ""]]:
    r"""The loss of an order-preserving generative flow network, for one or for several scores.

    Of B = `batch` walks to objects :math:`x_b`, those that no other in the batch dominates should
    be what the policy believes to be likely:

    .. math:: E\Big[ -\frac{1}{|S|} \sum_{b \in S} \log \mathrm{softmax}(\ell)_b \Big], \qquad
              \ell_b = \sum_t \log P_F - \log P_B,

    where S is the set of nondominated walks of the batch and :math:`\ell + \log Z` is what the
    policy says about the log reward of an end, so that Z does not matter. Only the order of scores
    counts: monotone functions of them change nothing.

    *Unbiased*, value and gradients, for this expectation *at its batch size*, with the behaviour
    held fixed. Other sizes are other losses; `draws` of `ppgen.expectation` are of whole batches.

    Args:
        dag: the graph.
        policy: its kernels.
        score: of a terminal state: a number, or a vector of several objectives. Larger is better.
        batch: B, at least 2.
        behaviour: as for `balance`.

    Returns:
        A function `(params, *context) -> scalar`: one draw of the loss, to be minimised.

    Raises:
        ValueError: a batch of fewer than two walks, in which there is nothing to compare.

    References:
        Chen, Mauch. Order-preserving GFlowNets. ICLR 2024.
    """
    if batch < 2:
        raise ValueError(f"a batch of {batch} has nothing to compare: batch must be at least 2")
    draw = detached(Walk(dag, policy, behaviour or as_it_is))

    def loss(params: Any = None, *context: Any) -> Float[Array, ""]:
        def believed(route: Route) -> Array:
            forward, backward = log_kernels(dag, policy, params, route, context)
            return jnp.sum(forward - backward)

        routes = jax.vmap(lambda _: draw(params, *context))(jnp.arange(batch))
        scores = jax.vmap(lambda end: jnp.ravel(jnp.asarray(score(end))))(routes.end)
        best = nondominated(jax.lax.stop_gradient(scores))
        log_shares = jax.nn.log_softmax(jax.vmap(believed)(routes))
        return -jnp.sum(jnp.where(best, log_shares, 0.0)) / jnp.sum(best)

    return loss
