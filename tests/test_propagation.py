"""Rules of influence against what primitives do: which results change when one element does."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from primitive_calls import Call
from rules import calls

from ppgen._analysis import propagation
from ppgen._analysis.influence import NONE, Influence


def wrongs(call: Call) -> list[str]:
    """Where an element changed that, by the rule, does not depend on the one that was changed."""
    base = call(*call.operands)
    found = []
    for i, x in enumerate(call.operands):
        own = Influence(aligned={0: tuple((k, "=") for k in range(x.ndim))})
        ins = [NONE] * len(call.operands)
        ins[i] = own if x.ndim else Influence(mixed=1)
        foreseen = propagation.propagate(call.eqn, ins)
        if all(out.mixed for out in foreseen):
            continue
        for at in np.ndindex(x.shape):
            for value in others(x[at]):
                changed = x.copy()
                changed[at] = value
                news = call(*call.operands[:i], changed, *call.operands[i + 1 :])
                for influence, old, new in zip(foreseen, base, news, strict=True):
                    for out in np.argwhere(~same(old, new)):
                        found += _unforeseen(influence, at, out)
    return found


def others(x: np.ndarray) -> list[np.ndarray]:
    """What an element is changed to: far and near, beyond its neighbours and the ends of axes."""
    if x.dtype == np.bool_:
        return [~x]
    if np.issubdtype(x.dtype, np.integer):
        return [np.asarray(x + d, x.dtype) for d in (1, -1, 100)]
    return [np.asarray(x + d, x.dtype) for d in (1000, -1000, 0.37)]


def same(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Where nothing changed but by rounding: series are summed until all elements are precise."""
    if not jnp.issubdtype(old.dtype, jnp.inexact):
        return old == new
    old, new = (np.asarray(x, np.result_type(x.dtype, np.float32)) for x in (old, new))
    return np.isclose(old, new, 1e-5, 1e-6, equal_nan=True)


def _unforeseen(influence: Influence, at, out) -> list[str]:
    if influence.mixed:
        return []
    if 0 not in influence.aligned:
        return [f"{out} changed, which nothing influences"]
    for a, place in zip(at, influence.aligned[0], strict=True):
        if place is None:
            continue
        b = out[place[0]]
        if not {"=": a == b, "<": a <= b, ">": a >= b}[place[1]]:
            return [f"{at} changed {tuple(out)}, not as {influence.aligned[0]}"]
    return []


def found_by(name: str) -> list[str]:
    # The axes of an elementwise primitive are as they are; those of others are what is drawn.
    count = 3 if propagation.RULES[name] is propagation._elementwise else 16
    return [w for call in calls(name, count) for w in wrongs(call)]


@pytest.mark.parametrize("name", propagation.RULES)
def test_a_rule_foresees_every_change(name):
    assert not found_by(name)


def _first(eqn, ins):
    return [ins[0]] * len(eqn.outvars)


def _nothing(eqn, ins):
    return [NONE] * len(eqn.outvars)


def test_a_planted_rule_is_found(monkeypatch):
    for name in ("top_k", "sort", "rev", "cumsum", "transpose", "cholesky", "conv_general_dilated"):
        monkeypatch.setitem(propagation.RULES, name, _first)
        assert found_by(name), name
    for name in ("add", "gather", "dynamic_slice", "select_n", "reduce_sum"):
        monkeypatch.setitem(propagation.RULES, name, _nothing)
        assert found_by(name), name


def test_a_parameter_that_a_rule_forgets_is_found(monkeypatch):
    def forward(eqn, ins):
        eqn = eqn.replace(params={**eqn.params, "reverse": False})
        return propagation._cumulative(eqn, ins)

    def plain(eqn, ins):
        return propagation._reshape(eqn.replace(params={**eqn.params, "dimensions": None}), ins)

    monkeypatch.setitem(propagation.RULES, "cumsum", forward)
    monkeypatch.setitem(propagation.RULES, "reshape", plain)
    assert found_by("cumsum")
    assert found_by("reshape")
