"""Values that differ between the points of choices, and functions lifted over them.

A `Value` is an array with leading axes of two kinds. A *point axis* belongs to a choice that stands
for several points; a function of values with different point axes has all of them (a product). The
*slots* belong to choices with a first-order estimator: slot 0 is the run as sampled, every other
one is the run in which a single choice is perturbed, so slots of different choices add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Slot = tuple[int, int]


class Value(NamedTuple):
    """An array of shape `([1 + len(slots)], *point axes, *shape)`.

    Attributes:
        array: the values.
        axes: the choices that its point axes belong to, ascending.
        slots: the perturbations, as (choice, number); empty where there is no slot axis.
        known: the same array, where it is known before anything runs (see
            `ppgen._evaluation.constants`).
    """

    array: Array
    axes: tuple[int, ...] = ()
    slots: tuple[Slot, ...] = ()
    known: np.ndarray | None = None

    @property
    def leading(self) -> int:
        """How many axes come before the value's own."""
        return len(self.axes) + bool(self.slots)


def spread(value: Value, slots: tuple[Slot, ...]) -> Any:
    """The array with a slot axis for `slots`; other perturbations do not change it."""
    if not value.slots or value.slots == slots:
        return value.array
    known = {slot: 1 + i for i, slot in enumerate(value.slots)}
    index = jnp.array([0, *(known.get(slot, 0) for slot in slots)])
    return jnp.take(value.array, index, axis=0)


def union(values: Sequence[Value]) -> tuple[tuple[int, ...], tuple[Slot, ...]]:
    """The point axes and the slots of a function of several values."""
    axes = {a for v in values for a in v.axes}
    slots = {s for v in values for s in v.slots}
    return tuple(sorted(axes)), tuple(sorted(slots))


def over_points(
    fn: Callable[..., Sequence[Array]], values: Sequence[Value]
) -> tuple[Callable[..., Sequence[Array]], list[Any], tuple[int, ...], tuple[Slot, ...]]:
    """A function of arrays at every point and in every slot.

    Returns:
        The function, what to apply it to, and the point axes and the slots of its results.
    """
    axes, slots = union(values)
    for axis in reversed(axes):
        fn = jax.vmap(fn, [0 if axis in v.axes else None for v in values])
    if slots:
        fn = jax.vmap(fn, [0 if v.slots else None for v in values])
    return fn, [spread(v, slots) for v in values], axes, slots


def lift(fn: Callable[..., Sequence[Array]], values: Sequence[Value]) -> list[Value]:
    """Apply a function of arrays to values, at every point and in every slot."""
    fn, arrays, axes, slots = over_points(fn, values)
    return [Value(out, axes, slots) for out in fn(*arrays)]


def at_base(value: Value) -> Value:
    """The run as sampled, without perturbations."""
    return Value(value.array[0], value.axes) if value.slots else value


def at_first_point(value: Value) -> Any:
    """The array at the first point of every axis."""
    return value.array[(0,) * value.leading] if value.leading else value.array
