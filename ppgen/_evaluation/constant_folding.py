"""Partial evaluation: an equation some of whose operands are known before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ppgen import _jax
from ppgen._analysis.parameters import rule_name
from ppgen._evaluation.constant_indexing import STEERED, STEERING
from ppgen._evaluation.constants import KNOWN, as_array, literal
from ppgen._evaluation.values import Value, over_points
from ppgen._interpret import interpret


def evaluate_known(eqn: _jax.Eqn, values: Sequence[Value]) -> list[Value] | None:
    """Evaluate an equation with known operands; `None` if that does not simplify it."""
    name = rule_name(eqn)
    rules, steering = (STEERED, values[STEERING[name]]) if name in STEERED else (KNOWN, values)
    if name not in rules or eqn.effects or any(v.known is None for v in steering):
        return None
    fn, arrays, axes, slots = over_points(lambda *arrays: _jax.bind(eqn, arrays), values)
    arrays = [a if v.known is None else v.known for a, v in zip(arrays, values, strict=True)]
    outs = interpret(jax.make_jaxpr(fn)(*arrays), arrays, _equation, literal=literal)
    known = [o if isinstance(o, np.ndarray) and not slots else None for o in outs]
    return [Value(as_array(o), axes, slots, k) for o, k in zip(outs, known, strict=True)]


def _equation(eqn: _jax.Eqn, operands: list[Any]) -> list[Any]:
    if eqn.effects or not eqn.outvars:
        return _jax.bind(eqn, [as_array(x) for x in operands])
    name, aval = rule_name(eqn), eqn.outvars[0].aval
    if name in KNOWN and all(isinstance(x, np.ndarray) for x in operands):
        with np.errstate(all="ignore"):
            known = KNOWN[name](eqn.params, aval.shape, *operands)
        if known is not None:
            return [np.broadcast_to(known.astype(aval.dtype, copy=False), aval.shape)]
    elif name in STEERED and all(isinstance(x, np.ndarray) for x in operands[STEERING[name]]):
        with _jax.at_line_of(eqn):
            out = STEERED[name](eqn.params, aval.shape, *operands)
        if out is not None:
            return [out]
    return _jax.bind(eqn, [as_array(x) for x in operands])
