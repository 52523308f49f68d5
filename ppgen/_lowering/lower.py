"""Lowering: from a staged program to one that the influence analysis can read.

Sites become random choices, calls are inlined, a cost that is accumulated in the carry of a scan
becomes a stacked output (so that each of its terms is seen), and a scan over choices that stand for
several points is unrolled where it has to be. Everything else is staged again as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from ppgen import _jax
from ppgen._interpret import interpret, variables_of
from ppgen._lowering.scan_structure import markov, one_at_a_time
from ppgen._settings import current, settings
from ppgen._staging.choice import bind_choice
from ppgen._staging.primitives import CALLS, ChoiceSpec, equations, is_random, over_lanes
from ppgen._staging.transformed import bind_transformed
from ppgen._user_lines import where
from ppgen.errors import ControlFlowError

UNROLL_LIMIT = 200_000
"""Equations that unrolling one scan may produce."""

REMATS = frozenset({"remat2", "checkpoint"})
CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})


def choice_specs(jaxpr: Any) -> list[ChoiceSpec]:
    """The random choices of a jaxpr that are not in place, sites included."""
    found = []
    for eqn in equations(jaxpr):
        if eqn.primitive.name == "random_choice":
            found.append(eqn.params["spec"])
        elif eqn.primitive.name == "sample_site" and not eqn.params["spec"].observed:
            choice = eqn.params["spec"].choice
            if not choice.template.in_place:
                found.append(choice)
    return found


def needs_lowering(jaxpr: Any) -> bool:
    """Whether there is anything to lower: sites, or choices that are not in place."""
    return any(e.primitive.name in ("sample_site", "random_choice") for e in equations(jaxpr))


def lower(jaxpr: Any, *, unroll: bool = False, sampling: bool = False) -> Any:
    """The lowered program, as a closed jaxpr without inputs.

    Args:
        jaxpr: the staged program.
        unroll: unroll every scan over choices that stand for several points.
        sampling: unroll none, because every choice will be a single sample.
    """
    with settings(scans="sampling" if sampling else "unroll" if unroll else "top"):
        return jax.make_jaxpr(lambda: _run(jaxpr, ()))()


def inlined(fn: Callable[..., Sequence[Any]]) -> Callable[..., list[Any]]:
    """A function without choices, with its calls inlined when it is staged."""
    return lambda *args: _run(jax.make_jaxpr(fn)(*args), args)


def _inside() -> contextlib.AbstractContextManager[None]:
    """A context inside a branch or loop, where results of kept scans cannot be returned."""
    return settings(scans="sampling" if current().scans == "sampling" else "unroll")


def _run(jaxpr: Any, args: Sequence[Any], *, own_lines: bool = True) -> list[Any]:
    def equation(eqn: _jax.Eqn, values: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name in CALLS:
            own = own_lines and not _jax.calls_jax(eqn)
            with _jax.at_line_of(eqn) if own_lines else contextlib.nullcontext():
                return _run(_jax.subjaxprs(eqn)[0], values, own_lines=own)
        if name in ("random_choice", "fresh_key") or not is_random(eqn):
            return _jax.bind(eqn, values, own_line=own_lines)
        inside = _inside() if name not in ("sample_site", "scan") else contextlib.nullcontext()
        with _jax.at_line_of(eqn), inside:
            return _RULES.get(name, _refuse)(eqn, values)

    return interpret(jaxpr, args, equation)


def _site(eqn: _jax.Eqn, operands: list[Any]) -> list[Any]:
    spec, lanes, mapped = (eqn.params[k] for k in ("spec", "lanes", "mapped"))
    end = spec.num_leaves + spec.num_estimator
    if spec.observed:
        own = slice(end, end + 1)
        return [over_lanes(lambda _, ops: ops[0], lanes, mapped[own], None, operands[own])]
    if spec.before is not None:
        return [bind_transformed(spec, lanes, mapped, operands)[0]]
    own = [*spec.order, *range(spec.num_leaves, end)]
    return [
        bind_choice(spec.choice, lanes, tuple(mapped[i] for i in own), [operands[i] for i in own])
    ]


def _remat(eqn: _jax.Eqn, values: list[Any]) -> list[Any]:
    run = jax.checkpoint(
        lambda *values: _run(_jax.subjaxprs(eqn)[0], values),
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return run(*values)


def _cond(eqn: _jax.Eqn, values: list[Any]) -> list[Any]:
    index, *operands = values
    branches = [lambda *ops, jaxpr=jaxpr: _run(jaxpr, ops) for jaxpr in eqn.params["branches"]]
    return jax.lax.switch(index, branches, *operands)


def _while(eqn: _jax.Eqn, values: list[Any]) -> list[Any]:
    cond, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    several = [s for s in choice_specs(body) if s.template.weighted]
    if several and current().scans != "sampling":
        raise ControlFlowError(
            f"{type(several[0].template).__name__}() stands for several points, each of which may "
            "leave the while_loop at another step",
            site=several[0].name,
            where=several[0].where,
            instead="ScoreFunction() at this site, or jax.lax.scan over the largest number of "
            "steps with a mask",
        )
    if any(is_random(e) for e in equations(cond)):
        raise ControlFlowError(
            "a random choice in the condition of a while_loop",
            where=where(eqn),
            instead="the choice in the body, carried to the condition",
        )
    return list(
        jax.lax.while_loop(
            lambda carry: _run(cond, [*values[:n], *carry])[0],
            lambda carry: _run(body, [*values[n : n + m], *carry]),
            values[n + m :],
        )
    )


def _scan(eqn: _jax.Eqn, values: list[Any]) -> list[Any]:
    body, length, reverse = (eqn.params[k] for k in ("jaxpr", "length", "reverse"))
    num_consts, num_carry = _jax.scan_counts(eqn)
    consts = values[:num_consts]
    init, xs = values[num_consts : num_consts + num_carry], values[num_consts + num_carry :]
    several = [s for s in choice_specs(body) if s.template.weighted]
    if several and not _is_kept(eqn, values):
        size = length * sum(1 for _ in equations(body))
        if size > UNROLL_LIMIT:
            raise ControlFlowError(
                f"{type(several[0].template).__name__}() in a scan whose steps do not only depend "
                f"on the step before: it would be unrolled, into {size:,} equations, and sum over "
                f"the joint values of up to {length} steps",
                site=several[0].name,
                where=several[0].where,
                instead="ScoreFunction() at this site, or a body that carries the last choices "
                "and nothing else that depends on a choice",
            )
        return _unrolled(body, length, reverse, consts, init, xs)

    with _inside():
        return _loop(eqn, values)


def _is_kept(eqn: _jax.Eqn, values: list[Any]) -> bool:
    """Whether a scan over choices with several points is evaluated as a loop."""
    mode = current().scans
    if mode != "top":
        return mode == "sampling"
    num_consts, num_carry = _jax.scan_counts(eqn)
    with _inside():
        try:
            body = _jax.open_jaxpr(jax.make_jaxpr(_body(eqn, values))(*_one_step(eqn, values)))[0]
        except ControlFlowError:
            return False
    return one_at_a_time(body) or markov(body, 0, num_carry) is not None


def _one_step(eqn: _jax.Eqn, values: list[Any]) -> tuple[list[Any], list[Any]]:
    """The inputs of one step, as shapes."""
    num_consts, num_carry = _jax.scan_counts(eqn)
    avals = [v.aval for v in _jax.open_jaxpr(eqn.params["jaxpr"])[0].invars[num_consts:]]
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    return shapes[:num_carry], shapes[num_carry:]


def _body(eqn: _jax.Eqn, values: list[Any]) -> Any:
    """The body as a function of carry and input, with what it only adds to stacked instead."""
    body = eqn.params["jaxpr"]
    num_consts, num_carry = _jax.scan_counts(eqn)
    consts = values[:num_consts]
    accumulators = _accumulators(body, num_consts, num_carry) if choice_specs(body) else []

    def step(carry, xs):
        out = _run(body, [*consts, *carry, *xs])
        terms = [out[i] for i in accumulators]
        new = [
            c if i in accumulators else o for i, (c, o) in enumerate(zip(carry, out, strict=False))
        ]
        return new, (out[num_carry:], terms)

    return step


def _loop(eqn: _jax.Eqn, values: list[Any]) -> list[Any]:
    body, length, reverse = (eqn.params[k] for k in ("jaxpr", "length", "reverse"))
    num_consts, num_carry = _jax.scan_counts(eqn)
    init, xs = values[num_consts : num_consts + num_carry], values[num_consts + num_carry :]
    accumulators = _accumulators(body, num_consts, num_carry) if choice_specs(body) else []

    # With the accumulator held at zero, the body returns what it adds.
    zeros = [jnp.zeros_like(c) if i in accumulators else c for i, c in enumerate(init)]
    carry, (ys, terms) = jax.lax.scan(
        _body(eqn, values), zeros, xs, length=length, reverse=reverse, unroll=eqn.params["unroll"]
    )
    carry = list(carry)
    for i, stacked in zip(accumulators, terms, strict=True):
        carry[i] = init[i] + jnp.sum(stacked, axis=0, dtype=stacked.dtype)
    return [*carry, *ys]


def _accumulators(body: Any, num_consts: int, num_carry: int) -> list[int]:
    """Carries to which the body only adds: `carry = carry + term`, with no other use."""
    jaxpr, _ = _jax.open_jaxpr(body)
    uses: dict[_jax.Var, list[Any]] = {}
    for eqn in jaxpr.eqns:
        for v in variables_of(eqn.invars):
            uses.setdefault(v, []).append(eqn)
    outs = variables_of(jaxpr.outvars)
    found = []
    for i in range(num_carry):
        v = jaxpr.invars[num_consts + i]
        if not jnp.issubdtype(v.aval.dtype, jnp.inexact):
            continue
        while v not in outs and len(uses.get(v, [])) == 1:
            eqn = uses[v][0]
            adds = eqn.primitive.name in ("add", "sub", "add_any") and eqn.invars[0] is v
            adds |= eqn.primitive.name in ("add", "add_any") and eqn.invars[1] is v
            twice = len(eqn.invars) > 1 and eqn.invars[0] is eqn.invars[1]
            if not adds or twice or eqn.outvars[0].aval.shape != v.aval.shape:
                break
            v = eqn.outvars[0]
        same = [j for j, o in enumerate(jaxpr.outvars) if o is v]
        if v is not jaxpr.invars[num_consts + i] and same == [i] and not uses.get(v):
            found.append(i)
    return found


def _unrolled(body, length, reverse, consts, init, xs) -> list[Any]:
    num_carry, carry, ys = len(init), list(init), []
    for t in reversed(range(length)) if reverse else range(length):
        out = _run(body, [*consts, *carry, *(x[t] for x in xs)])
        carry, y = out[:num_carry], out[num_carry:]
        ys.append(y)
    if reverse:
        ys.reverse()
    num_ys = len(_jax.open_jaxpr(body)[0].outvars) - num_carry
    return [*carry, *(jnp.stack([y[i] for y in ys]) for i in range(num_ys))]


def _refuse(eqn: _jax.Eqn, values: list[Any]) -> NoReturn:
    inside = [e for jaxpr in _jax.subjaxprs(eqn) for e in equations(jaxpr)]
    named = [
        getattr(e.params["spec"], "choice", e.params["spec"]) for e in inside if "spec" in e.params
    ]
    marks = [e.params for e in inside if e.primitive.name == "marker"]
    first = [(s.name, s.where) for s in named] + [(m["name"], m["where"]) for m in marks]
    site, line = first[0] if first else (None, where(eqn))
    custom = eqn.primitive.name in CUSTOM
    raise ControlFlowError(
        "a random choice inside a function with a custom derivative, whose rule does not account "
        "for it"
        if custom
        else f"a random choice inside {eqn.primitive.name} is not supported",
        site=site,
        where=line,
        instead="the choice outside, its value passed in as an argument",
    )


_RULES = {
    "sample_site": _site,
    "remat2": _remat,
    "checkpoint": _remat,
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
