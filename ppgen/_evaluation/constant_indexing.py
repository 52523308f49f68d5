"""Operations that become simpler if their index or predicate is known.

Indices that are all values in order make a gather a transposition, so that its derivative has no
scatter. XLA comes too late for that, after differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppgen._evaluation.constants import as_array, varying

# Rules are `(params, shape, *operands) -> array or None`, called with known arrays at the operands
# that steer.


def _select(params: dict, shape: tuple[int, ...], which: np.ndarray, *cases: Any) -> Any:
    """The same case everywhere."""
    same = varying(which).ravel()
    return cases[int(same[0])] if len(same) == 1 else None


def _dynamic_slice(params: dict, shape: tuple[int, ...], x: Any, *starts: np.ndarray) -> Any:
    room = [n - size for n, size in zip(x.shape, shape, strict=True)]
    begin = [min(max(int(i), 0), most) for i, most in zip(starts, room, strict=True)]
    return jax.lax.slice(as_array(x), begin, [i + n for i, n in zip(begin, shape, strict=True)])


def _gather(params: dict, shape: tuple[int, ...], operand: Any, indices: np.ndarray) -> Any:
    """A product of slices: every axis is indexed along at most one axis of the result."""
    if not indices.size:
        return None
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    # Axes of the result: those of the indices, but for the last, and those of the slices.
    batch = [k for k in range(len(shape)) if k not in numbers.offset_dims]
    removed = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    sliced = [a for a in range(len(sizes)) if a not in removed]
    place: dict[int, int] = dict(zip(sliced, numbers.offset_dims, strict=True))
    for a, k in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        place[a] = batch[k]
    picked: dict[int, np.ndarray] = {}
    for position, a in enumerate(numbers.start_index_map):
        values = varying(indices[..., position])
        along = [k for k, n in enumerate(values.shape) if n != 1]
        start = values.ravel()
        inside = start.min() >= 0 and start.max() + sizes[a] <= operand.shape[a]
        if not inside or len(along) > 1 or (along and sizes[a] != 1):
            return None
        if along:
            place[a] = batch[along[0]]
        picked[a] = start
    if len(set(place.values())) < len(place):
        return None
    out = as_array(operand)
    for a, size in enumerate(sizes):
        if a not in numbers.operand_batching_dims:
            start = picked.get(a, np.zeros(1, int))
            out = _along(out, a, start if size == 1 else np.arange(start[0], start[0] + size))
    order = sorted(place, key=lambda a: place[a])
    out = jnp.squeeze(out, [a for a in range(len(sizes)) if a not in place])
    rank = {a: i for i, a in enumerate(sorted(place))}
    out = jnp.transpose(out, [rank[a] for a in order])
    return jax.lax.broadcast_in_dim(out, shape, [place[a] for a in order])


def _along(x: Any, axis: int, index: np.ndarray) -> Any:
    """The elements of `index` along an axis: all of them, a slice, or a gather along this axis."""
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step < 1 or not np.array_equal(index, index[0] + step * np.arange(len(index))):
        return jnp.take(x, index, axis=axis, mode="clip")
    if len(index) == x.shape[axis]:
        return x
    return jax.lax.slice_in_dim(x, int(index[0]), int(index[-1]) + 1, step, axis)


STEERED: dict[str, Callable] = {
    "select_n": _select,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
}
STEERING = {"select_n": slice(1), "gather": slice(1, 2), "dynamic_slice": slice(1, None)}
