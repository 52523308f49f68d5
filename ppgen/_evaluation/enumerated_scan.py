"""Evaluating a scan with Markov structure: a forward pass that sums over all paths of its choices.

Before each step the state (see `_markov`) stands for a set of points with weights, the marginal
distribution of what is carried. A step is evaluated at every pair of an old point and new choices;
then the old points are summed over. Outputs that depend on the new choices alone are returned as
points with the choices' marginal weights; those that also depend on the old state are returned as
expectations.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen._analysis.choices import choices_of_equation
from ppgen._analysis.influence import NONE
from ppgen._evaluation.contraction import contract, place
from ppgen._evaluation.control_flow import joint_within_step
from ppgen._evaluation.make_choice import Made
from ppgen._evaluation.markov_step import OLD
from ppgen._evaluation.steps_at_once import fits, steps_at_once
from ppgen._evaluation.values import Value, lift
from ppgen._lowering.scan_structure import markov


def markov_scan(
    outer: Any, eqn: _jax.Eqn, values: Sequence[Value], key: Array, index: int
) -> tuple[list[Value], list[Made]]:
    """A scan over choices with fixed points, of which only those of the last step are carried.

    Time is `O(T S^2)` and memory `O(T S)`, in reverse mode too, for `S` joint values of the choices
    of a step.

    References:
        Rabiner, *A Tutorial on Hidden Markov Models*, Proceedings of the IEEE 77, 1989.
        Obermeyer et al., *Tensor Variable Elimination for Plated Factor Graphs*, ICML 2019.
    """
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    num_consts, num_carry = _jax.scan_counts(eqn)
    structure: Any = markov(body, num_consts, num_carry)
    state = sorted(structure.state)
    count = len(choices_of_equation(eqn))
    influences = [outer.influence(v) if outer.influence else NONE for v in eqn.outvars]
    joint = joint_within_step(outer.joint, index, count)
    axes_of: list[tuple[int, ...]] = []

    def places(i: int) -> Sequence[Any] | None:
        """Where a stacked output has the axes of the choices' batch, time included."""
        aligned = influences[num_carry + i].aligned
        (found,) = {aligned.get(index + k) for k in range(count)} - {None} or {None}
        return found

    def in_order(*arrays):
        consts = [Value(a) for a in arrays[:num_consts]]
        init = [jnp.asarray(a) for a in arrays[num_consts : num_consts + num_carry]]
        xs = list(arrays[num_consts + num_carry :])

        def evaluate(key, carry, xs):
            inner = outer.inside(key, joint)
            carried = [Value(c, (OLD,) if i in state else ()) for i, c in enumerate(carry)]
            outs = inner(body, [*consts, *carried, *map(Value, xs)])
            return outs, [inner.made[i].weight for i in range(count)]

        # How many points there are, and of which choices the state is a function.
        outs, weights = _probe(evaluate, key, init, xs, state)
        sizes = {i: w.array.shape[w.axes.index(i)] for i, w in enumerate(weights)}
        kept = tuple(sorted({a for i in state for a in outs[i].axes}))
        number = math.prod(sizes[a] for a in kept)
        batch = jnp.broadcast_shapes(*(w.array.shape[len(w.axes) :] for w in weights))
        everywhere = [Value(jnp.zeros(sizes[a]), (a,)) for a in kept]

        def listed(value: Value) -> Array:
            (full,) = lift(lambda x, *_: [x], [value, *everywhere])
            return full.array.reshape(number, *full.array.shape[len(kept) :])

        def step(carry, key_and_xs):
            old, carry = carry
            outs, weights = evaluate(key_and_xs[0], carry, key_and_xs[1])
            (paths,) = lift(
                lambda *w: [functools.reduce(operator.mul, w)], [Value(old, (OLD,)), *weights]
            )
            new = Value(jnp.sum(paths.array, axis=0), paths.axes[1:])
            gone = tuple(k for k, a in enumerate(new.axes) if a not in kept)
            marginal = jnp.sum(new.array, axis=gone).reshape(number, *batch)
            carry = [listed(o) if i in state else o.array for i, o in enumerate(outs[:num_carry])]
            ys = []
            for i, y in enumerate(outs[num_carry:], num_carry):
                if OLD in y.axes:
                    y = Value(expected(y, paths, places(i - num_carry)))
                ys.append(y)
            axes_of[:] = [y.axes for y in ys]
            return (marginal, carry), ([y.array for y in ys], new.array)

        def expected(y: Value, paths: Value, found: Sequence[Any] | None) -> Array:
            shape = y.array.shape[len(y.axes) :]
            # Where the output has the axes of the choices' batch, less the axis of time.
            inside = [None] * len(batch)
            if found is not None:
                inside = [p if p is None else (p[0] - 1, p[1]) for p in found[1:]]
            (weight,) = lift(lambda w: [place(w, inside, shape)], [paths])
            return contract([y, weight], shape)

        start = jnp.zeros((number, *batch), weights[0].array.dtype).at[0].set(1)
        init = [
            jnp.broadcast_to(c, (number, *c.shape)) if i in state else c for i, c in enumerate(init)
        ]
        keys = jax.random.split(key, length)
        (_, carry), (ys, weight) = jax.lax.scan(
            # What a step computes at S^2 points is computed again in the reverse pass.
            jax.checkpoint(step, prevent_cse=False),
            (start, init),
            (keys, xs),
            length=length,
            reverse=eqn.params["reverse"],
        )
        leading = [*axes_of, tuple(range(count))]
        stacked = [jnp.moveaxis(a, 0, len(n)) for a, n in zip([*ys, weight], leading, strict=True)]
        # What is carried out of the last step is a set of points, for which nobody may ask.
        return [*(c[0] if i in state else c for i, c in enumerate(carry)), *stacked]

    run = in_order
    if fits(eqn):
        run = steps_at_once(outer, eqn, values, structure, joint, places, axes_of)
    *outs, weight = lift(run, values)
    weight = _own(weight, range(count), index)
    own = [()] * num_carry + axes_of
    outs = [_own(o, axes, index) for o, axes in zip(outs, own, strict=True)]
    return outs, [Made(weight=weight)] * count


def _probe(evaluate: Any, key: Array, init: list[Any], xs: list[Any], state: Sequence[int]) -> Any:
    """The outputs of one step, as shapes."""
    axes: list[Any] = []

    def probe(key, carry, xs):
        found = evaluate(key, carry, xs)
        axes.append([[v.axes for v in values] for values in found])
        return [[v.array for v in values] for values in found]

    carry = [c[None] if i in state else c for i, c in enumerate(init)]
    shapes = jax.eval_shape(probe, key, carry, [x[0] for x in xs])
    pairs = zip(shapes, axes[0], strict=True)
    return [[Value(a, ax) for a, ax in zip(arrays, own, strict=True)] for arrays, own in pairs]


def _own(value: Value, axes: Sequence[int], index: int) -> Value:
    return Value(value.array, (*value.axes, *(index + a for a in axes)), value.slots)
