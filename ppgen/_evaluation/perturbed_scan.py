"""Evaluating a scan over first-order choices: one lane for the sample, one for each perturbation.

All lanes run the same loop with the same randomness; in each of them one choice of one step takes
another of its points. Compiled size is that of the loop, whatever its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppgen import _jax
from ppgen._analysis.choices import Choice, choices_of_equation
from ppgen._evaluation.control_flow import joint_within_step, kept_of_step, made_in_loop
from ppgen._evaluation.make_choice import POINT_LIMIT, Made, make
from ppgen._evaluation.values import Slot, Value, at_base, lift, union
from ppgen.errors import EstimatorError


def perturbed_scan(
    outer: Any, eqn: _jax.Eqn, values: Sequence[Value], key: Array, index: int
) -> tuple[list[Value], list[Made]]:
    """A scan whose weighted choices are all of first order.

    A choice that the cost of another step depends on is perturbed at one step at a time: `T` lanes
    for each of its points, or one, at a random step, if it is pruned. Else the steps are
    independent, and it is perturbed at all of them at once.
    """
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    num_consts, num_carry = _jax.scan_counts(eqn)
    choices = choices_of_equation(eqn)
    weighted = [i for i, c in enumerate(choices) if c.specs[0].template.weighted]
    joint = joint_within_step(outer.joint, index, len(choices))
    alone = {i: 0 in outer.joint.get(index + i, ()) for i in weighted}
    present: list[tuple[bool, ...]] = []

    def step_of(consts, perturbed):
        choice, time, point = perturbed

        def step(carry, inputs):
            key, t, xs = inputs
            bases, others = [], []

            def one(run, eqn, operands, key, i, joint):
                value, made = make(run, eqn, operands, key, i, joint)
                weights: Any = made
                if i not in weighted:
                    return value, made
                bases.append(weights.base.array)
                others.append(weights.slots.array)
                now = (choice == i) & ((time == t) | (not alone[i]))
                chosen = jnp.where(now, point, 0)
                x = jax.lax.dynamic_index_in_dim(value.array, chosen, keepdims=False)
                return Value(x), Made(control=made.control)

            inner = outer.inside(key, joint)
            inner.make = one
            outs = [o.array for o in inner(body, [Value(a) for a in (*consts, *carry, *xs)])]
            present[:], extra = kept_of_step([inner.made[i] for i in range(len(choices))])
            return outs[:num_carry], (outs[num_carry:], extra, bases, others)

        return step

    def split(arrays):
        consts, init = arrays[:num_consts], arrays[num_consts : num_consts + num_carry]
        return consts, list(init), list(arrays[num_consts + num_carry :])

    keys, steps = jax.random.split(key, length), jnp.arange(length)
    counts = _points_of_a_step(step_of, split, values, key)
    rows = _perturbations(choices, weighted, counts, alone, length, key)
    new: list[Slot] = [(index + int(i), j) for i, _, _, j in rows]
    _, old = union(values)
    slots = tuple(sorted((*old, *new)))
    # Which choice is perturbed at which step and where, in each lane; none in the first.
    table = {(index + i, j): (i, t, p) for i, t, p, j in rows}
    lanes = [(-1, 0, 0), *(table.get(slot, (-1, 0, 0)) for slot in slots)]
    columns = [_column(column) for column in zip(*lanes, strict=True)]
    perturbed = [Value(column, (), slots) for column in columns]

    def run(*arrays):
        *arrays, choice, time, point = arrays
        consts, init, xs = split(arrays)
        carry, (ys, extra, bases, others) = jax.lax.scan(
            step_of(consts, (choice, time, point)),
            init,
            (keys, steps, xs),
            length=length,
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
        )
        return [*carry, *ys, *extra, *bases, *others]

    found = lift(run, [*values, *perturbed])
    outs, rest = found[: len(eqn.outvars)], iter(found[len(eqn.outvars) :])
    made = made_in_loop(present, rest)
    bases = [at_base(next(rest)) for _ in weighted]
    others = [at_base(next(rest)) for _ in weighted]
    for i, base, other in zip(weighted, bases, others, strict=True):
        if alone[i]:
            at = next(t for c, t, _, _ in rows if c == i) if _pruned(choices[i]) else None
            base, other = lift(lambda b, o, at=at: _summed_over_time(b, o, at), [base, other])
        else:
            (other,) = lift(lambda o: [jnp.moveaxis(o, 1, 0)], [other])
        made[i] = made[i]._replace(base=base, slots=other)
    return outs, made


def _points_of_a_step(step_of, split, values: Sequence[Value], key: Array) -> list[int]:
    """How many points each weighted choice has, besides the sample."""

    def probe(key, *arrays):
        consts, init, xs = split(arrays)
        step = step_of(consts, (-1, 0, 0))
        return step(init, (key, jnp.zeros((), int), [x[0] for x in xs]))[1][3]

    arrays = [jnp.asarray(v.array) for v in values]
    shapes = [
        jax.ShapeDtypeStruct(a.shape[v.leading :], a.dtype)
        for a, v in zip(arrays, values, strict=True)
    ]
    return [other.shape[0] for other in jax.eval_shape(probe, key, *shapes)]


def _perturbations(choices, weighted, counts, alone, length: int, key: Array) -> list[tuple]:
    """Of each perturbation: the choice, the step, the point, and its number among the choice's."""
    rows: list[tuple[int, Any, int, int]] = []
    for i, count in zip(weighted, counts, strict=True):
        if not alone[i]:
            rows += [(i, 0, p, p) for p in range(1, count + 1)]
        elif _pruned(choices[i]):
            at = jax.random.randint(jax.random.fold_in(key, i), (), 0, length)
            rows += [(i, at, p, p) for p in range(1, count + 1)]
        else:
            _check_size(choices[i], count * length)
            rows += [(i, t, p, t * count + p) for t in range(length) for p in range(1, count + 1)]
    return rows


def _pruned(choice: Choice) -> bool:
    return choice.specs[0].template.pruned


def _check_size(choice: Choice, number: int) -> None:
    if number > POINT_LIMIT:
        spec = choice.specs[0]
        raise EstimatorError(
            f"{type(spec.template).__name__}() would evaluate the scan {number:,} times",
            site=spec.name,
            where=spec.where,
            instead="ScoreFunction() or MeasureValued(prune=True) at this site",
        )


def _column(column: Sequence[Any]) -> Array:
    if any(isinstance(x, jax.Array) for x in column):
        return jnp.stack([jnp.asarray(x, jnp.int32) for x in column])
    return jnp.asarray(np.array(column, np.int32))


def _summed_over_time(base: Array, others: Array, at: Array | None) -> tuple[Array, Array]:
    """The weights of a choice that is perturbed at one step at a time.

    Args:
        base: the sample's weights, `(T, *batch)`.
        others: those of the other points, `(T, S - 1, *batch)`.
        at: the only step at which it is perturbed; `None` for every one.

    Returns:
        `(1, *batch)` and `(number, 1, *batch)`.
    """
    length = base.shape[0]
    if at is None:
        total = 1 + jnp.sum(base - 1, axis=0, keepdims=True)
        return total, others.reshape(-1, 1, *others.shape[2:])
    # All other steps are given the cost of the sample, so that the weights sum to one.
    now = length * jax.lax.dynamic_index_in_dim(others, at, keepdims=False)
    return 1 - jnp.sum(now, axis=0, keepdims=True), now[:, None]
