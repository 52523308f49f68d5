"""Slices, gathers and scatters on many lanes at once, as `_lane_rules`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppgen.testing._lane_axes import full, lanes_of, rank


def _starts(eqn: Any, starts: Any, shape: Any, sizes: Any) -> list[Any]:
    """Where a slice begins, moved so that it lies within."""
    limits = [n - size for n, size in zip(shape, sizes, strict=True)]
    return [np.clip(s, 0, n) for s, n in zip(starts, limits, strict=True)]


def _grid_of(starts: Sequence[Any], sizes: Any, lanes: tuple[int, ...]) -> list[Any]:
    """An index for each axis, `(*lanes, *sizes)` by broadcasting."""
    n = len(sizes)
    out = []
    for k, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        own = np.arange(size).reshape((*(1 if j != k else size for j in range(n)),))
        out.append(
            np.broadcast_to(start, lanes).reshape(
                (
                    *lanes,
                    *(1,) * n,
                )
            )
            + own
        )
    return out


def _lane_index(lanes: tuple[int, ...], n: int) -> list[Any]:
    """The numbers of the lanes, one array for each of their axes, over `n` more axes."""
    return [
        np.arange(size).reshape(
            (
                *(size if j == k else 1 for j in range(len(lanes))),
                *(1,) * n,
            )
        )
        for k, size in enumerate(lanes)
    ]


def dynamic_slice(eqn: Any, x: Any, *starts: Any) -> Any:
    """A slice that begins elsewhere in each lane."""
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    lanes = lanes_of(eqn, [x, *starts])
    at = _grid_of(_starts(eqn, starts, shape, sizes), sizes, lanes)
    return full(x, shape, lanes)[(*_lane_index(lanes, len(sizes)), *at)]


def dynamic_update_slice(eqn: Any, x: Any, new: Any, *starts: Any) -> Any:
    """An update that begins elsewhere in each lane."""
    shape, sizes = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape
    lanes = lanes_of(eqn, [x, new, *starts])
    at = _grid_of(_starts(eqn, starts, shape, sizes), sizes, lanes)
    out = full(x, shape, lanes).copy()
    out[(*_lane_index(lanes, len(sizes)), *at)] = full(new, sizes, lanes)
    return out


def _windows(
    eqn: Any, shape: Any, start: Any, sizes: Any, numbers: Any
) -> tuple[list[Any], list[Any]]:
    """What a gather or scatter takes as indices: of each axis of the operand, over the windows.

    Returns:
        For each axis where a window starts, `(*lanes, *batch)`, and how far each entry of a window
        is from there, over the axes of the window.
    """
    n = len(shape)
    starts: list[Any] = [np.zeros((), int)] * n
    for k, axis in enumerate(numbers["start_index_map"]):
        starts[axis] = start[..., k].astype(int)
    rows = rank(eqn.invars[1]) - 1
    for axis, at in zip(numbers["operand_batching"], numbers["start_batching"], strict=True):
        size = shape[axis]
        starts[axis] = np.arange(size).reshape((*(size if j == at else 1 for j in range(rows)),))
    left = [a for a in range(n) if a not in (*numbers["dropped"], *numbers["operand_batching"])]
    offsets = [np.zeros((), int)] * n
    for k, axis in enumerate(left):
        offsets[axis] = np.arange(sizes[axis]).reshape(
            *(sizes[axis] if j == k else 1 for j in range(len(left)))
        )
    return starts, offsets


def _index(
    eqn: Any,
    shape: Any,
    start: Any,
    sizes: Any,
    numbers: dict,
    lanes: tuple[int, ...],
    clips: bool,
) -> tuple[list[Any], Any]:
    """Indices `(*lanes, *batch, *window)` of each axis of the operand, and which windows fit."""
    start = full(start, eqn.invars[1].aval.shape, lanes)
    starts, offsets = _windows(eqn, shape, start, sizes, numbers)
    batch = start.shape[:-1]
    fits = np.ones(batch, bool)
    for axis, s in enumerate(starts):
        limit = shape[axis] - sizes[axis]
        if clips:
            starts[axis] = np.clip(s, 0, limit)
        else:
            fits = fits & (s >= 0) & (s <= limit)
            starts[axis] = np.where((s >= 0) & (s <= limit), s, 0)
    window = sum(1 for a in range(len(shape)) if a not in numbers["all_dropped"])
    at = [
        np.broadcast_to(s, batch).reshape(
            (
                *batch,
                *(1,) * window,
            )
        )
        + o
        for s, o in zip(starts, offsets, strict=True)
    ]
    return at, fits.reshape(
        (
            *batch,
            *(1,) * window,
        )
    )


def _clips(eqn: Any) -> bool:
    return "CLIP" in str(eqn.params["mode"])


def gather(eqn: Any, x: Any, start: Any) -> Any:
    """XLA's gather."""
    p, shape = eqn.params, eqn.invars[0].aval.shape
    d, lanes = p["dimension_numbers"], lanes_of(eqn, [x, start])
    numbers = {
        "start_index_map": d.start_index_map,
        "operand_batching": d.operand_batching_dims,
        "start_batching": d.start_indices_batching_dims,
        "dropped": d.collapsed_slice_dims,
        "all_dropped": (*d.collapsed_slice_dims, *d.operand_batching_dims),
    }
    at, fits = _index(eqn, shape, start, p["slice_sizes"], numbers, lanes, _clips(eqn))
    shape_out = np.broadcast_shapes(*(a.shape for a in at)) if at else fits.shape
    n = len(shape_out) - len(lanes)
    out = full(x, shape, lanes)[(*_lane_index(lanes, n), *at)]
    if not np.all(fits):
        filling = p["fill_value"]
        if filling is None:
            inexact = np.issubdtype(x.dtype, np.inexact)
            filling = np.nan if inexact else _limit(x.dtype)
        out = np.where(fits, out, np.asarray(filling).astype(x.dtype))
    # Axes of windows stand where `offset_dims` says, those of the batch take the other places.
    windows = sum(1 for a in range(len(shape)) if a not in numbers["all_dropped"])
    places = [k for k in range(n) if k not in d.offset_dims] + list(d.offset_dims)
    assert windows == len(d.offset_dims)
    order = np.argsort(places, kind="stable")
    return out.transpose(*range(len(lanes)), *(len(lanes) + int(k) for k in order))


def _limit(dtype: np.dtype) -> Any:
    if dtype.kind == "b":
        return True
    info = np.iinfo(dtype)
    return info.max if info.min == 0 else info.min


def scatter(combine: Callable | None) -> Callable:
    """XLA's scatter, with what combines old and new; `None` to replace."""

    def rule(eqn: Any, x: Any, start: Any, new: Any) -> Any:
        shape, d = eqn.invars[0].aval.shape, eqn.params["dimension_numbers"]
        lanes = lanes_of(eqn, [x, start, new])
        dropped = (*d.inserted_window_dims, *d.operand_batching_dims)
        numbers = {
            "start_index_map": d.scatter_dims_to_operand_dims,
            "operand_batching": d.operand_batching_dims,
            "start_batching": d.scatter_indices_batching_dims,
            "dropped": d.inserted_window_dims,
            "all_dropped": dropped,
        }
        own = eqn.invars[2].aval.shape
        sizes = [1] * len(shape)
        left = [a for a in range(len(shape)) if a not in dropped]
        for axis, k in zip(left, d.update_window_dims, strict=True):
            sizes[axis] = own[k]
        at, fits = _index(eqn, shape, start, sizes, numbers, lanes, _clips(eqn))
        # The updates with the axes of the batch first, then those of the window.
        rows = [k for k in range(len(own)) if k not in d.update_window_dims]
        order = [*rows, *d.update_window_dims]
        new = full(new, own, lanes)
        new = new.transpose(*range(len(lanes)), *(len(lanes) + k for k in order))
        at = [np.broadcast_to(a, new.shape) for a in (*_lane_index(lanes, len(own)), *at)]
        keep = np.broadcast_to(fits, new.shape)
        out = full(x, shape, lanes).copy()
        where = tuple(a[keep] for a in at)
        if combine is None:
            out[where] = new[keep]
        else:
            combine.at(out, where, new[keep])
        return out

    return rule
