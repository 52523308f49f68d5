"""Operands of generated calls: shapes, numbers of each type, and makers of simple calls."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from jax.extend.core import Primitive

SHAPES = [(3, 4), (3, 3), (4, 3, 2), (1, 3), (3, 1, 2), (0, 2), (3,)]


ODDS = [0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1]


@cache
def _all() -> dict[str, Any]:
    return {o.name: o for o in gc.get_objects() if isinstance(o, Primitive)}


def a_shape(rng: np.random.Generator, least: int = 0) -> tuple[int, ...]:
    while True:
        shape = SHAPES[rng.choice(len(SHAPES), p=ODDS)]
        if least == 0 or min(shape) >= least:
            return shape


def reals(rng: np.random.Generator, shape: Sequence[int], low: float = -2.0, high: float = 2.0):
    """Different numbers, in no order."""
    size = int(np.prod(shape))
    x = low + (high - low) * (rng.permutation(size) + rng.uniform(0.2, 0.8, size)) / max(size, 1)
    return x.reshape(shape).astype(np.float32)


def complexes(rng: np.random.Generator, shape: Sequence[int]):
    return (reals(rng, shape) + 1j * reals(rng, shape)).astype(np.complex64)


def integers(rng: np.random.Generator, shape: Sequence[int], low: int = -9, high: int = 10):
    return rng.integers(low, high, shape).astype(np.int32)


def booleans(rng: np.random.Generator, shape: Sequence[int]):
    return rng.integers(0, 2, shape).astype(bool)


def one_of(rng: np.random.Generator, *items: Any) -> Any:
    return items[rng.integers(len(items))]


Maker = Callable[[np.random.Generator], tuple]


def unary(fn: Callable, low: float = -2.0, high: float = 2.0, *others: Callable) -> Maker:
    """Of real numbers in a range, and of what `others` draw."""

    def maker(rng):
        kinds = [lambda rng, shape: reals(rng, shape, low, high), *others]
        return fn, [one_of(rng, *kinds)(rng, a_shape(rng))]

    return maker


def naryop(fn: Callable, *kinds: Callable, stretch: bool = True) -> Maker:
    """Of operands of one shape, each of its kind, of which JAX stretches axes of length one."""

    def maker(rng):
        shapes = [a_shape(rng)] * len(kinds)
        if stretch and len(kinds) > 1 and rng.integers(3) == 0:
            short, axis = rng.integers(len(kinds)), rng.integers(len(shapes[0]))
            cut = tuple(1 if k == axis and n else n for k, n in enumerate(shapes[0]))
            shapes = [cut if k == short else shape for k, shape in enumerate(shapes)]
        return fn, [kind(rng, shape) for kind, shape in zip(kinds, shapes, strict=True)]

    return maker


def either(*makers: Maker) -> Maker:
    return lambda rng: one_of(rng, *makers)(rng)


def between(low: float, high: float) -> Callable:
    return lambda rng, shape: reals(rng, shape, low, high)


def _axis(rng, x) -> int:
    return int(rng.integers(x.ndim))


def _axes(rng, x) -> tuple[int, ...]:
    least = _axis(rng, x)
    return tuple(a for a in range(x.ndim) if rng.integers(2) or a == least)
