"""Known arrays: arrays known before anything runs, such as the points of an enumeration.

They are NumPy arrays, with a stride of zero along axes on which they do not depend, so that they
stay small in large plates. What is a function of known arrays only is computed in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

LIMIT = 1 << 16
"""Largest number of elements of a known array."""


def identity(known: np.ndarray) -> Any:
    """A key that two known arrays share if and only if they are equal and equally broadcast."""
    x = core(known)
    return known.shape, x.shape, x.dtype.name, x.tobytes()


def literal(v: Any) -> np.ndarray:
    """The array that a literal of a jaxpr is."""
    return np.asarray(v.val, v.aval.dtype)


def core(x: np.ndarray) -> np.ndarray:
    """With a length of one along axes on which it does not depend."""
    return x[(*(slice(None) if stride else slice(1) for stride in x.strides), ...)]


def as_array(x: Any) -> Any:
    """A JAX array, of a known one or of one that is one already."""
    if not isinstance(x, np.ndarray):
        return x
    return jnp.broadcast_to(jnp.asarray(core(x)), x.shape)


def varying(x: np.ndarray) -> np.ndarray:
    """With a length of one along axes on which it does not depend, whatever its strides."""
    x = core(x)
    for axis in range(x.ndim if x.size else 0):
        first = x.take([0], axis)
        x = first if bool(np.all(x == first)) else x
    return x


# Functions of known arrays: `(params, shape, *operands) -> array or None`, where an array that
# broadcasts to the shape will do.


def _elementwise(fn: Callable) -> Callable:
    def rule(params: dict, shape: tuple[int, ...], *operands: np.ndarray) -> np.ndarray | None:
        cores = [core(x) for x in operands]
        size = math.prod(np.broadcast_shapes(*(c.shape for c in cores)))
        return np.asarray(fn(*cores)) if size <= LIMIT else None

    return rule


def _iota(params: dict, shape: tuple[int, ...]) -> np.ndarray | None:
    axis = params["dimension"]
    if shape[axis] > LIMIT:
        return None
    return np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))])


def _broadcast_in_dim(params: dict, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    x, target = core(x), [1] * len(shape)
    for k, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        target[k] = size
    return x.reshape(target)


def _reshape(params: dict, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray | None:
    # Axes of length one come and go without a copy, and so without a loss of zero strides.
    same = [n for n in x.shape if n != 1] == [n for n in shape if n != 1]
    if not same and x.size > LIMIT or params.get("dimensions") is not None:
        return None
    return x.reshape(shape)


def _squeeze(params: dict, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    return x.reshape(shape)


def _transpose(params: dict, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    return x.transpose(params["permutation"])


def _slice(params: dict, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    strides = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return x[tuple(slice(*b) for b in bounds)]


def _concatenate(params: dict, shape: tuple[int, ...], *parts: np.ndarray) -> np.ndarray | None:
    axis = params["dimension"]
    cores = [core(p).shape for p in parts]
    others = np.broadcast_shapes(*((*c[:axis], 1, *c[axis + 1 :]) for c in cores))
    if math.prod(others) * shape[axis] > LIMIT:
        return None
    kept = tuple(slice(None) if k == axis else slice(n) for k, n in enumerate(others))
    return np.concatenate([p[kept] for p in parts], axis)


def _remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # That of whole numbers by zero is the dividend.
    whole = np.issubdtype(y.dtype, np.integer)
    return np.where(y == 0, x, np.fmod(x, np.where(y == 0, 1, y))) if whole else np.fmod(x, y)


def _choose(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    out = cases[0]
    for i, case in enumerate(cases[1:], 1):
        out = np.where(which == i, case, out)
    return out


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _convert(params: dict, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray | None:
    # How a fraction is made a whole number is for XLA to say.
    whole = np.issubdtype(x.dtype, np.integer) or x.dtype == np.bool_
    return core(x) if whole or jnp.issubdtype(params["new_dtype"], jnp.floating) else None


KNOWN: dict[str, Callable] = {
    "iota": _iota,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "slice": _slice,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    **{
        name: _elementwise(fn)
        for name, fn in {
            "stop_gradient": _same,
            "copy": _same,
            "select_n": _choose,
            "rem": _remainder,
            "neg": np.negative,
            "add": np.add,
            "sub": np.subtract,
            "mul": np.multiply,
            "max": np.maximum,
            "min": np.minimum,
            "eq": np.equal,
            "ne": np.not_equal,
            "lt": np.less,
            "le": np.less_equal,
            "gt": np.greater,
            "ge": np.greater_equal,
            "and": np.bitwise_and,
            "or": np.bitwise_or,
            "xor": np.bitwise_xor,
            "not": np.bitwise_not,
        }.items()
    },
}
