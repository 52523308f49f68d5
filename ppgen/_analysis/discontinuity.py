"""Equations at which a pathwise derivative would miss a jump."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from ppgen import _jax
from ppgen._analysis.influence import Influence, join

_JUMPS = {
    "floor": "floor",
    "ceil": "ceil",
    "round": "round",
    "sign": "sign",
    "argmax": "argmax",
    "argmin": "argmin",
    "rem": "a remainder",
    "atan2": "the branch cut of an angle",
}

WITHOUT_DERIVATIVE = {
    "io_callback": "a callback to the host",
    "pure_callback": "a callback to the host",
    "undifferentiable": "a black box",
}
"""Primitives that have no derivative, rather than one that misses their jumps."""


def discontinuity(eqn: _jax.Eqn, ins: Sequence[Influence]) -> tuple[str, int] | None:
    """What a pathwise value meets in an equation, in words, and the bit set of such choices."""
    name = eqn.primitive.name
    if not any(i.pathwise for i in ins):
        return None
    if name in _JUMPS:
        # A remainder jumps with its divisor too, an angle with both coordinates.
        mask = join(*ins).pathwise
        return (_JUMPS[name], mask) if mask else None
    if name in WITHOUT_DERIVATIVE:
        return WITHOUT_DERIVATIVE[name], join(*ins).pathwise
    if name == "convert_element_type":
        old, new = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
        if jnp.issubdtype(new, jnp.inexact) and not jnp.issubdtype(old, jnp.inexact):
            return "an indicator (a comparison turned into a number)", ins[0].pathwise
        if jnp.issubdtype(old, jnp.inexact) and not jnp.issubdtype(new, jnp.inexact):
            return f"a cast to {new}", ins[0].pathwise
    if name in ("gather", "dynamic_slice"):
        if mask := join(*ins[1:]).pathwise:
            return "an index", mask
    if name == "cond" and ins[0].pathwise:
        return "the predicate of a cond", ins[0].pathwise
    if name == "select_n" and ins[0].pathwise:
        # where(x > 0, f(x), g(x)) may well be continuous; where(x > 0, a, b) cannot be.
        along = 0
        for i in ins[1:]:
            along |= i.pathwise
        if mask := ins[0].pathwise & ~along:
            return "an indicator (a where() between values that do not depend on it)", mask
    if name == "sort" and len(ins) > 1:
        keys = 0
        for i in ins[: eqn.params["num_keys"]]:
            keys |= i.pathwise
        for i in ins[eqn.params["num_keys"] :]:
            if mask := keys & ~i.pathwise:
                return "argsort", mask
    if name == "while":
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carried = [*ins[:n], *ins[n + m :]]
        used = _used_by_condition(eqn)
        mask = 0
        for i, flag in zip(carried, used, strict=True):
            mask |= i.pathwise if flag else 0
        return ("the predicate of a while_loop", mask) if mask else None
    return None


def _used_by_condition(eqn: _jax.Eqn) -> list[bool]:
    jaxpr, _ = _jax.open_jaxpr(eqn.params["cond_jaxpr"])
    read = {v for e in jaxpr.eqns for v in e.invars if not isinstance(v, _jax.Literal)}
    return [v in read for v in jaxpr.invars]
