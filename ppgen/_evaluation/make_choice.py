"""Making one random choice: its points, and how those of a batch combine."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppgen import _jax
from ppgen._derivatives import magic_box
from ppgen._distributions.finite_support import Among, sized_by_a_parameter, values_between
from ppgen._distributions.rebuild import Structure
from ppgen._evaluation.values import Slot, Value, at_base, at_first_point, lift
from ppgen._settings import current
from ppgen._staging.primitives import ChoiceSpec, over_lanes
from ppgen.errors import EstimatorError
from ppgen.estimators._base import AbstractEstimator, Points

_PRUNING = 0x9E3779B9  # apart from the small numbers by which estimators may split their key

POINT_LIMIT = 1 << 20
"""Joint points of one choice beyond which it is refused."""


class Made(NamedTuple):
    """A choice that was made, with its weights for the costs that it influences.

    Attributes:
        score: log density of the frozen point, shaped as the choice's batch; or `None`.
        weight: weights of the points, with the choice's own point axis; or `None`.
        base: weight of the sample of a first-order choice; or `None`.
        slots: its weights in the slots, `(S - 1, *batch)`; or `None`.
        control: elementwise terms of value zero that lower the variance; or `None`.
        baseline: the baseline of the cost, shaped as the score; or `None`.
    """

    score: Value | None = None
    weight: Value | None = None
    base: Value | None = None
    slots: Value | None = None
    control: Value | None = None
    baseline: Value | None = None


def make(
    run: Any,
    eqn: _jax.Eqn,
    operands: Sequence[Value],
    key: Array,
    index: int,
    joint: Sequence[int],
) -> tuple[Value, Made]:
    """Make a choice.

    Args:
        run: the pass that it is part of.
        eqn: its `random_choice` equation.
        operands: the distribution's parameters and the estimator's.
        key: its key.
        index: the choice's index, which names its point axis.
        joint: batch axes along which some cost mixes elements, so that they cannot be treated as
            independent of each other.

    Returns:
        Its value and how costs are to be weighted.
    """
    spec: ChoiceSpec = eqn.params["spec"]
    lanes, mapped = eqn.params["lanes"], eqn.params["mapped"]
    estimator = spec.template

    values = _values(spec, operands[: spec.num_dist]) if estimator.enumerates else None

    def one(key, operands):
        dist = spec.dist.build(operands[: spec.num_dist])
        if values is not None:
            dist = Among(dist, values)
        return _frozen(spec.estimator(operands[spec.num_dist :]), key, dist)

    def points_of(*operands):
        return over_lanes(one, lanes, mapped, key, operands)

    def points_like_others(*operands):
        shared = _shared(spec, estimator)
        return points_of(*operands) if shared is None else shared(key, operands, lanes, mapped)

    if not estimator.weighted:

        def single(*operands):
            points = points_like_others(*operands)
            baseline = points.baseline
            if baseline is not None:
                baseline = jnp.broadcast_to(baseline, points.score.shape)
            frozen = dataclasses.replace(points, baseline=jax.lax.stop_gradient(baseline))
            return [points.value, points.score, baseline, *_controls(frozen, lanes)]

        value, score, baseline, *control = lift(single, operands)
        return value, Made(
            score=None if score.array is None else score,
            control=control[0] if control else None,
            baseline=None if baseline.array is None else baseline,
        )

    def several(*operands):
        points = points_of(*operands)
        value = jnp.moveaxis(points.value, len(lanes), 0)
        weight = jnp.moveaxis(points.weight, len(lanes), 0)
        if points.score is not None:
            score = jnp.moveaxis(points.score, len(lanes), 0)
            weight = _scored(weight, score, joint if estimator.together else ())
        if joint:
            value, weight = _combination(estimator)(value, weight, joint, spec)
        if estimator.pruned:
            value, weight = _one_of(value, weight, jax.random.fold_in(key, _PRUNING))
        return [value, weight, *_controls(points, lanes)]

    value, weight, *control = run.inline(several, operands)
    made = Made(control=control[0] if control else None)
    if estimator.first_order:
        return _as_slots(value, weight, index, made)
    made = made._replace(weight=weight._replace(axes=(*weight.axes, index)))
    if estimator.fixed_points and value.leading:
        value = Value(at_first_point(value))
    return value._replace(axes=(*value.axes, index)), made


def _frozen(estimator: AbstractEstimator, key: Array, dist: Any) -> Points:
    """The points of an estimator, which have a derivative only if it differentiates them."""
    points = estimator(key, dist)
    if estimator.differentiable or estimator.first_order:
        return points  # points of first order freeze themselves, so as to refuse a second
    return eqx.tree_at(lambda p: p.value, points, jax.lax.stop_gradient(points.value))


def _values(spec: ChoiceSpec, operands: Sequence[Value]) -> np.ndarray | None:
    """All values that a choice can have at any point, where they are not in a parameter's shape.

    They are in the values of parameters, of which the largest and the smallest are to be known.
    """

    def with_end(end: Callable[[np.ndarray], Any]) -> Any:
        def leaf(v: Value) -> Any:
            array: Any = v.array if v.known is None else v.known
            if isinstance(array, jax.core.Tracer) or not jnp.size(array):
                return jax.ShapeDtypeStruct((), array.dtype)
            return np.full(jnp.shape(array)[v.leading :], end(np.asarray(array)))

        return spec.dist.build([leaf(v) for v in operands])

    low = with_end(np.min)
    if not sized_by_a_parameter(low):
        return None
    values = values_between([low, with_end(np.max)])
    if values is not None:
        return values
    raise EstimatorError(
        f"{type(spec.template).__name__}() needs to know how many values {spec.family} has before "
        "anything runs, and that depends on a choice that is drawn, an argument or a loop",
        site=spec.name,
        where=spec.where,
        instead="ScoreFunction(); or all values that it ever has, those beyond with probability "
        "zero: k = jnp.arange(largest + 1); dist.Categorical(logits=jnp.where(k <= n, "
        "dist.Binomial(n, p).log_prob(jnp.minimum(k, n)), -jnp.inf)); or a number, where it is one",
    )


def _shared(spec: ChoiceSpec, estimator: AbstractEstimator) -> Callable | None:
    """The points of a choice as a function that is traced once for all choices like it.

    `None` where they may depend on more than the distribution, as JAX sees it.
    """
    alike = estimator.self_contained and not jax.tree.leaves(estimator)
    if not alike or spec.dist.key is None or current().varying_like is not None:
        return None
    return traced_once(_Alike(spec.dist, estimator))


class _Alike:
    """A distribution without its parameters, and an estimator, compared by what they are."""

    def __init__(self, structure: Structure, estimator: AbstractEstimator) -> None:
        self.structure, self.estimator = structure, estimator
        # A class may be given another method, by a test that plants a bug for one.
        self._key = structure.key, estimator, type(estimator).__call__

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike) and self._key == other._key


@functools.lru_cache(maxsize=256)
def traced_once(alike: _Alike) -> Callable:
    """The points of all choices that are alike, as one compiled function."""

    def one(key: Array, operands: Sequence[Any]) -> Points:
        return _frozen(alike.estimator, key, alike.structure.build(operands))

    @functools.partial(jax.jit, static_argnames=("lanes", "mapped"))
    def points(key: Array, operands: Sequence[Any], lanes: Any, mapped: Any) -> Points:
        return over_lanes(one, lanes, mapped, key, operands)

    return lambda key, operands, lanes, mapped: points(key, list(operands), lanes, mapped)


def _controls(points: Points, lanes: Sequence[int]) -> list[Array]:
    """The control terms of a choice, elementwise where they are, as a list of one or none."""
    control = points.control
    if points.baseline is not None:
        score: Any = points.score
        own = points.baseline * (1 - magic_box(score))
        control = own if control is None else own + control
    return [] if control is None else [control]


def _as_slots(value: Value, weight: Value, index: int, made: Made) -> tuple[Value, Made]:
    """Keep the sample in slot 0 and in every other slot, and the perturbed points in new slots."""
    weight = at_base(weight)
    count = weight.array.shape[len(weight.axes)]
    new: tuple[Slot, ...] = tuple((index, j) for j in range(1, count))
    axis = len(value.axes)
    points = jnp.moveaxis(value.array[0] if value.slots else value.array, axis, 0)
    sample = jnp.take(value.array, 0, axis=axis + bool(value.slots))
    others = sample[1:] if value.slots else points[:0]
    slots = tuple(sorted((*value.slots, *new)))
    stacked = jnp.concatenate([points[:1], others, points[1:]])
    order = [0, *(1 + [*value.slots, *new].index(s) for s in slots)]
    if order != list(range(len(order))):
        stacked = stacked[jnp.array(order)]
    axis = len(weight.axes)
    base = Value(jnp.take(weight.array, 0, axis=axis), weight.axes)
    rest = Value(jnp.take(weight.array, jnp.arange(1, count), axis=axis), weight.axes)
    return Value(stacked, value.axes, slots), made._replace(base=base, slots=rest)


def _scored(weight: Array, score: Array, joint: Sequence[int]) -> Array:
    """Weights times the magic boxes of scores; elements that move together share them.

    A point of them all has the product of their probabilities, and the mean of the factors.
    """
    axes = tuple(1 + k for k in joint)
    weight = jnp.mean(weight, axis=axes, keepdims=True)
    return weight * magic_box(jnp.sum(score, axis=axes, keepdims=True)).astype(weight.dtype)


def _combination(estimator: AbstractEstimator) -> Callable:
    if not estimator.first_order:
        return _unchanged if estimator.together else _product
    return _together if estimator.together else _one_at_a_time


def _grouped(x: Array, joint: Sequence[int]) -> Array:
    """`(S, *batch, ...)` with the joint batch axes flattened into axis 1."""
    x = jnp.moveaxis(x, [1 + k for k in joint], range(1, 1 + len(joint)))
    return x.reshape(x.shape[0], -1, *x.shape[1 + len(joint) :])


def _ungrouped(x: Array, joint: Sequence[int], sizes: Sequence[int]) -> Array:
    x = x.reshape(x.shape[0], *sizes, *x.shape[2:])
    return jnp.moveaxis(x, range(1, 1 + len(joint)), [1 + k for k in joint])


def _one_at_a_time(value: Array, weight: Array, joint: Sequence[int], spec: ChoiceSpec):
    """Perturb one element of the batch at a time: exact for first-order weights."""
    sizes = [weight.shape[1 + k] for k in joint]
    x, w = _grouped(value, joint), _grouped(weight, joint)
    count, elements = w.shape[:2]
    eye = jnp.eye(elements, dtype=bool).reshape(elements, 1, elements, *(1,) * (x.ndim - 2))
    perturbed = jnp.where(eye, x[None, 1:], x[None, :1])
    points = jnp.concatenate([x[:1], perturbed.reshape(-1, *x.shape[1:])])
    base = 1 + jnp.sum(w[0] - 1, axis=0)
    rest = jnp.moveaxis(w[1:], 1, 0).reshape(elements * (count - 1), *w.shape[2:])
    weights = jnp.concatenate([base[None], rest])[:, None]
    return [_ungrouped(points, joint, sizes), _ungrouped(weights, joint, [1] * len(joint))]


def _unchanged(value: Array, weight: Array, joint: Sequence[int], spec: ChoiceSpec):
    """All elements at once; their weights were made one with the scores."""
    return [value, weight]


def _together(value: Array, weight: Array, joint: Sequence[int], spec: ChoiceSpec):
    """Exchange the points of all elements at once; their weights of first order add up."""
    base = 1 + jnp.sum(weight[:1] - 1, axis=[1 + k for k in joint], keepdims=True)
    rest = jnp.sum(weight[1:], axis=[1 + k for k in joint], keepdims=True)
    return [value, jnp.concatenate([base, rest])]


def _one_of(value: Array, weight: Array, key: Array) -> tuple[Array, Array]:
    """Keep the sample and one other point, at random: weights of first order, same mean.

    Points that are not evaluated are given the cost of the sample, so their weights go there.
    """
    others = weight.shape[0] - 1
    if others < 2:
        return value, weight
    j = jax.random.randint(key, (), 1, others + 1)
    (point, w) = (jax.lax.dynamic_index_in_dim(x, j, keepdims=True) for x in (value, weight))
    base = weight[:1] + jnp.sum(weight[1:], axis=0, keepdims=True) - others * w
    return jnp.concatenate([value[:1], point]), jnp.concatenate([base, others * w])


def _product(value: Array, weight: Array, joint: Sequence[int], spec: ChoiceSpec):
    """All combinations of the points of the elements."""
    sizes = [weight.shape[1 + k] for k in joint]
    x, w = _grouped(value, joint), _grouped(weight, joint)
    count, elements = w.shape[:2]
    check_size(count, elements, spec)
    grid = np.indices((count,) * elements).reshape(elements, -1).T
    chosen = np.arange(elements)
    points = x[grid, chosen]
    weights = jnp.prod(w[grid, chosen], axis=1)[:, None]
    return [_ungrouped(points, joint, sizes), _ungrouped(weights, joint, [1] * len(joint))]


def check_size(count: int, elements: int, spec: ChoiceSpec) -> None:
    """Refuse joint supports that are too large, before anything is compiled."""
    if elements * math.log(count) > math.log(POINT_LIMIT):
        raise EstimatorError(
            f"{type(spec.template).__name__}() would need {count}^{elements} joint points: a "
            "cost term mixes the elements of the batch",
            site=spec.name,
            where=spec.where,
            instead="a cost that is a sum of terms with one element each, or ScoreFunction()",
        )
