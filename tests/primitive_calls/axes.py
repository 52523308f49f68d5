"""Calls of primitives that act along axes: reductions, sorts, changes of shape."""

from __future__ import annotations

from functools import partial

import numpy as np
from jax import lax

from primitive_calls.operands import (
    Maker,
    _axes,
    _axis,
    a_shape,
    booleans,
    complexes,
    integers,
    one_of,
    reals,
)


def _reduction(name: str) -> Maker:
    def maker(rng):
        bits = name in ("reduce_and", "reduce_or", "reduce_xor")
        kinds = [integers, booleans] if bits else [reals, integers]
        if name in ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"):
            kinds.append(complexes)
        x = one_of(rng, *kinds)(rng, a_shape(rng))
        axes = _axes(rng, x)
        return lambda x: getattr(lax, name)(x, axes), [x]

    return maker


def _arg(name: str) -> Maker:
    def maker(rng):
        x = reals(rng, a_shape(rng, 1))
        axis = _axis(rng, x)
        return lambda x: getattr(lax, name)(x, axis, np.dtype("int32")), [x]

    return maker


def _cumulative(name: str) -> Maker:
    def maker(rng):
        x = one_of(rng, reals, integers, complexes)(rng, a_shape(rng))
        if name == "cumlogsumexp":
            x = reals(rng, x.shape)
        axis, reverse = _axis(rng, x), bool(rng.integers(2))
        return lambda x: getattr(lax, name)(x, axis, reverse), [x]

    return maker


def _top_k(rng):
    x = reals(rng, a_shape(rng))
    axis = _axis(rng, x)
    k = int(rng.integers(x.shape[axis] + 1))
    return lambda x: lax.top_k(x, k, axis=axis), [x]


def _sort(rng):
    x = one_of(rng, reals, complexes, integers)(rng, a_shape(rng))
    others = [reals(rng, x.shape) for _ in range(rng.integers(3))]
    keys, stable = int(rng.integers(1, 2 + len(others))), bool(rng.integers(2))
    axis = _axis(rng, x)
    return lambda *xs: lax.sort(xs, axis, is_stable=stable, num_keys=keys), [x, *others]


def _any(rng, least: int = 0):
    return one_of(rng, reals, integers, complexes)(rng, a_shape(rng, least))


def _transpose(rng):
    x = _any(rng)
    order = tuple(rng.permutation(x.ndim).tolist())
    return lambda x: lax.transpose_p.bind(x, permutation=order), [x]


def _rev(rng):
    x = _any(rng)
    return partial(lax.rev, dimensions=_axes(rng, x)), [x]


def _reshape(rng):
    x = _any(rng)
    permuted = tuple(x.shape[k] for k in rng.permutation(x.ndim))
    new = one_of(rng, x.shape, permuted, (x.size,), (*x.shape, 1), (1, *x.shape[::-1]), (x.size, 1))
    order = tuple(rng.permutation(x.ndim).tolist()) if rng.integers(2) else None
    return lambda x: lax.reshape_p.bind(x, new_sizes=new, dimensions=order, sharding=None), [x]


def _broadcast(rng):
    x = _any(rng)
    where = sorted(rng.choice(x.ndim + 1, x.ndim, replace=False).tolist())
    new = [2] * (x.ndim + 1)
    for k, w in enumerate(where):
        new[w] = x.shape[k] if x.shape[k] != 1 or rng.integers(2) else 3
    return lambda x: lax.broadcast_in_dim(x, new, where), [x]


def _slice(rng):
    x = _any(rng)
    start = [int(rng.integers(min(n, 1) + 1)) for n in x.shape]
    limit = [max(s, n - int(rng.integers(2))) for s, n in zip(start, x.shape, strict=True)]
    strides = rng.integers(1, 3, x.ndim).tolist() if rng.integers(2) else None
    return lambda x: lax.slice_p.bind(
        x,
        start_indices=tuple(start),
        limit_indices=tuple(limit),
        strides=strides and tuple(strides),
    ), [x]


def _pad(rng):
    x = _any(rng)
    # What is cut off an axis is less than what it has.
    config = [tuple(rng.integers([-(n > 2), -(n > 1), 0], 2).tolist()) for n in x.shape]
    value = np.zeros((), x.dtype) if rng.integers(2) else np.asarray(7, x.dtype)
    return lambda x, v: lax.pad(x, v, config), [x, value]


def _concatenate(rng):
    x = _any(rng)
    axis, count = _axis(rng, x), int(rng.integers(1, 4))
    parts = [(x + k).astype(x.dtype) for k in range(count)]
    return lambda *xs: lax.concatenate_p.bind(*xs, dimension=axis), parts


def _split(rng):
    x = _any(rng)
    axis = _axis(rng, x)
    n = x.shape[axis]
    return lambda x: lax.split(x, [n // 2, n - n // 2], axis), [x]


def _squeeze(rng):
    x = _any(rng)
    where = tuple(sorted({0, *rng.integers(0, 2, 1).tolist()}))
    return partial(lax.squeeze, dimensions=where), [x[(None,) * len(where)]]


def _stack(rng):
    x = _any(rng)
    axis = int(rng.integers(x.ndim + 1))
    return lambda *xs: lax.stack_p.bind(*xs, axis=axis), [x, x + 1]


def _unstack(rng):
    x = _any(rng, 1)
    axis = _axis(rng, x)
    return lambda x: lax.unstack_p.bind(x, axis=axis), [x]


def _tile(rng):
    x = _any(rng)
    reps = tuple(rng.integers(1, 3, x.ndim).tolist())
    return lambda x: lax.tile_p.bind(x, reps=reps), [x]


def _iota(rng):
    shape = a_shape(rng)
    axis = int(rng.integers(len(shape)))
    dtype = one_of(rng, np.int32, np.float32)
    return lambda: lax.broadcasted_iota(dtype, shape, axis), []
