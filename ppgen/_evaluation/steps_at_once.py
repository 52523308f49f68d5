"""Evaluating a scan with Markov structure with its steps side by side, time being an axis.

Only the weights of the points need the steps in order. So the body is evaluated once, at all steps
and all pairs of an old point and new choices, which leaves for the loop a product of a row of
weights and a matrix. What does not depend on time or on the old point has neither axis, and is
computed once.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen._evaluation.contraction import contract, place
from ppgen._evaluation.make_choice import POINT_LIMIT
from ppgen._evaluation.markov_step import OLD, TIME, States, Step, at, during, over_time
from ppgen._evaluation.matrix_chain import rows_of_products
from ppgen._evaluation.values import Value, lift
from ppgen._lowering.scan_structure import Markov
from ppgen._staging.primitives import equations, is_random
from ppgen.estimators._enumerate import Enumerate

NUMBERS = 1 << 18
"""Numbers that one value may consist of, over all steps that are evaluated side by side."""

Places = Callable[[int], Sequence[Any] | None]


def fits(eqn: _jax.Eqn) -> bool:
    """Whether the steps of a scan may be evaluated side by side.

    Side by side, all branches of a `cond` would be run, with derivatives that need not be finite
    in the one that is not taken; and noise would have to be drawn before.
    """
    if eqn.params["length"] == 0:
        return False
    for e in equations(eqn.params["jaxpr"]):
        if e.primitive.name in ("cond", "while") or e.effects:
            return False
        template = e.params["spec"].template if e.primitive.name == "random_choice" else None
        if is_random(e) and type(template) is not Enumerate:
            return False
    return True


def steps_at_once(
    outer: Any,
    eqn: _jax.Eqn,
    values: Sequence[Value],
    structure: Markov,
    joint: dict[int, list[int]],
    places: Places,
    axes_of: list[tuple[int, ...]],
) -> Callable[..., list[Any]]:
    """The scan as a function of its operands, which are arrays.

    As many steps are evaluated side by side as fit into `NUMBERS`. Such blocks follow each other in
    a loop that stores what is carried only, so that memory is linear in the number of states.

    Args:
        outer: the pass that the scan is part of.
        eqn: its equation.
        values: its operands; of use is what is known of them.
        structure: its structure.
        joint: batch axes of its choices that some cost mixes.
        places: where the output of this number has the axes of the choices' batch, time included.
        axes_of: becomes the point axes of the stacked outputs.
    """
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    num_consts, num_carry = _jax.scan_counts(eqn)
    known = [None if v.leading else v.known for v in values]

    def in_order(x: Value) -> Value:
        """An input of the steps, in the order in which they are made."""
        array = jnp.flip(x.array, 0) if reverse else x.array
        known = x.known if x.known is None or not reverse else x.known[::-1]
        return Value(array, (TIME,), known=known)

    def run(*arrays: Array) -> list[Any]:
        given = [Value(a, known=k) for a, k in zip(arrays, known, strict=True)]
        consts, init = given[:num_consts], given[num_consts : num_consts + num_carry]
        xs = [in_order(x) for x in given[num_consts + num_carry :]]
        step = Step(outer, eqn.params["jaxpr"], num_carry, sorted(structure.state), joint, consts)
        into, last = step.carried(init, xs, length)
        # The first step begins at one point.
        outs, weights, largest = step(init, [at(x, 0) for x in xs])
        weight = _product(weights)
        states = step.states(weights)
        parallel = any(e.params["spec"].template.parallel for e in step.choices)
        block = _Block(step, states, init, outs, structure.paired, places, parallel)
        found = block.results(outs, None, weight, weight, 1)
        row = _by_state(weight, states)[0]
        for part in block.rest(row, [*into, *xs], length - 1, states.number * largest):
            found = [_joined(a, b, states) for a, b in zip(found, part, strict=True)]
        axes_of[:] = [y.axes for y in found[:-1]]
        found = [jnp.flip(y.array, len(y.axes)) if reverse else y.array for y in found]
        return [*last, *found]

    return run


class _Block(NamedTuple):
    """Steps side by side.

    Attributes:
        step: one of them.
        states: the points of the state.
        init: what is carried into the first step of all.
        first: what comes out of it.
        paired: for each stacked output, whether it depends on the state before the step.
        places: where it has the axes of the choices' batch.
        parallel: whether the weights are to be computed parallel in time.
    """

    step: Step
    states: States
    init: Sequence[Value]
    first: Sequence[Value]
    paired: Sequence[bool]
    places: Places
    parallel: bool

    def rest(self, row: Array, inputs: list[Value], steps: int, numbers: int) -> list[list[Value]]:
        """The results of all steps after the first.

        Args:
            row: the weights of the state after the first step.
            inputs: what is carried into all steps, and their inputs.
            steps: how many there are.
            numbers: how many numbers one of them computes at most, in one value.
        """
        if not steps:
            return []
        limit = POINT_LIMIT if self.parallel else NUMBERS
        size = min(steps, max(1, limit // numbers))
        count, left = divmod(steps, size)
        if count == 1:
            row, found = self(row, inputs, size)
            parts = [found]
        else:
            row, found = self._looped(row, inputs, size, count)
            parts = [found]
        if left:
            inputs = [during(v, count * size, steps + 1) for v in inputs]
            parts.append(self(row, inputs, left)[1])
        return parts

    def _looped(
        self, row: Array, inputs: list[Value], size: int, count: int
    ) -> tuple[Array, list[Value]]:
        timed = [k for k, v in enumerate(inputs) if TIME in v.axes]
        axes: list[tuple[int, ...]] = []
        # Of each block its inputs, and the one before.
        begins = size * jnp.arange(count)[:, None] + jnp.arange(size + 1)
        blocks = [jnp.asarray(inputs[k].array)[begins] for k in timed]

        def one(row, arrays):
            own = list(inputs)
            for k, array in zip(timed, arrays, strict=True):
                own[k] = Value(array, inputs[k].axes)
            row, found = self(row, own, size)
            axes[:] = [y.axes for y in found]
            return row, [y.array for y in found]

        # What a step computes at all pairs is computed again in the reverse pass.
        one = jax.checkpoint(one, prevent_cse=False)
        row, found = jax.lax.scan(one, row, blocks)

        def merged(array: Array, axes: tuple[int, ...]) -> Value:
            array = jnp.moveaxis(array, 0, len(axes))
            before, own = array.shape[: len(axes)], array.shape[len(axes) + 2 :]
            return Value(array.reshape(*before, count * size, *own), axes)

        return row, [merged(a, ax) for a, ax in zip(found, axes, strict=True)]

    def __call__(self, row: Array, inputs: list[Value], steps: int) -> tuple[Array, list[Value]]:
        """The weights of the state after some steps, and the results of each of them.

        Args:
            row: the weights of the state before them.
            inputs: what is carried into the step before them and into each of them, and inputs.
            steps: how many there are.
        """
        step, states, n = self.step, self.states, self.step.num_carry
        now = [during(v, 1, steps + 1) for v in inputs]
        steered = step.steered(inputs[:n])
        state = {i: self.first[i] for i in step.state}
        if steered:
            before = [during(v, 0, steps) for v in inputs]
            state |= dict(zip(steered, step(before[:n], before[n:], steered)[0], strict=True))
        for i, value in state.items():
            now[i] = states.listed(value)
        outs, weights, _ = step(now[:n], now[n:])
        weight = _product(weights)
        rows = rows_of_products(row, _by_state(weight, states), steps, parallel=self.parallel)
        old = Value(jnp.concatenate([row[None], rows[:-1]]), (TIME, OLD))
        if states.gone:
            (paths,) = lift(lambda a, b: [a * b], [old, weight])
            new = Value(jnp.sum(paths.array, axis=1), (TIME, *paths.axes[2:]))
        else:
            sizes = [states.sizes[a] for a in states.kept]
            new = Value(rows.reshape(steps, *sizes, *rows.shape[2:]), (TIME, *states.kept))
        return rows[-1], self.results(outs, old, weight, new, steps)

    def results(
        self, outs: Sequence[Value], old: Value | None, weight: Value, new: Value, steps: int
    ) -> list[Value]:
        """Stacked outputs and weights, with time as the first of their own axes.

        Args:
            outs: what comes out of the steps.
            old: the weights of the old points, where there is not just one.
            weight: the weights of new choices given the old point.
            new: the weights of new choices.
            steps: how many steps these are.
        """
        found = []
        for i, y in enumerate(outs[self.step.num_carry :]):
            if self.paired[i] and y.axes not in ((), (TIME,)):
                # Given the old point first: then what differs between pairs is used once.
                y = _expected(y, weight, (TIME, OLD), self.places(i))
                if old is not None:
                    y = _expected(y, old, (TIME,), self.places(i))
            found.append(over_time(y, steps))
        return [*found, over_time(new, steps)]


def _product(weights: Sequence[Value]) -> Value:
    return lift(lambda *w: [functools.reduce(operator.mul, w)], weights)[0]


def _by_state(weight: Value, states: States) -> Array:
    """The weights of new states given the old one: `([T], old or 1, new, *batch)`."""
    axes = weight.axes
    array = jnp.sum(weight.array, axis=tuple(axes.index(a) for a in states.gone))
    timed, own = axes[:1] == (TIME,), weight.array.shape[len(axes) :]
    old = states.number if OLD in axes else 1
    return array.reshape(*array.shape[:timed], old, states.number, *own)


def _expected(y: Value, weight: Value, kept: Sequence[int], places: Sequence[Any] | None) -> Value:
    """The sum over all points by their weights, but for the points of axes that are kept.

    Args:
        y: what is summed.
        weight: the weights.
        kept: axes to keep.
        places: where the stacked output `y` has the axes of the choices' batch, time included.
    """
    sizes = {a: v.array.shape[k] for v in (y, weight) for k, a in enumerate(v.axes)}
    kept = [a for a in kept if a in sizes]
    n, batch = len(kept), weight.array.ndim - len(weight.axes)
    term = _with_own(y, kept, sizes)
    own = _with_own(weight, kept, {})
    shape = term.array.shape[len(term.axes) :]
    inside = [None] * batch
    if places is not None:
        inside = [p if p is None else (p[0] - 1 + n, p[1]) for p in places[1:]]
    same = [(k, "=") for k in range(n)]
    (own,) = lift(lambda w: [place(w, [*same, *inside], shape)], [own])
    return Value(contract([term, own], shape), tuple(kept))


def _with_own(value: Value, axes: Sequence[int], sizes: dict[int, int]) -> Value:
    """The value with some point axes as the first of its own; of length one where it has none.

    They are as long as `sizes` says.
    """
    points = tuple(a for a in value.axes if a not in axes)
    there = [value.axes.index(a) for a in axes if a in value.axes]
    array = jnp.moveaxis(value.array, there, range(len(points), len(points) + len(there)))
    new = [len(points) + k for k, a in enumerate(axes) if a not in value.axes]
    array = jnp.expand_dims(array, new)
    shape = list(array.shape)
    for k, a in enumerate(axes, len(points)):
        shape[k] = sizes.get(a, shape[k])
    return Value(jnp.broadcast_to(array, shape), points)


def _joined(a: Value, b: Value, states: States) -> Value:
    """One after the other in time."""
    axes = sorted({*a.axes, *b.axes})
    parts = [states.expanded(v, axes).array for v in (a, b)]
    return Value(jnp.concatenate(parts, axis=len(axes)), tuple(axes))
