"""Programs that draw several candidates and keep one in proportion to its weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from ppgen._log_weights import log_mean_exp
from ppgen._programs.estimated import Inner, bind_estimated, stack
from ppgen._staging.draw import draw


class Candidate(NamedTuple):
    """Values of the sites, drawn or given.

    Attributes:
        values: by site.
        outs: what the program returns for them.
        log_weight: log w; a candidate is kept in proportion to w.
        log_product: the logarithm of w times the density that they are drawn from, in nats; `None`
            where it is exact, and so may be had for the one that is kept.
    """

    values: dict[str, Any]
    outs: list[Any]
    log_weight: Array
    log_product: Array | None


def bind_resampled(
    kind: str,
    program: Inner,
    operands: Sequence[Any],
    count: int,
    propose: Callable[[Sequence[Any]], Candidate],
    weigh: Callable[[Sequence[Any], dict[str, Any]], Candidate],
) -> Any:
    r"""Call the program that keeps one of `count` candidates, i.i.d. from a law q.

    Its law is :math:`q(x)\, E[w(x) / \frac1K (w(x) + \sum_{k<K} w(x_k))]`, where the others come
    from q. With x among the K, that ratio is unbiased where x is given; where it was drawn, the
    reciprocal is (Andrieu, Doucet and Holenstein, 2010).

    Args:
        kind: as for `bind_estimated`.
        program: as for `bind_estimated`; all of its latent sites are kept.
        operands: as for `bind_estimated`.
        count: K.
        propose: `operands -> Candidate` draws one.
        weigh: `(operands, values) -> Candidate` of given values, its `log_product` included.

    Returns:
        What the program returned for the one that is kept.
    """
    names = list(program.latent)
    index = "|".join(names) + " | index"

    def simulate(operands: Sequence[Any]) -> tuple[list[Any], Array]:
        drawn = jax.vmap(lambda _: propose(operands))(jnp.arange(count))
        j: Any = 0
        if count > 1:
            j = draw(dist.Categorical(logits=drawn.log_weight), name=index)
        values, outs, _, log_product = jax.tree.map(lambda x: x[j], drawn)
        if log_product is None:
            log_product = weigh(operands, values).log_product
        assert log_product is not None
        assert log_product is not None
        return [*(values[n] for n in names), *outs], log_product - log_mean_exp(drawn.log_weight)

    def score(operands: Sequence[Any], values: dict[str, Any]) -> tuple[list[Any], Array]:
        given = weigh(operands, values)
        log_mean = given.log_weight
        if count > 1:
            fresh = jax.vmap(lambda _: propose(operands).log_weight)(jnp.arange(count - 1))
            log_mean = log_mean_exp(stack(given.log_weight, fresh))
        assert given.log_product is not None
        return [*(values[n] for n in names), *given.outs], given.log_product - log_mean

    def evaluate(operands: Sequence[Any], values: dict[str, Any] | None):
        return simulate(operands) if values is None else score(operands, values)

    return bind_estimated(kind, program, program.latent, operands, evaluate)
