"""The one loop over the equations of a jaxpr."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppgen import _jax
from ppgen._interpret import (
    Environment,
    dependent,
    follow,
    interpret,
    needed,
    variables_of,
    without_unused,
)
from ppgen._staging.primitives import equations, equations_of, has_any

TABLE = np.arange(3.0)


def program(x, y):
    """Literals, a constant, a call, an equation of two results, and something nobody uses."""
    jnp.sin(x)
    a, b = jnp.split(jnp.stack([x, y, 2.0 * x, y]), 2)
    return jnp.logaddexp(a, b).sum() + TABLE[1], 3.0, x, jax.jit(lambda z: z * y)(x)


JAXPR = jax.make_jaxpr(program)(1.0, 2.0)
OPEN, CONSTS = _jax.open_jaxpr(JAXPR)


def by_count(eqn, counts):
    return [1 + sum(counts)] * len(eqn.outvars)


def test_a_jaxpr_by_its_own_primitives_is_itself():
    found = interpret(JAXPR, [0.3, 0.7], _jax.bind)
    expected = jax.core.eval_jaxpr(OPEN, CONSTS, 0.3, 0.7)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert found[2] == 0.3  # an input that is returned as it is


def test_constants_and_literals_may_stand_for_something_else():
    jaxpr = jax.make_jaxpr(lambda x: (x * 2.0, jnp.array([5.0, 6.0]) + x, 3.0))(1.0)
    opened, consts = _jax.open_jaxpr(jaxpr)
    found = interpret(
        jaxpr,
        ["x"],
        lambda eqn, ins: [f"{eqn.primitive.name}({' '.join(ins)})"] * len(eqn.outvars),
        consts=[f"c{i}" for i in range(len(consts))],
        literal=lambda v: str(v.val),
    )
    assert found[0] == "mul(x 2.0)" and found[2] == "3.0"
    assert "x" in found[1]


def test_nothing_is_known_of_literals_and_constants():
    env = follow(JAXPR, [True, False], lambda e, ins: [any(ins)] * len(e.outvars), False)
    assert env.read(OPEN.outvars) == [True, False, True, True]
    reached = dependent(JAXPR, OPEN.invars[:1]).variables
    assert {v for v, flag in env.values.items() if flag} == reached


def test_a_rule_that_forgets_a_result_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        interpret(JAXPR, [1.0, 2.0], lambda eqn, ins: [])
    with pytest.raises(ValueError, match="zip"):
        interpret(JAXPR, [1.0], _jax.bind)


def test_equations_in_parts_are_the_whole():
    env = Environment(lambda _: 0)
    env.enter(OPEN, [0, 0], [0] * len(CONSTS))
    for eqn in OPEN.eqns:
        env.run([eqn], by_count)
    expected = follow(JAXPR, [0, 0], by_count, 0)
    assert env.values == expected.values
    assert [env[v] for v in OPEN.outvars] == expected.read(OPEN.outvars)


def test_what_is_needed_is_enough_and_nothing_else_is_needed():
    used = needed(JAXPR, OPEN.outvars)
    left_out = [e for e in OPEN.eqns if id(e) not in used.equations]
    assert [e.primitive.name for e in left_out] == ["sin"]
    env = Environment()
    env.enter(OPEN, [0.3, 0.7], CONSTS)
    env.run([e for e in OPEN.eqns if id(e) in used.equations], _jax.bind)
    np.testing.assert_array_equal(env[OPEN.outvars[0]], program(0.3, 0.7)[0])
    assert used.variables >= set(variables_of(OPEN.outvars)) | set(OPEN.invars)


def test_without_what_is_unused_a_jaxpr_gives_the_same():
    def f(x):
        jnp.sin(x)
        y = jnp.cos(x)
        jnp.tan(y)
        return x * 2.0 + x

    jaxpr = jax.make_jaxpr(f)(1.0)
    for given in (jaxpr, _jax.open_jaxpr(jaxpr)[0]):
        names = [e.primitive.name for e in _jax.open_jaxpr(without_unused(given, never))[0].eqns]
        assert names == ["mul", "add"]
    kept = without_unused(jaxpr, lambda e: e.primitive.name == "tan")
    assert [e.primitive.name for e in _jax.open_jaxpr(kept)[0].eqns] == ["cos", "tan", "mul", "add"]
    assert interpret(kept, [0.3], _jax.bind) == interpret(jaxpr, [0.3], _jax.bind)
    assert without_unused(kept, lambda e: True) is kept


def test_effects_are_never_unused():
    def f(x):
        jax.debug.print("{}", jnp.sin(x))
        return x * 2.0

    jaxpr = without_unused(jax.make_jaxpr(f)(1.0), never)
    assert {"sin", "mul"} <= {e.primitive.name for e in _jax.open_jaxpr(jaxpr)[0].eqns}


def never(eqn):
    return False


def test_the_primitives_in_a_jaxpr_are_those_of_all_its_equations():
    def f(x):
        y = jax.lax.cond(x > 0, jnp.sin, lambda x: jax.jit(jnp.cos)(x), x)
        return jax.lax.scan(lambda c, _: (jnp.tanh(c), c), y, None, length=3)[0]

    jaxpr = jax.make_jaxpr(f)(1.0)
    names = {e.primitive.name for e in equations(jaxpr)}
    assert {"sin", "cos", "tanh", "cond", "scan"} <= names
    for given in (jaxpr, _jax.open_jaxpr(jaxpr)[0]):
        assert _jax.primitives_in(given) == names
    for wanted in ({"sin"}, {"tanh", "scan"}, {"exp"}):
        expected = [e for e in equations(jaxpr) if e.primitive.name in wanted]
        assert list(equations_of(jaxpr, wanted)) == expected
        for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
            below = [e for j in _jax.subjaxprs(eqn) for e in equations(j)]
            found = any(e.primitive.name in wanted for e in [eqn, *below])
            assert has_any(eqn, wanted) == found


def test_forwards_and_backwards_agree():
    """One variable depends on another if and only if the other is needed for it."""
    every = [*OPEN.constvars, *OPEN.invars, *(v for e in OPEN.eqns for v in e.outvars)]
    for source in every:
        later = dependent(JAXPR, [source]).variables
        assert later == {v for v in every if source in needed(JAXPR, [v]).variables}, source


def test_what_stops_at_the_first_operand_goes_on_at_the_others():
    def f(x, y):
        return jax.lax.stop_gradient(x) + y, jnp.where(x > 0, y, 1.0)

    jaxpr, _ = _jax.open_jaxpr(jax.make_jaxpr(f)(1.0, 2.0))
    x, y = jaxpr.invars
    assert needed(jaxpr, jaxpr.outvars[:1], stop=("stop_gradient",)).variables.isdisjoint([x])
    assert y in needed(jaxpr, jaxpr.outvars[:1], stop=("stop_gradient",)).variables
    assert x in needed(jaxpr, jaxpr.outvars[1:], stop=("stop_gradient",)).variables
