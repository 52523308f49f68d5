"""The largest number of steps of a `while_loop`, where its condition says so.

A loop that counts its steps and stops at a number, whatever else may stop it before,
`while_loop(lambda s: (s[0] < 100) & ..., lambda s: (s[0] + 1, ...), (0, ...))`, is bounded, and so
can be differentiated in reverse mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ppgen import _jax

# Which of the comparisons with a number bound a counter from above, and what they allow beyond it.
_ABOVE = {"lt": 0, "le": 1}
_BELOW = {"gt": 0, "ge": 1}
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def most_steps(eqn: _jax.Eqn) -> int | None:
    """The largest number of steps that the `while` equation can take, or `None` if unknown."""
    tests, steps = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    init = eqn.invars[tests + steps :]
    condition = _Region(eqn.params["cond_jaxpr"], eqn.invars[:tests])
    body = _Region(eqn.params["body_jaxpr"], eqn.invars[tests : tests + steps])
    bounds = []
    for comparison, k, limit in _limits(condition):
        start, change = _number(init[k]), _change(body, k)
        if start is None or change is None:
            continue
        if comparison in _ABOVE and change > 0:
            bounds.append(-(-(limit + _ABOVE[comparison] - start) // change))
        if comparison in _BELOW and change < 0:
            bounds.append(-(-(start - limit + _BELOW[comparison]) // -change))
    return max(0, min(bounds)) if bounds else None


class _Region:
    """The condition or the body of a loop: what makes each variable, and which are numbers."""

    def __init__(self, jaxpr: Any, consts: list[Any]) -> None:
        self.jaxpr, _ = _jax.open_jaxpr(jaxpr)
        self.made_by = {v: e for e in self.jaxpr.eqns for v in e.outvars}
        self._position = {v: i for i, v in enumerate(self.jaxpr.invars)}
        self._consts = consts

    def number(self, v: Any) -> int | None:
        """The integer that a variable is, if it is known."""
        if not isinstance(v, _jax.Literal) and v in self._position:
            i = self._position[v]
            return _number(self._consts[i]) if i < len(self._consts) else None
        return _number(v)

    def carried(self, v: Any) -> int | None:
        """Which part of the loop's state a variable is."""
        if isinstance(v, _jax.Literal) or v not in self._position:
            return None
        k = self._position[v] - len(self._consts)
        return k if k >= 0 else None


def _number(v: Any) -> int | None:
    if (
        isinstance(v, _jax.Literal)
        and np.ndim(v.val) == 0
        and np.issubdtype(v.aval.dtype, np.integer)
    ):
        return int(v.val)
    return None


def _limits(condition: _Region) -> Iterator[tuple[str, int, int]]:
    """Comparisons of a part of the state with a number, all of which must hold to go on."""
    pending = list(condition.jaxpr.outvars)
    while pending:
        v = pending.pop()
        eqn = None if isinstance(v, _jax.Literal) else condition.made_by.get(v)
        if eqn is None:
            continue
        name = eqn.primitive.name
        if name == "and" or (
            name == "convert_element_type" and np.dtype(eqn.params["new_dtype"]) == np.bool_
        ):
            pending += [x for x in eqn.invars if x.aval.dtype == bool]
        elif name in _MIRRORED:
            a, b = eqn.invars
            for comparison, x, y in ((name, a, b), (_MIRRORED[name], b, a)):
                k, limit = condition.carried(x), condition.number(y)
                if k is not None and limit is not None:
                    yield comparison, k, limit


def _change(body: _Region, k: int) -> int | None:
    """What every step adds to a part of the state, if it is a known integer."""
    out = body.jaxpr.outvars[k]
    eqn = None if isinstance(out, _jax.Literal) else body.made_by.get(out)
    if eqn is None or eqn.primitive.name not in ("add", "sub"):
        return None
    a, b = eqn.invars
    if body.carried(a) == k:
        step = body.number(b)
        return -step if step is not None and eqn.primitive.name == "sub" else step
    return body.number(a) if eqn.primitive.name == "add" and body.carried(b) == k else None
