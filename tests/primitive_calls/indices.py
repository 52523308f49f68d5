"""Calls of primitives with indices: dynamic slices, gathers and scatters."""

from __future__ import annotations

from collections.abc import Callable

from jax import lax

from primitive_calls.axes import _any
from primitive_calls.operands import Maker, _axis, a_shape, integers, one_of, reals


def _dynamic_slice(rng):
    x = _any(rng)
    sizes = [int(rng.integers(n + 1)) for n in x.shape]
    starts = [integers(rng, (), -2, n + 2) for n in x.shape]
    return lambda x, *i: lax.dynamic_slice(x, i, sizes), [x, *starts]


def _dynamic_update_slice(rng):
    x = _any(rng)
    part = x[tuple(slice(int(rng.integers(n + 1))) for n in x.shape)]
    starts = [integers(rng, (), -2, n + 2) for n in x.shape]
    return lambda x, y, *i: lax.dynamic_update_slice(x, y, i), [
        x,
        (part + 50).astype(x.dtype),
        *starts,
    ]


_MODES = ["clip", "fill", "promise_in_bounds"]


def _gather(rng):
    x = _any(rng)
    axis = one_of(rng, *(k for k, n in enumerate(x.shape) if n))
    n = x.shape[axis]
    mode = one_of(rng, *_MODES) if x.size else "fill"
    inside = mode == "promise_in_bounds"
    index = integers(
        rng, one_of(rng, (2,), (2, 3), ()), 0 if inside else -1, max(n, 1) + (not inside)
    )
    fill = one_of(rng, None, 0, 3) if mode == "fill" else None
    kind = int(rng.integers(3))
    if kind == 0 or x.ndim < 2 or not x.size:  # along one axis, like jnp.take
        dims = lax.GatherDimensionNumbers(
            offset_dims=tuple(
                k if k < axis else k + index.ndim - 1 for k in range(x.ndim) if k != axis
            ),
            collapsed_slice_dims=(axis,),
            start_index_map=(axis,),
        )
        sizes = [1 if k == axis else m for k, m in enumerate(x.shape)]
        start = index[..., None]
    elif kind == 1:  # a window at a place, of which one axis goes
        sizes = [1, *(int(rng.integers(1, m + 1)) for m in x.shape[1:])]
        start = integers(rng, (2, x.ndim), 0, 1 if inside else 4)
        order = tuple(rng.permutation(x.ndim).tolist())
        dims = lax.GatherDimensionNumbers(
            offset_dims=tuple(range(1, x.ndim)), collapsed_slice_dims=(0,), start_index_map=order
        )
    else:  # an index for each element of the first axis
        top = 0 if inside else -1
        start = integers(rng, (x.shape[0], 2, 1), top, x.shape[1] - top - 1 or 1)
        sizes = [1, 1, *x.shape[2:]]
        dims = lax.GatherDimensionNumbers(
            offset_dims=tuple(range(2, x.ndim)),
            collapsed_slice_dims=(1,),
            start_index_map=(1,),
            operand_batching_dims=(0,),
            start_indices_batching_dims=(0,),
        )
    one = start[..., 0].size == 1  # in order, and not twice
    return lambda x, i: lax.gather(
        x, i, dims, sizes, mode=mode, fill_value=fill, unique_indices=one, indices_are_sorted=one
    ), [x, start]


def _scatter(fn: Callable) -> Maker:
    def maker(rng):
        x = reals(rng, a_shape(rng, 1))
        axis = _axis(rng, x)
        index = integers(rng, (2, 1), -1, x.shape[axis] + 1)
        rest = tuple(n for k, n in enumerate(x.shape) if k != axis)
        dims = lax.ScatterDimensionNumbers(
            update_window_dims=tuple(range(1, x.ndim)),
            inserted_window_dims=(axis,),
            scatter_dims_to_operand_dims=(axis,),
        )
        mode = one_of(rng, "clip", "fill")
        return lambda x, i, u: fn(x, i, u, dims, mode=mode), [x, index, reals(rng, (2, *rest))]

    return maker
