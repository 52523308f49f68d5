"""The exact value of a small program and the slopes of its value, for random programs.

A staged program is evaluated for all outcomes of its choices at once, each choice a new axis of
lanes, at a point and a step to either side of it along each axis. It shares the staging with
`expectation`, and nothing else: no estimator, no analysis, no score, and no derivative at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppgen._staging.stage import stage
from ppgen.testing._lanes import Lanes, Unsupported
from ppgen.testing._outcomes import Family, Outcomes

_STEP = 1e-5


class Exact(NamedTuple):
    """The exact values with which an estimate is compared.

    Attributes:
        value: the expectation.
        slopes: its derivatives, `(parameters,)`, as differences of values.
        defect: the mass that the outcomes miss or double.
        refinable: whether more nodes give another answer: something was integrated.
    """

    value: float
    slopes: np.ndarray
    defect: float
    refinable: bool


class _Choices:
    """Gives each choice of a staged program all of its outcomes."""

    def __init__(self, nodes: int, terms: int, limit: int) -> None:
        self.nodes, self.terms, self.limit = nodes, terms, limit
        self.weights: list[Any] = []
        self.points, self.defect, self.refinable = 1, 0.0, False

    def __call__(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        if eqn.primitive.name == "fresh_key":
            # Of many lanes: drawing from it is refused.
            return [np.zeros(eqn.outvars[0].aval.shape, np.uint64)]
        spec, lanes, mapped = (eqn.params[k] for k in ("spec", "lanes", "mapped"))
        if eqn.primitive.name == "sample_site":
            if spec.observed:
                at = spec.num_leaves + spec.num_estimator
                value = _with_lanes(values[at], mapped[at], len(eqn.invars[at].aval.shape))
                lead = value.shape[: value.ndim - len(lanes) - len(spec.choice.shape)]
                return [np.broadcast_to(value, (*lead, *lanes, *spec.choice.shape))]
            own = spec.order
            values, mapped = [values[i] for i in own], [mapped[i] for i in own]
            spec = spec.choice
        count = spec.num_dist
        leaves = [
            _with_lanes(x, flags, len(v.aval.shape) if hasattr(v, "aval") else np.ndim(v))
            for x, flags, v in zip(values[:count], mapped[:count], _variables(eqn), strict=False)
        ]
        family = Family(spec.dist.build(leaves), leaves, len(lanes), len(spec.batch))
        found = family.outcomes(self.nodes, self.terms)
        self.refinable |= len(found.weights) == self.nodes
        return [self._all_of(found, (*lanes, *spec.batch), spec.shape[len(spec.batch) :])]

    def _all_of(self, found: Outcomes, batch: tuple, event: tuple) -> Any:
        """Every combination of the outcomes of the elements of a batch, as one axis of lanes."""
        size, elements = len(found.weights), math.prod(batch)
        self.points *= size**elements
        if self.points > self.limit:
            raise Unsupported(f"more than {self.limit} points")
        index = np.indices((size,) * elements).reshape(elements, -1)
        x = _flat(found.values, batch, event)
        w = _flat(found.weights, batch, ())
        at = np.arange(elements)
        # The outcomes lead, the elements come last, lanes are between them.
        w = np.moveaxis(w, -1, 1)[index, at[:, None]].prod(axis=0)
        x = np.moveaxis(x, x.ndim - 1 - len(event), 1)[index, at[:, None]]
        x = np.moveaxis(x, 0, x.ndim - 1 - len(event))
        self.defect = max(self.defect, float(np.max(np.abs(w.sum(axis=0) - 1), initial=0.0)))
        # All lanes there are up to now: those of the choices before, and of the points.
        older = len(self.weights) + 1
        self.weights.append(w.reshape((len(w), *(1,) * (older - (w.ndim - 1)), *w.shape[1:])))
        lanes = x.shape[1 : x.ndim - 1 - len(event)]
        return x.reshape((len(x), *(1,) * (older - len(lanes)), *lanes, *batch, *event))

    def expectation(self, cost: Any) -> Any:
        """The mean of a cost over all outcomes: the lanes of the points are left."""
        for i in reversed(range(len(self.weights))):
            if cost.ndim > i + 1:
                w = self.weights[i]
                cost = np.sum(np.where(w == 0, 0.0, cost * w), axis=0)
        return cost


def _variables(eqn: Any) -> list[Any]:
    if eqn.primitive.name == "sample_site":
        return [eqn.invars[i] for i in eqn.params["spec"].order]
    return eqn.invars


def _with_lanes(x: Any, flags: Sequence[bool], rank: int) -> Any:
    """An operand with an axis for each mapped axis of the choice, also where it is not mapped."""
    own = rank - sum(flags)
    lead = x.shape[: x.ndim - rank]
    sizes = iter(x.shape[len(lead) : len(lead) + sum(flags)])
    inner = [next(sizes) if flag else 1 for flag in flags]
    return x.reshape((*lead, *inner, *x.shape[x.ndim - own :]))


def _flat(x: Any, batch: tuple, event: tuple) -> Any:
    """The axes of the batch made one, before those of the event."""
    own = len(batch) + len(event)
    missing = own - (x.ndim - 1)
    x = x.reshape((x.shape[0], *(1,) * max(missing, 0), *x.shape[1:]))
    lead = x.shape[: x.ndim - own]
    return np.broadcast_to(x, (*lead, *batch, *event)).reshape((*lead, math.prod(batch), *event))


def slopes(
    f: Callable[..., Any],
    theta: Any,
    *,
    nodes: int = 48,
    terms: int = 48,
    limit: int = 20_000,
    step: float = _STEP,
) -> Exact:
    """The expectation of `f(theta)` and its slopes, from values of `f` only.

    Args:
        f: a function of one vector, which may draw; it returns a scalar.
        theta: the point.
        nodes: outcomes of a continuous choice.
        terms: outcomes of one with countably many.
        limit: the largest number of combinations of outcomes.
        step: the step to either side of `theta`.

    Raises:
        Unsupported: it draws something whose outcomes are not known here, or too many.
    """
    import jax
    import jax.numpy as jnp

    staged = stage(f, jax.ShapeDtypeStruct((len(theta),), jnp.float32), in_place=False)
    return slopes_of(staged.jaxpr, theta, nodes, terms, limit, step)


def slopes_of(
    jaxpr: Any, theta: Any, nodes: int, terms: int, limit: int, step: float = _STEP
) -> Exact:
    """As `slopes`, of a staged program."""
    n = len(theta)
    moves = np.concatenate([np.zeros((1, n)), np.eye(n), -np.eye(n)])
    choices = _Choices(nodes, terms, limit)
    with np.errstate(all="ignore"):
        lanes = Lanes(double=True, choose=choices)
        (cost, *_) = lanes(jaxpr, [np.asarray(theta, np.float64) + step * moves])
        values = np.broadcast_to(choices.expectation(cost), (len(moves),))
    difference = (values[1 : 1 + n] - values[1 + n :]) / (2 * step)
    return Exact(float(values[0]), difference, choices.defect, choices.refinable)
