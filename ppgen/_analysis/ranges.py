"""Ranges of values, as far as they follow from the operations that made them.

A range is a pair of bounds: a number (perhaps infinite), or None for a bound that there is, but
whose number is not known, as of a choice with an array for a bound. A bound that is not reached is
the next number inside: what is positive begins at the smallest number above zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppgen import _jax
from ppgen._analysis.parameters import rule_name

Range = tuple[float | None, float | None]

ANYWHERE: Range = (-math.inf, math.inf)
NEVER: Range = (0.0, 0.0)
"""Of a boolean that is false."""
NOWHERE: Range = (math.inf, -math.inf)
"""Of what is not a number."""

LEAST = math.nextafter(0.0, 1.0)
"""The lower bound of what is positive."""

_KEEPING = frozenset(
    "marker assume_continuous stop_gradient copy reshape broadcast_in_dim transpose squeeze "
    "slice dynamic_slice rev split sort reduce_max reduce_min cummax cummin "
    "optimization_barrier implicit top_k freeze_once once device_put".split()
)
_JOINING = frozenset("concatenate dynamic_update_slice".split())
_MONOTONE: dict[str, Any] = {
    "exp": lambda x: max(math.exp(min(x, 700.0)), LEAST) if x < math.inf else math.inf,
    "logistic": lambda x: max(1 / (1 + math.exp(min(-x, 700.0))), LEAST),
    "tanh": math.tanh,
    "erf": math.erf,
    "log1p": lambda x: math.log1p(x) if x > -1 else -math.inf,
    "sqrt": lambda x: math.sqrt(max(x, 0.0)),
}
_CLOSED = frozenset("reduce_sum cumsum reduce_prod cumprod pow dot_general".split())
"""Operations that map positive numbers to positive numbers."""
_INTO: dict[str, Range] = {"erfc": (0.0, 2.0), "cosh": (1.0, math.inf)}
_SQUARES = frozenset("abs square".split())
"""Operations that map numbers other than zero to positive numbers."""
_MANY = frozenset("reduce_sum dot_general".split())


def hull(*ranges: Range) -> Range:
    """The smallest range around several."""
    lows, highs = zip(*ranges, strict=True)
    low = -math.inf if -math.inf in lows else None if None in lows else min(lows)
    high = math.inf if math.inf in highs else None if None in highs else max(highs)
    return low, high


def widened(before: Range, now: Range) -> Range:
    """The range of a carry after one more pass of a loop: an end that still moves is unbounded.

    What adds up gets further with every pass, and no number of passes would be the last one.
    """
    low = now[0] if now[0] == before[0] else -math.inf
    high = now[1] if now[1] == before[1] else math.inf
    return low, high


def opened(value: Range) -> Range:
    """The range of a variable with a density: it does not reach its ends."""
    low, high = value
    return (
        low if low is None else math.nextafter(low, math.inf),
        high if high is None else math.nextafter(high, -math.inf),
    )


def apart(value: Range) -> bool:
    """Whether nothing in a range is zero, nor next to zero on either side."""
    low, high = value
    return (low is not None and low > 0) or (high is not None and high < 0)


def ordered(a: Range, b: Range) -> bool:
    """Whether all of one range lies below all of the other."""
    ends = (a[1], b[0]), (b[1], a[0])
    return any(high is not None and low is not None and high < low for high, low in ends)


def tests_for_nan(eqn: _jax.Eqn) -> bool:
    """Whether an equation compares a value with itself: only NaN differs."""
    return rule_name(eqn) == "ne" and eqn.invars[0] is eqn.invars[1]


def after(eqn: _jax.Eqn, ins: Sequence[Range]) -> Range:
    """The range of the real results of an equation that calls nothing."""
    name = rule_name(eqn)
    types = [v.aval.dtype for v in (*eqn.invars, *eqn.outvars)]
    if any(_jax.is_subdtype(t, jnp.complexfloating) for t in types):
        return ANYWHERE
    if any(0 in v.aval.shape for v in eqn.invars):
        return ANYWHERE  # the maximum of nothing is infinite
    if name in _KEEPING:
        return ins[0] if len(eqn.outvars) == 1 else hull(*ins)
    if name == "convert_element_type":
        return _converted(ins[0], *types)
    if name in _JOINING:
        return hull(*ins[: 2 if name == "dynamic_update_slice" else None])
    if tests_for_nan(eqn):
        return NEVER  # as `softplus` asks
    if name == "select_n":
        return ins[1] if ins[0] == NEVER else hull(*ins[1:])
    if NOWHERE in ins:
        return ANYWHERE
    if name in ("gather", "pad"):
        # Outside of an array a gather gives what is not a number, or what it is told to.
        if name == "pad":
            return hull(*ins)
        fill = eqn.params["fill_value"]
        return ins[0] if fill is None else hull(ins[0], (float(fill), float(fill)))
    if name in _INTO:
        return _INTO[name]
    twice = len(eqn.invars) == 2 and eqn.invars[0] is eqn.invars[1]
    even = name == "integer_pow" and eqn.params["y"] % 2 == 0
    if even or name in _SQUARES or (name == "mul" and twice):
        return (LEAST if apart(ins[0]) else 0.0), math.inf
    # From here on with numbers: a bound that is not known may lie anywhere.
    low = [-math.inf if i[0] is None else i[0] for i in ins]
    high = [math.inf if i[1] is None else i[1] for i in ins]
    if name in _MONOTONE:
        f = _MONOTONE[name]
        return f(low[0]), f(high[0])
    if name in ("add", "add_any"):
        return sum(low), sum(high)
    if name == "sub":
        return low[0] - high[1], high[0] - low[1]
    if name == "neg":
        return -high[0], -low[0]
    if name == "max":
        return max(low), max(high)
    if name == "min":
        return min(low), min(high)
    if name == "clamp":
        return min(max(low[0], low[1]), low[2]), min(max(high[0], high[1]), high[2])
    positive, least = all(x >= 0 for x in low), LEAST if all(x > 0 for x in low) else 0.0
    if name == "mul":
        ends = [_times(a, b) for a in (low[0], high[0]) for b in (low[1], high[1])]
        return (max(min(ends), least) if positive else min(ends)), max(ends)
    if name == "div" and positive:
        return least, high[0] / low[1] if low[1] > 0 else math.inf
    if name in _MANY and (positive or (twice and _of_itself(eqn))):
        # What is taken for granted: several numbers of no sign are not zero all at once.
        return LEAST if least or _several(eqn) else 0.0, math.inf
    if name in _CLOSED and positive:
        return least, math.inf
    return ANYWHERE


def _of_itself(eqn: _jax.Eqn) -> bool:
    """Whether a product is a sum of squares: of an array and itself, along the same axes."""
    if rule_name(eqn) != "dot_general":
        return False
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    rank = eqn.invars[0].aval.ndim
    return (left, left_batch) == (right, right_batch) and len(left) + len(left_batch) == rank


def _several(eqn: _jax.Eqn) -> bool:
    """Whether a sum has more than one term."""
    axes = eqn.params["axes" if "axes" in eqn.params else "dimension_numbers"]
    if rule_name(eqn) == "dot_general":
        axes = axes[0][0]
    return math.prod(eqn.invars[0].aval.shape[a] for a in axes) > 1


def _converted(value: Range, old: Any, new: Any) -> Range:
    """The range in another type, whose ends are rounded like what lies in between."""
    if (
        not jnp.issubdtype(new, jnp.floating)
        or value == ANYWHERE
        or not jnp.issubdtype(old, jnp.number)
    ):
        return ANYWHERE  # whole numbers may wrap around
    if not jnp.issubdtype(old, jnp.floating):
        old = np.float64  # a whole number of the program, which is a float here
    with np.errstate(over="ignore"):  # what is too large there is infinite there
        low, high = (None if x is None else float(np.asarray(x, old).astype(new)) for x in value)
    return low, high


def _times(a: float, b: float) -> float:
    return 0.0 if 0.0 in (a, b) else a * b


def inside(value: Range, support: Range) -> bool:
    """Whether what lies in one range lies in another; two unknown bounds are taken to agree."""
    (low, high), (least, most) = value, support
    below = low != -math.inf and (low is None or least is None or low >= least)
    above = high != math.inf and (high is None or most is None or high <= most)
    return (least == -math.inf or below) and (most == math.inf or above)
