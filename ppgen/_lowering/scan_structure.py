"""Scans with Markov structure: enumerated choices, of which only the last are remembered.

Carried values that depend on a choice are its *state*. Where the next state is a function of the
new choices alone, not of the old state, the state takes no more values than the choices of one step
do, and a forward pass sums over all paths: `O(T S^2)` for `S` values, where the paths are `S^T`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ppgen import _jax
from ppgen._interpret import follow, variables_of
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
    given = [_Source()] * num_consts + [_Source(frozenset({i})) for i in range(num_carry)]
    given += [_Source()] * (len(jaxpr.invars) - len(given))
    outs = follow(jaxpr, given, _sources, _Source()).read(jaxpr.outvars)
    carries, ys = outs[:num_carry], outs[num_carry:]
    state = {i for i, source in enumerate(carries) if source.random}
    while True:
        more = state | {i for i, source in enumerate(carries) if source.carried & state}
        if more == state:
            break
        state = more
    if any(carries[i].carried & state for i in state):
        return None
    return Markov(frozenset(state), tuple(bool(source.carried & state) for source in ys))


class _Source(NamedTuple):
    """The sources of a value in a step.

    Attributes:
        carried: indices of the carried values that it depends on.
        random: whether it depends on the step's choices.
    """

    carried: frozenset[int] = frozenset()
    random: bool = False


def _sources(eqn: _jax.Eqn, ins: list[_Source]) -> list[_Source]:
    if eqn.primitive.name == "random_choice":
        # The values are the same whatever the distribution; only their weights depend on it.
        return [_Source(random=True)]
    carried = frozenset().union(*(i.carried for i in ins))
    return [_Source(carried, any(i.random for i in ins))] * len(eqn.outvars)


def asks_for_paths(jaxpr: Any, analysis: Any, terms: Any, joint: Any) -> bool:
    """Whether a cost needs more of a scan's choices than a forward pass keeps.

    The forward pass gives the choices of one step at a time, and what depends on two steps as
    expectations, which only sums may use.
    """
    jaxpr, _ = _jax.open_jaxpr(jaxpr)
    tail = {id(e) for e in terms.equations}
    needed = [e for e in jaxpr.eqns if id(e) in terms.needed]
    used = {v for e in needed if id(e) not in tail for v in variables_of(e.invars)}
    for eqn in filter(sums_over_points, needed):
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
