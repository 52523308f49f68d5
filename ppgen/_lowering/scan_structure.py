"""Which scans have Markov structure: enumerated choices of which only the last ones are remembered.

Carried values that depend on a choice are its *state*. Where the next state is a function of the
new choices alone, not of the old state, the state takes no more values than the choices of one step
do, and a forward pass sums over all paths: `O(T S^2)` for `S` values, where the paths are `S^T`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ppgen import _jax
from ppgen._staging.primitives import equations


class Markov(NamedTuple):
    """The structure of a scan's body.

    Attributes:
        state: indices of the carried values that depend on choices.
        paired: for each stacked output, whether it depends on the state before the step, too.
    """

    state: frozenset[int]
    paired: tuple[bool, ...]


def sums_over_points(eqn: _jax.Eqn) -> bool:
    """Whether an equation is a scan over choices that stand for several weighted points."""
    return eqn.primitive.name == "scan" and any(
        s.template.weighted and not s.template.first_order for s in own_choices(eqn.params["jaxpr"])
    )


def one_at_a_time(jaxpr: Any) -> bool:
    """Whether all choices of a body with weights are its own, and of first order."""
    everywhere = [e.params["spec"] for e in equations(jaxpr) if e.primitive.name == "random_choice"]
    weighted = [s for s in everywhere if s.template.weighted]
    own = [s for s in own_choices(jaxpr) if s.template.weighted]
    return len(own) == len(weighted) > 0 and all(s.template.first_order for s in weighted)


def own_choices(jaxpr: Any) -> list[Any]:
    """The choices that a lowered jaxpr makes itself, not in branches or loops."""
    return [
        e.params["spec"]
        for e in _jax.open_jaxpr(jaxpr)[0].eqns
        if e.primitive.name == "random_choice"
    ]


def markov(jaxpr: Any, num_consts: int, num_carry: int) -> Markov | None:
    """The structure of a lowered body, or `None` where it has none."""
    jaxpr, _ = _jax.open_jaxpr(jaxpr)
    made = [e for e in jaxpr.eqns if e.primitive.name == "random_choice"]
    everywhere = [e for e in equations(jaxpr) if e.primitive.name == "random_choice"]
    batches = {e.params["lanes"] + e.params["spec"].batch for e in made}
    if len(made) != len(everywhere) or len(batches) != 1:
        return None
    templates = [e.params["spec"].template for e in made]
    if not all(t.weighted and t.fixed_points and not t.first_order for t in templates):
        return None
    carried = {v: {i} for i, v in enumerate(jaxpr.invars[num_consts : num_consts + num_carry])}
    reached: dict[_jax.Var, set[int]] = dict(carried)
    random: set[_jax.Var] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "random_choice":
            # The values are the same whatever the distribution; only their weights depend on it.
            random.update(eqn.outvars)
            continue
        ins = [v for v in eqn.invars if not isinstance(v, _jax.Literal)]
        found: set[int] = set().union(*(reached.get(v, set()) for v in ins))
        for v in eqn.outvars:
            reached[v] = found
        if any(v in random for v in ins):
            random.update(eqn.outvars)

    def depends(v: Any, state: set[int]) -> bool:
        return not isinstance(v, _jax.Literal) and bool(reached.get(v, set()) & state)

    def is_random(v: Any) -> bool:
        return not isinstance(v, _jax.Literal) and v in random

    carries, ys = jaxpr.outvars[:num_carry], jaxpr.outvars[num_carry:]
    state = {i for i, v in enumerate(carries) if is_random(v)}
    while True:
        more = state | {i for i, v in enumerate(carries) if depends(v, state)}
        if more == state:
            break
        state = more
    if any(depends(carries[i], state) for i in state):
        return None
    paired = tuple(depends(v, state) for v in ys)
    return Markov(frozenset(state), paired)


def asks_for_paths(jaxpr: Any, analysis: Any, terms: Any, joint: Any) -> bool:
    """Whether a cost needs more of a scan's choices than a forward pass keeps.

    The forward pass gives the choices of one step at a time, and what depends on two steps as
    expectations, which only sums may use.
    """
    jaxpr, _ = _jax.open_jaxpr(jaxpr)
    tail = {id(e) for e in terms.equations}
    used = {
        v
        for e in jaxpr.eqns
        if id(e) in terms.needed and id(e) not in tail
        for v in e.invars
        if not isinstance(v, _jax.Literal)
    }
    for eqn in jaxpr.eqns:
        if not sums_over_points(eqn) or id(eqn) not in terms.needed:
            continue
        num_consts, num_carry = _jax.scan_counts(eqn)
        structure = markov(eqn.params["jaxpr"], num_consts, num_carry)
        first = analysis.first[id(eqn)]
        if structure is None or any(
            0 in joint[i] for i in range(first, first + len(own_choices(eqn.params["jaxpr"])))
        ):
            return True
        summed = {eqn.outvars[i] for i in structure.state}
        if any(v in used or v in terms.leaves or v in jaxpr.outvars for v in summed):
            return True
        pairs = {v for v, p in zip(eqn.outvars[num_carry:], structure.paired, strict=True) if p}
        if any(v in used for v in pairs):
            return True
    return False
