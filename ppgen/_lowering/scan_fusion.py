"""Fusing a scan over enumerated choices with the scans that read what it returned, step by step.

An evidence bound makes its choices in the guide's scan and scores them in the model's. One scan
over both sees each choice together with the one before it, which is all that elimination needs.
"""

from __future__ import annotations

from typing import Any

import jax

from ppgen import _jax
from ppgen._interpret import Environment, dependent, variables_of
from ppgen._lowering.scan_structure import markov, sums_over_points


def fuse(jaxpr: Any) -> Any:
    """The same program, scans over enumerated choices fused with their readers where they can."""
    while True:
        opened, _ = _jax.open_jaxpr(jaxpr)
        for pair in _pairs(opened):
            fused = _fused(jaxpr, *pair)
            if fused is not None:
                jaxpr = fused
                break
        else:
            return jaxpr


def _pairs(jaxpr: Any):
    for i, first in enumerate(jaxpr.eqns):
        if not sums_over_points(first):
            continue
        _, num_carry = _jax.scan_counts(first)
        stacked = set(first.outvars[num_carry:])
        for second in jaxpr.eqns[i + 1 :]:
            if second.primitive.name != "scan" or stacked.isdisjoint(variables_of(second.invars)):
                continue
            same = all(first.params[k] == second.params[k] for k in ("length", "reverse"))
            if same and _is_direct(jaxpr, first, second, stacked):
                yield first, second


def _is_direct(jaxpr: Any, first: _jax.Eqn, second: _jax.Eqn, stacked: set[Any]) -> bool:
    """Whether `second` depends on `first` only through values that it reads step by step."""
    later = dependent(jaxpr, first.outvars).variables
    outer = sum(_jax.scan_counts(second))
    whole, by_step = variables_of(second.invars[:outer]), variables_of(second.invars[outer:])
    return later.isdisjoint(whole) and (later - stacked).isdisjoint(by_step)


def _fused(jaxpr: Any, first: _jax.Eqn, second: _jax.Eqn) -> Any:
    """The program with both scans fused, or `None` if that would have no Markov structure."""
    opened, consts = _jax.open_jaxpr(jaxpr)
    later = dependent(opened, first.outvars).equations
    found = []

    def run() -> list[Any]:
        env: Environment[Any] = Environment()
        env.enter(opened, (), consts)
        position = next(i for i, e in enumerate(opened.eqns) if e is second)
        before, after = opened.eqns[:position], opened.eqns[position + 1 :]
        env.run((e for e in before if e is not first and id(e) not in later), _jax.bind)
        outs = _scan_both(first, second, env)
        found.append(outs is not None)
        if outs is None:
            return []
        env.write([*first.outvars, *second.outvars], outs)
        env.run([*(e for e in before if id(e) in later), *after], _jax.bind)
        return env.read(opened.outvars)

    new = jax.make_jaxpr(run)()
    return new if found[0] else None


def _scan_both(first: _jax.Eqn, second: _jax.Eqn, env: Environment[Any]) -> list[Any] | None:
    bodies = [_jax.open_jaxpr(e.params["jaxpr"]) for e in (first, second)]
    counts = [_jax.scan_counts(e) for e in (first, second)]
    operands = []
    for eqn, (n, m) in zip((first, second), counts, strict=True):
        operands.append((eqn.invars[:n], eqn.invars[n : n + m], eqn.invars[n + m :]))
    (consts1, init1, xs1), (consts2, init2, xs2) = operands
    stacked = list(first.outvars[counts[0][1] :])
    free = [v for v in xs2 if isinstance(v, _jax.Literal) or v not in stacked]

    def body(which: int, args: list[Any]) -> list[Any]:
        jaxpr, consts = bodies[which]
        return jax.core.eval_jaxpr(jaxpr, consts, *args)

    def step(carry, xs):
        (c1, c2), (x1, x2) = carry, xs
        out1 = body(0, [*env.read(consts1), *c1, *x1])
        ys1, x2 = out1[len(c1) :], iter(x2)
        read_now = [
            ys1[stacked.index(v)] if not isinstance(v, _jax.Literal) and v in stacked else next(x2)
            for v in xs2
        ]
        out2 = body(1, [*env.read(consts2), *c2, *read_now])
        return (out1[: len(c1)], out2[: len(c2)]), (ys1, out2[len(c2) :])

    init = (env.read(init1), env.read(init2))
    xs = (env.read(xs1), env.read(free))
    one = jax.tree.map(lambda x: x[0], xs)
    num_carry = len(init1) + len(init2)
    trial = jax.make_jaxpr(lambda c, x: jax.tree.leaves(step(c, x)))(init, one)
    if markov(trial, 0, num_carry) is None:
        return None
    (c1, c2), (ys1, ys2) = jax.lax.scan(
        step, init, xs, length=first.params["length"], reverse=first.params["reverse"]
    )
    return [*c1, *ys1, *c2, *ys2]
