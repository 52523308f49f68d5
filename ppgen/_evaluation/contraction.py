"""Sums over the points of choices, as contractions of weights and terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen._derivatives import expected, weighed
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
    """Multiply a term (the first factor) by weights and sum over all point axes and slots.

    A weight of zero takes its point out, whatever the term is there.
    """
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
    (term, names), weights = operands[:2], operands[2:]
    # The points of the weights alone are summed over first: what is left has no more than the term.
    left = [n for n in names if any(n in own for own in weights[1::2])]
    if len(weights) > 2 or not set(weights[1]) <= set(names):
        precision = jax.lax.Precision.HIGHEST
        weight = jnp.einsum(*weights, left, optimize="greedy", precision=precision)
    else:
        weight = jnp.transpose(weights[0], [weights[1].index(n) for n in left])
    absent = [k for k, n in enumerate(names) if n not in left]
    weight = jnp.expand_dims(weight, absent)
    # In slots, all weights but the sample's are zero, of which only the derivatives count.
    product = weighed(term, weight) if slots else expected(term, weight)
    total = jnp.sum(product, axis=tuple(k for k, n in enumerate(names) if n not in out))
    kept = [n for n in names if n in out]
    return jnp.transpose(total, [kept.index(n) for n in out])
