"""Sums over the points of choices, as contractions of weights with what they weigh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen._evaluation.values import Value


def place(x: Any, places: Sequence[Any], shape: Sequence[int]) -> Array:
    """Bring an array of a choice's batch shape to the shape of a term.

    Aligned axes go where the term has them, cumulated where elements before or after count too;
    mixed axes are summed over (weights have a length of one there).
    """
    kept = []
    for axis, place in enumerate(places):
        if place is None:
            continue
        if place[1] == "<":
            x = jnp.cumsum(x, axis=axis)
        elif place[1] == ">":
            x = jnp.flip(jnp.cumsum(jnp.flip(x, axis), axis=axis), axis)
        kept.append((place[0], axis))
    mixed = tuple(a for a, p in enumerate(places) if p is None)
    x = jnp.sum(x, axis=mixed, keepdims=True)
    kept.sort()
    x = jnp.transpose(x, [*(a for _, a in kept), *mixed])
    target = [1] * len(shape)
    for (k, _), size in zip(kept, x.shape, strict=False):
        target[k] = size
    return x.reshape(target)


def contract(factors: Sequence[Value], shape: Sequence[int]) -> Array:
    """Multiply the factors and sum over all point axes and slots, in a good order."""
    labels: dict[Any, int] = {}

    def label(name: Any) -> int:
        return labels.setdefault(name, len(labels))

    out = [label(("axis", k)) for k in range(len(shape))]
    slots = next((f.slots for f in factors if f.slots), ())
    operands: list[Any] = []
    for f in factors:
        array = f.array
        if f.slots and f.slots != slots:
            raise AssertionError("all slots of a term are known to the term")
        own = array.shape[f.leading :]
        names = [label("slot")] * bool(f.slots) + [label(("point", a)) for a in f.axes]
        # Axes of length one stretch; einsum would not let them.
        used = [
            k for k in range(len(own)) if own[k] == shape[k] and (own[k] != 1 or f is factors[0])
        ]
        squeezed = tuple(f.leading + k for k in range(len(own)) if k not in used)
        operands += [jnp.squeeze(array, squeezed), names + [out[k] for k in used]]
    names = operands[1::2]
    if len(factors) == 2 and set(out) <= set(names[0]) == set(names[1]):
        (a, b), (one, other) = operands[::2], names
        return _dot(a, one, b, other, out)
    return jnp.einsum(*operands, out, optimize="greedy", precision=jax.lax.Precision.HIGHEST)


def _dot(a: Array, names: list[int], b: Array, same: list[int], out: list[int]) -> Array:
    """Contract two arrays with the same axes.

    Nothing is there for a matrix product to gain, and XLA fuses a product and a sum, unlike one
    of those, with what they are made of.
    """
    product = a * jnp.transpose(b, [same.index(n) for n in names])
    left = [n for n in names if n in out]
    total = jnp.sum(product, axis=tuple(k for k, n in enumerate(names) if n not in out))
    return jnp.transpose(total, [left.index(n) for n in out])
