"""Splitting a cost into additive terms.

From the cost backwards through operations that are linear in what choices influence, down to the
*terms*: the arrays at which splitting further would separate nothing. A choice then multiplies only
the terms that it influences, per element where a term is aligned with it: Rao-Blackwellization for
any objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ppgen import _jax
from ppgen._analysis.analyse import Analysis
from ppgen._analysis.discontinuity import rounds
from ppgen._analysis.influence import Influence
from ppgen._analysis.parameters import rule_name
from ppgen._interpret import needed, variables_of
from ppgen._lowering.scan_structure import sums_over_points

LINEAR = frozenset(
    "add sub neg add_any reduce_sum broadcast_in_dim reshape squeeze transpose slice concatenate "
    "convert_element_type copy rev cumsum split marker pad".split()
)
LINEAR_IN_FIRST = frozenset({"div", "gather", "dynamic_slice"})
_INDEXED = frozenset({"gather", "dynamic_slice"})
BILINEAR = frozenset({"mul", "dot_general"})


class Summand(NamedTuple):
    """A variable that is added up with others.

    Attributes:
        variable: the variable.
        signs: the signs with which it enters: 1, -1 or both.
        equation: the equation that computes it.
    """

    variable: _jax.Var
    signs: set[int]
    equation: _jax.Eqn


def taken_apart(
    jaxpr: Any,
    outs: Iterable[_jax.Var],
    parts: Callable[[_jax.Eqn, _jax.Var], Sequence[tuple[_jax.Var, int]] | None],
) -> tuple[list[_jax.Eqn], list[Summand]]:
    """Sums, followed backwards as far as they are sums.

    Args:
        jaxpr: open.
        outs: the sums.
        parts: the operands that an equation adds up to a variable, each up to a factor of that
            sign; `None` if the variable is not a sum.

    Returns:
        The equations that add up, in order, and their summands, from the last to the first.
    """
    signs: dict[_jax.Var, set[int]] = {v: {1} for v in outs}
    equations: dict[int, _jax.Eqn] = {}
    summands = []
    for eqn in reversed(jaxpr.eqns):
        for v in eqn.outvars:
            if v not in signs:
                continue
            found = parts(eqn, v)
            if found is None:
                summands.append(Summand(v, signs[v], eqn))
                continue
            equations[id(eqn)] = eqn
            for operand, sign in found:
                signs.setdefault(operand, set()).update(s * sign for s in signs[v])
    return list(reversed(equations.values())), summands


class Terms:
    """The additive terms of the outputs of a lowered program.

    Attributes:
        equations: the linear equations between the terms and the outputs, in order.
        leaves: the terms.
        summed: the variables that those equations read.
        needed: ids of the equations that the terms depend on. The others need no evaluation, and
            must not have any: their values would range over the joint points of all terms.
    """

    def __init__(self, jaxpr: Any, analysis: Analysis) -> None:
        self._analysis = analysis
        # Integers are summed as real numbers, unless they are outputs.
        self._seen = needed(jaxpr, jaxpr.outvars[1:]).equations
        self._shown = set(variables_of(jaxpr.outvars[1:]))
        outs = [v for v in jaxpr.outvars if self._is_influenced(v)]

        def linear(eqn: _jax.Eqn, v: _jax.Var) -> list[tuple[_jax.Var, int]] | None:
            return self._parts(eqn) if self._is_linear(eqn) else None

        tail, _ = taken_apart(jaxpr, outs, linear)
        below: dict[_jax.Var, dict[_jax.Var, None]] = {}
        # Outputs of a scan for pairs of steps are expectations already: terms as they are.
        self._final = {v for e in jaxpr.eqns if sums_over_points(e) for v in e.outvars}

        def terms_of(v: _jax.Var) -> dict[_jax.Var, None]:
            return below.get(v, {v: None})

        for eqn in tail:
            for out in eqn.outvars:
                found: dict[_jax.Var, None] = {}
                for v in self._influenced(eqn):
                    found.update(terms_of(v))
                own = _signature(analysis.of(out))
                if any(v in self._final or _signature(analysis.of(v)) != own for v in found):
                    below[out] = found

        def separable(eqn: _jax.Eqn, v: _jax.Var) -> list[tuple[_jax.Var, int]] | None:
            return self._parts(eqn) if v in below else None

        self.equations, leaves = taken_apart(jaxpr, outs, separable)
        self.leaves = dict.fromkeys(leaf.variable for leaf in leaves)
        self.summed = {v for e in self.equations for v in self._influenced(e)}
        self.needed = self._upstream(jaxpr)

    def _upstream(self, jaxpr: Any) -> frozenset[int]:
        summed = {v for eqn in self.equations for v in eqn.outvars} - self.leaves.keys()
        operands = [v for eqn in self.equations for v in eqn.invars]
        wanted = [v for v in variables_of([*jaxpr.outvars, *operands]) if v not in summed]
        return needed(jaxpr, [*wanted, *self.leaves]).equations

    def _is_influenced(self, v: Any) -> bool:
        influence = self._analysis.of(v)
        return bool(influence.mixed or influence.aligned)

    def _influenced(self, eqn: _jax.Eqn) -> list[Any]:
        return [v for v in eqn.invars if self._is_influenced(v)]

    def _parts(self, eqn: _jax.Eqn) -> list[tuple[_jax.Var, int]]:
        return [(v, 1) for v in self._influenced(eqn)]  # whatever their signs

    def _is_linear(self, eqn: _jax.Eqn) -> bool:
        involved = [*self._influenced(eqn), *eqn.outvars]
        shown = id(eqn) in self._seen or any(v in self._shown for v in involved)
        return is_sum(eqn, [self._is_influenced(v) for v in eqn.invars], shown=shown)


def is_sum(eqn: _jax.Eqn, moving: Sequence[bool], *, shown: bool) -> bool:
    """Linear, jointly, in those of its operands that are `moving`, all of them real numbers.

    Constants that the others add are counted once.

    Args:
        eqn: the equation.
        moving: which operands.
        shown: whether integers are outputs, so that they must not be summed as real numbers.
    """
    involved = [v for v, m in zip(eqn.invars, moving, strict=True) if m] + list(eqn.outvars)
    name = rule_name(eqn)
    if not all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in involved):
        whole = all(is_number(v.aval.dtype) for v in involved)
        if not whole or name == "div" or shown:
            return False
    if name in LINEAR and not is_number(eqn.outvars[0].aval.dtype, like=eqn.invars[0].aval.dtype):
        return False  # it rounds
    return is_linear(eqn, moving)


def is_linear(eqn: _jax.Eqn, moving: Sequence[bool]) -> bool:
    """Whether a primitive is linear, jointly, in those of its operands that are `moving`."""
    name = rule_name(eqn)
    if rounds(eqn):
        return False
    if name in LINEAR_IN_FIRST:
        return not any(moving[1:])
    if name in BILINEAR:
        return sum(moving) == 1
    return name in LINEAR or (name == "select_n" and not moving[0])


def is_number(dtype: Any, like: Any = np.int32) -> bool:
    """Whether a type is of real numbers, or of wide whole ones if `like` is of whole ones too."""
    if jnp.issubdtype(dtype, jnp.floating):
        return True
    wide = jnp.issubdtype(dtype, jnp.signedinteger) and dtype.itemsize >= 4
    return wide and not jnp.issubdtype(like, jnp.inexact)


def real_bind(eqn: _jax.Eqn, operands: list[Any]) -> list[Any]:
    """Evaluate an equation of the sums over terms, on real numbers where it has whole ones."""
    kinds = [v.aval.dtype for v in (*eqn.invars, *eqn.outvars)]
    if all(jnp.issubdtype(k, jnp.inexact) for k in kinds):
        return _jax.bind(eqn, operands)
    if eqn.primitive.name == "convert_element_type" and not jnp.issubdtype(kinds[-1], jnp.inexact):
        return operands
    flags = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in operands]
    if any(flags) and eqn.primitive.name not in _INDEXED:
        dtype = jnp.result_type(*(x for x, f in zip(operands, flags, strict=True) if f))
        chooses = eqn.primitive.name == "select_n"
        operands = [
            x if f or k == jnp.bool_ or (chooses and not n) else jnp.asarray(x, dtype)
            for n, (x, f, k) in enumerate(zip(operands, flags, kinds, strict=False))
        ]
    return _jax.bind(eqn, operands)


def _signature(influence: Influence) -> tuple:
    aligned = {
        choice: tuple(None if p is None else p[1] for p in places)
        for choice, places in influence.aligned.items()
    }
    return influence.mixed, tuple(sorted(aligned.items(), key=lambda item: item[0]))
