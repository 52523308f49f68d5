"""The additive terms of a cost, for reports.

`_analysis.cost_terms` splits a cost as far as that separates influences. Here it is split as far as
it is a sum: down to log densities, named after their sites, and to nonlinear parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ppgen import _jax
from ppgen._analysis.analyse import Analysis
from ppgen._analysis.cost_terms import (
    BILINEAR,
    LINEAR_IN_FIRST,
    Summand,
    is_linear,
    taken_apart,
)
from ppgen._interpret import dependent, variables_of


@dataclasses.dataclass(frozen=True)
class CostTerm:
    """A term.

    Attributes:
        variable: the variable that holds it.
        sign: "+", "-" or "±".
        name: `log p(site)` for a log density, the name of a choice, else empty.
        where: the user's line of a log density or choice.
        equation: what computes it.
        inside: names of the log densities of which it is a function, if it is not one itself.
    """

    variable: Any
    sign: str
    name: str
    where: str
    equation: Any
    inside: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, before it is summed."""
        return self.variable.aval.shape


def cost_terms(jaxpr: Any, analysis: Analysis, reach: Mapping[_jax.Var, int]) -> list[CostTerm]:
    """The terms of the first output of a lowered program, in the order of the program."""
    out = jaxpr.outvars[0]
    if isinstance(out, _jax.Literal):
        return []
    producers = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    # What depends on an argument or on a choice.
    varying = dependent(jaxpr, [*jaxpr.constvars, *reach]).variables
    _, found = taken_apart(jaxpr, [out], lambda eqn, _: _parts(eqn, reach))
    return [_term(s, producers) for s in reversed(found) if s.variable in varying]


def _is_log_density(eqn: _jax.Eqn) -> bool:
    return eqn.primitive.name == "marker" and eqn.params["kind"] == "log_prob"


def _term(summand: Summand, producers: Mapping[Any, _jax.Eqn]) -> CostTerm:
    v, signs, eqn = summand
    sign = "±" if len(signs) > 1 else "+" if 1 in signs else "-"
    if _is_log_density(eqn):
        return CostTerm(v, sign, f"log p({eqn.params['name']})", eqn.params["where"], eqn, ())
    if eqn.primitive.name in ("random_choice", "marker"):
        choice = eqn.params.get("spec")
        name = choice.name if choice else eqn.params["name"]
        where = choice.where if choice else eqn.params["where"]
        return CostTerm(v, sign, name, where, eqn, ())
    inside: dict[str, None] = {}
    queue, seen = [eqn], {id(eqn)}
    while queue:
        for operand in variables_of(queue.pop().invars):
            above = producers.get(operand)
            if above is None or id(above) in seen:
                continue
            seen.add(id(above))
            if _is_log_density(above):
                inside[f"log p({above.params['name']})"] = None
            elif above.primitive.name not in ("marker", "random_choice"):
                queue.append(above)
    return CostTerm(v, sign, "", "", eqn, tuple(reversed(inside)))


def _parts(eqn: _jax.Eqn, reach: Mapping[_jax.Var, int]) -> list[tuple[Any, int]] | None:
    """The operands whose signed sum (up to factors) an equation is, or `None` if it is no sum."""
    name = eqn.primitive.name
    if name == "marker":
        return None
    variables = variables_of(eqn.invars)
    if name == "sub":
        return [(v, s) for v, s in zip(eqn.invars, (1, -1), strict=True) if v in variables] or None
    if name == "neg":
        return [(v, -1) for v in variables] or None
    moving = [v in variables and bool(reach.get(v)) for v in eqn.invars]
    if name in BILINEAR and not any(moving):
        # A product with a single factor that is not constant.
        moving = [v in variables for v in eqn.invars]
    if not is_linear(eqn, moving):
        return None
    if name in BILINEAR:
        part = eqn.invars[moving.index(True)]
        return [(part, _sign([v for v in eqn.invars if v is not part]))]
    if name in LINEAR_IN_FIRST:
        first, *others = eqn.invars
        return [(first, _sign(others))] if first in variables else None
    chosen_by = eqn.invars[0] if name == "select_n" else None
    return [(v, 1) for v in variables if v is not chosen_by] or None


def _sign(factors: list[Any]) -> int:
    negative = [v for v in factors if isinstance(v, _jax.Literal) and _is_negative(v.val)]
    return -1 if len(negative) % 2 else 1


def _is_negative(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 0 and bool(value < 0)
