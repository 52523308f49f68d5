"""Points and weights that represent one distribution: enumeration, or quadrature."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution, biject_to

from ppgen._distributions.wrappers import plain
from ppgen._sampling.log_scale import OnLogScale
from ppgen.errors import DensityError
from ppgen.testing._quadrature import log_density_of, quadrature


class Grid(NamedTuple):
    """A distribution as finitely many weighted points.

    Attributes:
        points: `(S, *batch, *event)`.
        weights: `(S, *batch)`: they sum to one up to the error of the quadrature.
    """

    points: Array
    weights: Array


def grid(d: Distribution, frozen: Distribution, *, nodes: int, terms: int) -> Grid:
    """The grid of one distribution; the elements of its batch are not multiplied out.

    Args:
        d: the distribution, without masks or reinterpreted dimensions.
        frozen: the same, with parameters that are not differentiated.
        nodes: points of a continuous choice, along each of its dimensions.
        terms: points of a choice with countable support.
    """
    batch, base = d.batch_shape, plain(d)
    if isinstance(base, OnLogScale):
        still: Any = plain(frozen)
        own = grid(base.base.expand(batch), still.base.expand(batch), nodes=nodes, terms=terms)
        return Grid(_coordinates(plain(base.base), own.points), own.weights)
    if isinstance(base, dist.Delta):
        shape = (1, *batch)
        points = jnp.broadcast_to(base.v, shape + d.event_shape)
        return Grid(points, jnp.broadcast_to(jnp.exp(base.log_density), shape))
    support = _support(d, terms)
    if support is not None:
        values = support.reshape(len(support), *(1,) * len(batch), *d.event_shape)
        points = jnp.broadcast_to(values, (len(support), *batch, *d.event_shape))
        return Grid(points, jnp.broadcast_to(_mass(base, points), points.shape[: 1 + len(batch)]))
    inner = base.batch_shape
    ones = (1,) * (len(batch) - len(inner))
    points, weights = quadrature(base, plain(frozen), nodes)
    points = points.reshape(-1, *ones, *inner, *d.event_shape)
    weights = weights.reshape(-1, *ones, *inner)
    lead = (len(weights), *batch)
    return Grid(jnp.broadcast_to(points, lead + d.event_shape), jnp.broadcast_to(weights, lead))


def grid_size(d: Distribution, *, nodes: int, terms: int) -> int:
    """How many points `grid` has for one element of the batch; looks at shapes only."""
    if isinstance(plain(d), OnLogScale):
        return grid_size(plain(d).base, nodes=nodes, terms=terms)
    if isinstance(plain(d), dist.Delta):
        return 1
    support = _support(d, terms)
    if support is not None:
        return len(support)
    return nodes ** math.prod(biject_to(d.support).inverse_shape(d.event_shape))


def _coordinates(d: Distribution, x: Array) -> Array:
    """What a value that is drawn by its log, or by its logit, is rounded from."""
    finfo = jnp.finfo(x.dtype)
    x = jnp.maximum(x, finfo.tiny)
    if isinstance(d, dist.Beta):
        x = jnp.minimum(x, 1 - finfo.epsneg)
        return jnp.log(x) - jnp.log1p(-x)
    return jnp.log(x)


def _support(d: Distribution, terms: int) -> np.ndarray | None:
    """The values that one element can take, `(S, *event)`; `None` for a continuous one."""
    base = plain(d)
    if isinstance(base, (dist.BinomialProbs, dist.BinomialLogits)):
        # NumPyro's own enumeration refuses counts that differ along the batch.
        return np.arange(int(np.max(_static(base.total_count, base))) + 1)
    if isinstance(base, (dist.MultinomialProbs, dist.MultinomialLogits)):
        total = int(np.max(_static(base.total_count, base)))
        counts = itertools.product(range(total + 1), repeat=base.event_shape[0])
        return np.array([c for c in counts if sum(c) == total])
    if getattr(d, "has_enumerate_support", False):
        with jax.ensure_compile_time_eval():
            support = np.asarray(base.enumerate_support(expand=False))
        return support.reshape(len(support), *d.event_shape)
    try:
        discrete = d.is_discrete
    except NotImplementedError:
        raise DensityError(
            f"{type(base).__name__} has no `support`, so that `exact` cannot integrate over it"
        ) from None
    if not discrete:
        return None
    if d.event_shape:
        raise DensityError(
            f"{type(base).__name__} has an infinite support in several dimensions, which `exact` "
            "cannot sum over"
        )
    return np.arange(terms) + int(_static(getattr(d.support, "lower_bound", 0), base))


def _static(value: object, d: Distribution) -> np.ndarray:
    if isinstance(value, jax.core.Tracer):
        raise DensityError(
            f"the support of {type(d).__name__} depends on a traced value, so that `exact` cannot "
            "enumerate it",
            instead="a Python number for what the support depends on",
        )
    return np.asarray(value)


def _mass(d: Distribution, x: Array) -> Array:
    """Probabilities, by their definition where NumPyro's log has a wrong or infinite derivative."""
    if isinstance(d, dist.BernoulliProbs):
        return jnp.where(x == 1, d.probs, 1 - jnp.asarray(d.probs))
    if isinstance(d, dist.BernoulliLogits):
        return jax.nn.sigmoid(jnp.where(x == 1, 1, -1) * d.logits)
    if isinstance(d, (dist.CategoricalProbs, dist.CategoricalLogits)):
        if isinstance(d, dist.CategoricalLogits):
            p = jax.nn.softmax(d.logits, axis=-1)
        else:
            p = jnp.asarray(d.probs)
        return jnp.moveaxis(jnp.broadcast_to(p, (*x.shape[1:], p.shape[-1])), -1, 0)
    if isinstance(d, (dist.BinomialProbs, dist.BinomialLogits)):
        if isinstance(d, dist.BinomialLogits):
            p, q = jax.nn.sigmoid(d.logits), jax.nn.sigmoid(-d.logits)
        else:
            p, q = jnp.asarray(d.probs), 1 - jnp.asarray(d.probs)
        n = jnp.asarray(d.total_count)
        rest = jnp.where(x <= n, n - x, 0)
        choose = 1 / ((n + 1.0) * jnp.exp(jax.scipy.special.betaln(rest + 1.0, x + 1.0)))
        return jnp.where(x <= n, choose * _power(p, x, len(x)) * _power(q, rest, len(x)), 0.0)
    return jnp.exp(log_density_of(d, x))


def _power(p: Array, n: Array, limit: int) -> Array:
    """`p ** n` for `n < limit`, right with all its derivatives also at `p = 0`."""
    return jnp.prod(jnp.where(jnp.arange(limit) < n[..., None], p[..., None], 1.0), axis=-1)
