"""The linear equations from terms to a cost, with terms added up before weighting.

Weighing a term is linear, and so is what follows. Terms that choices influence alike, and to which
the same is done before they are added, are therefore added first: `sum(w * a) - sum(w * b)` is
computed as `sum(w * (a - b))`, one pass over the points instead of two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppgen import _jax
from ppgen._analysis.cost_terms import Terms, real_bind
from ppgen._analysis.discontinuity import rounds
from ppgen._analysis.influence import Influence
from ppgen._analysis.parameters import rule_name
from ppgen._evaluation.constants import core
from ppgen._evaluation.evaluate import Run, checked
from ppgen._evaluation.values import Value, lift
from ppgen._interpret import variables_of

Weigh = Callable[..., Any]


class _Sum:
    """A term, or a sum of terms, that is still to be weighed.

    Attributes:
        value: the terms, added up.
        real: whether they are part of a cost, not only of what is shown.
        influence: what influences each of them.
        steps: the equations to apply to the weighted sum, with their operands; the sum is at the
            given position.
    """

    def __init__(self, value: Value, influence: Influence, real: bool, steps: tuple = ()) -> None:
        self.value, self.influence, self.real, self.steps = value, influence, real, steps

    def then(self, eqn: _jax.Eqn, position: int, operands: list[Any]) -> _Sum:
        steps = (*self.steps, (eqn, position, operands))
        return _Sum(self.value, self.influence, self.real, steps)

    def kind(self) -> Any:
        """A key that two of them share if and only if their values can be added."""
        influence = self.influence
        steps = [
            (eqn.primitive, eqn.params, at, [id(x) for i, x in enumerate(operands) if i != at])
            for eqn, at, operands in self.steps
        ]
        value = self.value
        layout = value.array.shape, value.array.dtype, value.axes, value.slots
        return influence.mixed, influence.aligned, layout, steps

    def weighed(self, weigh: Weigh) -> Any:
        out = weigh(self.value, self.influence, real=self.real)
        for eqn, position, operands in self.steps:
            operands[position] = out
            (out,) = real_bind(eqn, operands)
        return out


def add_up(jaxpr: Any, terms: Terms, run: Run, of: Callable[[Any], Influence], weigh: Weigh):
    """The weighed outputs of a program.

    Args:
        jaxpr: the program.
        terms: its additive terms.
        run: the pass that evaluated them.
        of: what influences a variable.
        weigh: `(term, influence, *, real)` to the weighed term.
    """
    uses = Counter(variables_of([*jaxpr.outvars, *(v for e in terms.equations for v in e.invars)]))
    env: dict[_jax.Var, Any] = {}

    def put(v: _jax.Var, x: Any) -> None:
        # What is used twice is not to be weighed twice.
        env.setdefault(v, weighed(x) if uses[v] > 1 else x)

    def weighed(x: Any) -> Any:
        return x.weighed(weigh) if isinstance(x, _Sum) else x

    def is_sum(v: Any) -> bool:
        return not isinstance(v, _jax.Literal) and v in env

    def read(v: Any) -> Any:
        return env[v] if is_sum(v) else run.env[v].array

    def zero(v: Any) -> bool:
        """Whether it is known to be nothing but zeros."""
        known = None if is_sum(v) else run.env[v].known
        return known is not None and not np.any(core(known))

    for v in terms.leaves:
        term = _Sum(run.env[v], of(v), v in terms.summed)
        inexact = jnp.issubdtype(term.value.array.dtype, jnp.inexact)
        put(v, term if inexact else weighed(term))
    for eqn in terms.equations:
        outs = _later(eqn, [read(v) for v in eqn.invars], [zero(v) for v in eqn.invars])
        if outs is None:
            operands = [weighed(read(v)) for v in eqn.invars]
            marker = eqn.primitive.name == "marker"
            outs = [checked(eqn, operands[0])] if marker else real_bind(eqn, operands)
        for v, out in zip(eqn.outvars, outs, strict=True):
            put(v, out)
    return [weighed(read(v)) for v in jaxpr.outvars]


def _later(eqn: _jax.Eqn, operands: Sequence[Any], zeros: Sequence[bool]) -> list[_Sum] | None:
    """An equation of sums that are still to be weighed, where it can wait as well."""
    name, sums = rule_name(eqn), [k for k, x in enumerate(operands) if isinstance(x, _Sum)]
    if name in _ADDITIONS and len(sums) == 2:
        a, b = operands
        if a.kind() != b.kind():
            return None
        (total,) = lift(lambda a, b: [_ADDITIONS[name](a, b)], [a.value, b.value])
        return [_Sum(total, a.influence, a.real, a.steps)]
    if len(sums) != 1 or len(eqn.outvars) != 1 or not is_linear_step(eqn, sums[0], zeros):
        return None
    return [operands[sums[0]].then(eqn, sums[0], list(operands))]


def is_linear_step(eqn: _jax.Eqn, position: int, zeros: Sequence[bool]) -> bool:
    """Whether an equation is linear in one of its operands, the others being what they are.

    Done to a sum it is then the sum of what is done to each. An affine one is not: a constant that
    it adds would be there once instead of once for each. What is not known to be linear is not.

    Args:
        eqn: the equation.
        position: the operand in question.
        zeros: which operands are known to be nothing but zeros.
    """
    name = rule_name(eqn)
    if name in _LINEAR_ALONE:
        return position == 0 and not rounds(eqn)
    if name in _BILINEAR:
        return True
    if name in _JOINED:
        first = _JOINED[name]
        return position >= first and all(
            z for k, z in enumerate(zeros) if k >= first and k != position
        )
    # What lies outside is filled in; a NaN there is one in the sum and in each part alike.
    return name == "gather" and position == 0 and eqn.params["fill_value"] in (None, 0)


_LINEAR_ALONE = frozenset(
    "neg reduce_sum broadcast_in_dim reshape squeeze transpose slice convert_element_type copy "
    "rev cumsum div dynamic_slice".split()
)
"""Linear in the first operand, whatever the others."""
_BILINEAR = frozenset({"mul", "dot_general"})
"""Linear in each operand, the other one given."""
_JOINED = {"concatenate": 0, "pad": 0, "select_n": 1}
"""Put operands side by side, from this one on: linear in one where all others are zero."""
_ADDITIONS = {"add": jnp.add, "add_any": jnp.add, "sub": jnp.subtract}
