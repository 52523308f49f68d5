"""Lanes of arrays: axes in front of those of a variable's type."""

from __future__ import annotations

from typing import Any

import numpy as np


def rank(v: Any) -> int:
    """The number of axes of a variable's type, without lanes."""
    return len(v.aval.shape)


def full(x: Any, shape: Any, lanes: Any) -> Any:
    """`x` of this shape, with all of these lanes in front."""
    return np.broadcast_to(x, (*lanes, *shape))


def lanes_of(eqn: Any, values: Any) -> tuple[int, ...]:
    """The lanes of all operands together."""
    return np.broadcast_shapes(
        *(x.shape[: x.ndim - rank(v)] for x, v in zip(values, eqn.invars, strict=True))
    )


def aligned(eqn: Any, values: Any) -> list[Any]:
    """Operands with as many axes after their lanes as the first result has.

    A scalar may stand beside arrays: its lanes must not be taken for their axes.
    """
    want = rank(eqn.outvars[0])
    out = []
    for x, v in zip(values, eqn.invars, strict=True):
        lanes, missing = x.ndim - rank(v), want - rank(v)
        out.append(
            x.reshape((*x.shape[:lanes], *(1,) * missing, *x.shape[lanes:]))
            if missing and lanes
            else x
        )
    return out
