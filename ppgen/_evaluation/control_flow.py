"""Control flow around choices, in direct style: each region is evaluated once, as itself.

A branch, a loop body or a rematerialised function is a *region*. It is run by a pass of its own in
the same control flow primitive, which also returns what the outside must know of its choices: log
densities where they are single points, weights where they are several. Compiled size is that of the
region, however many of them follow each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen._derivatives import magic_box
from ppgen._evaluation.make_choice import Made
from ppgen._evaluation.values import Value, lift, union
from ppgen._lowering.lower import choice_specs
from ppgen._sampling.joint_draws import common_step
from ppgen._user_lines import where
from ppgen.errors import ControlFlowError

Result = tuple[list[Value], list[Made]]


def scan_region(outer, eqn, values: Sequence[Value], key: Array, index: int) -> Result:
    """A scan whose choices are single points; their log densities are stacked along time."""
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    num_consts, num_carry = _jax.scan_counts(eqn)
    present: list[tuple[bool, ...]] = []

    def run(*arrays):
        consts, init = arrays[:num_consts], arrays[num_consts : num_consts + num_carry]

        def step(carry, xs):
            key, xs = xs
            inner = outer.inside(key)
            outs = [o.array for o in inner(body, [Value(a) for a in (*consts, *carry, *xs)])]
            made = [inner.made[i] for i in sorted(inner.made)]
            present[:], extra = kept_of_step(made)
            return outs[:num_carry], (outs[num_carry:], extra)

        carry, (ys, extra) = jax.lax.scan(
            step,
            list(init),
            (jax.random.split(key, length), list(arrays[num_consts + num_carry :])),
            length=length,
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
        )
        return [*carry, *ys, *extra]

    outs = lift(run, values)
    n = len(eqn.outvars)
    return outs[:n], made_in_loop(present, iter(outs[n:]))


def kept_of_step(made: Sequence[Made]) -> tuple[list[tuple[bool, ...]], list[Array]]:
    """The values that a loop keeps of the choices of a step, and which of them each choice has."""
    kept = [(m.score, m.control, m.baseline) for m in made]
    present = [tuple(v is not None for v in each) for each in kept]
    return present, [v.array for each in kept for v in each if v is not None]


def made_in_loop(present: Sequence[tuple[bool, ...]], stacked: Iterator[Value]) -> list[Made]:
    """The choices of a loop, from the values kept of its steps."""
    made = []
    for each in present:
        score, control, baseline = (next(stacked) if has else None for has in each)
        control = None if control is None else _summed(control)
        made.append(Made(score=score, control=control, baseline=baseline))
    return made


def joint_within_step(joint: Mapping[int, Collection[int]], index: int, count: int):
    """The joint batch axes of the choices of a scan as its body sees them, without time."""
    return {i: [a - 1 for a in joint.get(index + i, ()) if a > 0] for i in range(count)}


def _summed(value: Value) -> Value:
    return Value(jnp.sum(value.array, axis=value.leading), value.axes, value.slots)


def while_region(outer, eqn, values: Sequence[Value], key: Array, index: int) -> Result:
    """A while loop: single points only, differentiable in forward mode, as `while_loop` is."""
    cond, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    scored = bool(choice_specs(body))
    coupled = any(getattr(s.template, "coupled", False) for s in choice_specs(body))

    def run(*arrays):
        cond_consts, body_consts, init = arrays[:n], arrays[n : n + m], arrays[n + m :]

        def keep_going(state):
            opened, consts = _jax.open_jaxpr(cond)
            return jax.core.eval_jaxpr(opened, consts, *cond_consts, *state[0])[0]

        def step(state):
            carry, i, score, control = state
            inner = outer.inside(jax.random.fold_in(key, common_step(i) if coupled else i))
            outs = inner(body, [Value(a) for a in (*body_consts, *carry)])
            new_score, new_control = _totals(inner.made.values(), score.dtype)
            return [o.array for o in outs], i + 1, score + new_score, control + new_control

        zero = jnp.zeros((), jnp.result_type(float))
        carry, _, score, control = jax.lax.while_loop(
            keep_going, step, (list(init), jnp.zeros((), jnp.int32), zero, zero)
        )
        guard = _reverse_mode_guard(eqn)
        return [*(guard(c) for c in carry), guard(score), guard(control)]

    *outs, score, control = lift(run, values)
    return outs, [Made(score=score, control=control)] if scored else []


def _reverse_mode_guard(eqn: _jax.Eqn):
    """Identity whose transpose explains why there is no reverse mode, with the user's line."""
    specs = [s for jaxpr in _jax.subjaxprs(eqn) for s in choice_specs(jaxpr)]
    message = ControlFlowError(
        "reverse-mode differentiation through a while_loop with random choices",
        site=specs[0].name if specs else None,
        where=where(eqn),
        instead="jax.jvp or jax.jacfwd, or jax.lax.scan over the largest number of steps",
    )

    return lambda x: (
        _forward_only_p.bind(x, error=message) if jnp.issubdtype(x.dtype, jnp.inexact) else x
    )


def _raise_error(cotangent, x, *, error):
    raise error


_forward_only_p = _jax.define_marker("forward_only", _raise_error)


def _totals(made: Any, dtype: Any) -> tuple[Array, Array]:
    score = control = jnp.zeros((), dtype)
    for m in made:
        if m.score is not None:
            score = score + jnp.sum(m.score.array).astype(dtype)
        if m.control is not None:
            control = control + jnp.sum(m.control.array).astype(dtype)
    return score, control


def remat_region(outer, eqn, values: Sequence[Value], key: Array, index: int) -> Result:
    """A rematerialised function with choices in it."""
    several = any(s.template.weighted for s in choice_specs(_jax.subjaxprs(eqn)[0]))
    branch = _branch(outer, _jax.subjaxprs(eqn)[0], key, several)

    def run(*arrays):
        return jax.checkpoint(
            branch, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"]
        )(*arrays)

    scored = bool(choice_specs(_jax.subjaxprs(eqn)[0]))
    return _finish(lift(run, values), len(eqn.outvars), scored, several, index)


def cond_region(outer, eqn, values: Sequence[Value], key: Array, index: int) -> Result:
    """A cond or switch: only the taken branch runs, and its choices come out as one."""
    jaxprs = eqn.params["branches"]
    specs = [s for jaxpr in jaxprs for s in choice_specs(jaxpr)]
    several = any(s.template.weighted for s in specs)
    # One key serves all branches: only one of them runs.
    branches = [_branch(outer, jaxpr, key, several) for jaxpr in jaxprs]

    def run(which, *operands):
        chosen = branches
        if several:
            shapes = [jax.eval_shape(branch, *operands) for branch in branches]
            count = max(shape[-2].shape[0] for shape in shapes)
            chosen = [_padded(branch, count) for branch in branches]
        return jax.lax.switch(which, chosen, *operands)

    return _finish(lift(run, values), len(eqn.outvars), bool(specs), several, index)


def _branch(outer, jaxpr: Any, key: Array, several: bool):
    """A region as a function of arrays: its outputs, its weights or log density, its control."""

    def branch(*operands):
        inner = outer.inside(key)
        outs = inner(jaxpr, [Value(a) for a in operands])
        dtype = jnp.result_type(float)
        if not several:
            score, control = _totals(inner.made.values(), dtype)
            return [*(o.array for o in outs), score, control]
        return _flattened(outs, inner.made, dtype)

    return branch


def _flattened(outs: list[Value], made: dict[int, Made], dtype: Any) -> list[Array]:
    """All points and slots of a region's choices as one list of points with one weight each."""
    weighted = [v for m in made.values() for v in (m.weight, m.base, m.score) if v is not None]
    axes, slots = union([*outs, *weighted])
    slots = tuple(sorted({*slots, *_own_slots(made)}))
    sizes = {
        axis: v.array.shape[v.axes.index(axis) + bool(v.slots)]
        for v in (*outs, *weighted)
        for axis in v.axes
    }
    # Lifting over empty values that have all axes gives every value all of them.
    everywhere = [Value(jnp.zeros(sizes[a]), (a,)) for a in axes]
    if slots:
        everywhere.append(Value(jnp.zeros(1 + len(slots)), (), slots))

    def listed(value: Value) -> Array:
        (full,) = lift(lambda x, *_: [x], [value, *everywhere])
        return full.array.reshape(-1, *full.array.shape[full.leading :])

    factors = []
    for choice, m in made.items():
        factors += [v for v in (m.weight, m.base) if v is not None]
        if m.score is not None:
            factors += lift(lambda s: [magic_box(jnp.sum(s))], [m.score])
        if m.slots is not None:
            factors.append(_slot_factor(choice, m.slots, slots))
    weight = Value(jnp.ones((), dtype))
    for factor in factors:
        (weight,) = lift(lambda t, w: [t * jnp.sum(w).astype(dtype)], [weight, factor])
    return [*(listed(o) for o in outs), listed(weight), jnp.zeros((), dtype)]


def _own_slots(made: dict[int, Made]) -> list[tuple[int, int]]:
    return [
        (choice, j)
        for choice, m in made.items()
        if m.slots is not None
        for j in range(1, 1 + m.slots.array.shape[len(m.slots.axes)])
    ]


def _slot_factor(choice: int, weights: Value, slots: Sequence[tuple[int, int]]) -> Value:
    """One, except in the choice's own slots, where it is the weight of the perturbation."""
    axis = len(weights.axes)
    rows = jnp.moveaxis(weights.array, axis, 0)
    rows = rows.reshape(rows.shape[: axis + 1])
    one = jnp.ones_like(rows[0])
    stacked = [one, *(rows[j - 1] if owner == choice else one for owner, j in slots)]
    return Value(jnp.stack(stacked), weights.axes, tuple(slots))


def _padded(branch, count: int):
    def run(*operands):
        *outs, weight, control = branch(*operands)
        missing = count - weight.shape[0]
        if missing:
            outs = [jnp.concatenate([o, jnp.repeat(o[:1], missing, axis=0)]) for o in outs]
            weight = jnp.concatenate([weight, jnp.zeros(missing, weight.dtype)])
        return [*outs, weight, control]

    return run


def _finish(outs: list[Value], n: int, scored: bool, several: bool, index: int) -> Result:
    *outs, last, control = outs
    if not several:
        return outs[:n], [Made(score=last, control=control)] if scored else []

    def own(value: Value) -> Value:
        return Value(value.array, (*value.axes, index), value.slots)

    return [own(o) for o in outs[:n]], [Made(weight=own(last))]
