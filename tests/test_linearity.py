"""What is said to be linear or affine, against sums of operands; what is said to be known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from primitive_calls import MAKERS, Call
from rules import TABLES, calls, linear_claims, rows

from ppgen import _jax
from ppgen._analysis import cost_terms, hidden_randomness, parameters
from ppgen._evaluation import constant_folding, constant_indexing, constants, deferred_sums
from ppgen._evaluation.values import Value

CLAIMING = set().union(
    *(rows(t) for t in TABLES if any(w in t.split(".")[-1] for w in ("LINEAR", "_JOINED")))
)


def not_linear(call: Call) -> bool:
    """Whether a claim about an equation is wrong.

    Of what is affine in some operands, f(a x + b y + (1 - a - b) z) is that sum of values; what is
    linear is zero at zero besides, where those of the others that are said to be zero are.
    """
    rng = np.random.default_rng(0)
    for kind, which, zeros in linear_claims(call.eqn):
        a, b = 0.75, -1.5
        weights = (a, b, 1 - a - b)
        fixed = [np.zeros_like(x) if zeros and zeros[k] else x for k, x in enumerate(call.operands)]

        def draw(x):
            drawn = rng.uniform(-2, 2, x.shape)
            return drawn + 1j * rng.uniform(-2, 2, x.shape) if np.iscomplexobj(x) else drawn

        points = [{k: draw(fixed[k]) for k in which} for _ in weights]
        mean = {k: sum(w * p[k] for w, p in zip(weights, points, strict=True)) for k in which}
        with_sum = at(call, fixed, mean)
        parts = [at(call, fixed, p) for p in points]
        for n, got in enumerate(with_sum):
            with np.errstate(invalid="ignore"):  # what is filled in may be no number
                expected = sum(w * p[n] for w, p in zip(weights, parts, strict=True))
            if not close(got, expected, sum(abs(p[n]) for p in parts)):
                return True
        if kind == "linear":
            zero = at(call, fixed, {k: np.zeros_like(v) for k, v in mean.items()})
            if any(not close(z, np.zeros_like(z), 1.0) for z in zero):
                return True
    return False


def at(call: Call, fixed: list[np.ndarray], moved: dict[int, np.ndarray]) -> list[np.ndarray]:
    """The results; whole numbers are summed as real ones, like terms of a cost."""
    real = all(jnp.issubdtype(call.operands[k].dtype, jnp.inexact) for k in moved)
    if real:
        operands = [np.asarray(moved.get(k, x), x.dtype) for k, x in enumerate(fixed)]
        outs = call(*operands)
    else:
        operands = [
            jnp.asarray(moved.get(k, x), float if k in moved else None) for k, x in enumerate(fixed)
        ]
        outs = cost_terms.real_bind(call.eqn, operands)
    return [np.asarray(y, np.complex128) for y in outs]


def close(got, expected, size) -> bool:
    """Up to rounding to the least precise type that does not count as rounding."""
    slack = 0.02 * (1 + np.max(np.nan_to_num(size), initial=0.0))
    return np.allclose(got, expected, rtol=0.02, atol=slack, equal_nan=True)


def wrong(name: str, count: int = 6) -> bool:
    return any(not_linear(call) for call in calls(name, count))


@pytest.mark.parametrize("name", sorted(CLAIMING & MAKERS.keys()))
def test_what_is_said_to_be_linear_is(name):
    assert any(linear_claims(c.eqn) for c in calls(name, 12)), "a row that claims nothing"
    assert not wrong(name)


def test_what_is_not_in_those_tables_claims_nothing():
    for name in MAKERS.keys() - CLAIMING - {"select_n", "pad"}:
        assert not any(linear_claims(c.eqn) for c in calls(name, 1)), name


def test_a_planted_row_is_found(monkeypatch):
    names = {"max", "exp", "square", "abs", "cumprod", "sort", "reduce_max"}
    with monkeypatch.context() as m:
        m.setattr(cost_terms, "LINEAR", cost_terms.LINEAR | names)
        assert all(map(wrong, names))
    with monkeypatch.context() as m:
        m.setattr(hidden_randomness, "_LINEAR", hidden_randomness._LINEAR | names | {"mul"})
        assert all(map(wrong, names | {"mul"}))


@pytest.mark.parametrize("name", ["pad", "concatenate", "select_n"])
def test_an_affine_step_that_is_taken_as_linear_is_found(monkeypatch, name):
    monkeypatch.setattr(deferred_sums, "_LINEAR_ALONE", deferred_sums._LINEAR_ALONE | {name})
    monkeypatch.setattr(deferred_sums, "_JOINED", {})
    monkeypatch.setattr(
        deferred_sums, "is_linear_step", _but_at(deferred_sums.is_linear_step, name)
    )
    assert any(not_linear(c) for c in calls(name, 16))


def _but_at(rule, name):
    def claims(eqn, position, zeros):
        return eqn.primitive.name == name and position > 0 or rule(eqn, position, zeros)

    return claims


def test_a_fill_that_is_forgotten_is_found(monkeypatch):
    rule = deferred_sums.is_linear_step

    def forgetful(eqn, position, zeros):
        return eqn.primitive.name == "gather" and position == 0 or rule(eqn, position, zeros)

    monkeypatch.setattr(deferred_sums, "is_linear_step", forgetful)
    assert wrong("gather", 24)


# --- what is known before anything runs -----------------------------------------------------------


def known(call: Call, operands: list[np.ndarray], steered: bool = False) -> list[Value] | None:
    """What is computed of known operands; of those that steer only, if the others are not known."""
    name = call.eqn.primitive.name
    steering = constant_indexing.STEERING.get(name, slice(0)) if steered else slice(None)
    places = set(range(len(operands))[steering])
    values = [
        Value(jnp.asarray(x), (), (), x if k in places else None) for k, x in enumerate(operands)
    ]
    return constant_folding.evaluate_known(call.eqn, values)


def stretched(x: np.ndarray) -> np.ndarray:
    """With equal elements along the first axis, which are stored once."""
    return np.broadcast_to(x[:1], x.shape) if x.ndim and x.size else x


def folded_otherwise(call: Call) -> bool:
    """Whether what is known is not what is computed: in value, type or shape."""
    for change in (lambda x: x, stretched):
        operands = [change(x) for x in call.operands]
        expected = call(*operands)
        for steered in (False, True):
            found = known(call, operands, steered)
            for value, want in zip(found or [], expected, strict=bool(found)):
                for got in (value.array, value.known):
                    if got is None:
                        continue
                    got = np.asarray(got)
                    if (got.shape, got.dtype) != (want.shape, want.dtype):
                        return True
                    wide = np.result_type(got.dtype, np.float32)
                    if not np.allclose(
                        got.astype(wide), want.astype(wide), 1e-6, 1e-6, equal_nan=True
                    ):
                        return True
    return False


FOLDED = sorted({*constants.KNOWN, *constant_indexing.STEERED})


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_folded_is_what_is_evaluated(name):
    made = calls(name, 12)
    assert not any(map(folded_otherwise, made))
    assert any(known(c, c.operands, s) is not None for c in made for s in (False, True))
    # Nothing of what is folded has an effect, or a key.
    for call in made:
        assert not call.eqn.effects and not _has_key(call)


def _has_key(call: Call) -> bool:
    eqn = call.eqn
    return any("key<" in str(v.aval) for v in (*eqn.invars, *eqn.outvars)) or (
        eqn.primitive.name.startswith(("random_", "threefry", "rng_"))
    )


@pytest.mark.parametrize("name", ["neg", "transpose", "slice", "concatenate", "rem", "gather"])
def test_a_wrong_fold_is_found(monkeypatch, name):
    def identity(params, shape, x, *_):
        return np.broadcast_to(np.ravel(x)[:1] if x.size else np.zeros(1), shape)

    monkeypatch.setitem(constants.KNOWN, name, identity)
    monkeypatch.delitem(constant_indexing.STEERED, name, raising=False)
    assert any(map(folded_otherwise, calls(name, 12)))


def test_what_has_an_effect_is_never_folded(monkeypatch):
    planted = dict.fromkeys(("io_callback", "pure_callback"), lambda params, shape, x: np.floor(x))
    for name, rule in planted.items():
        monkeypatch.setitem(constants.KNOWN, name, rule)
    ordered = next(c for c in calls("io_callback", 6) if c.operands[0].size)
    assert ordered.eqn.effects
    assert known(ordered, ordered.operands) is None
    # The row itself is found: it has an effect.
    assert any(c.eqn.effects for n in planted for c in calls(n, 1))


def test_a_parameter_that_is_ignored_is_found(monkeypatch):
    """A wrong entry in the table of parameters: everything is known, of any primitive."""
    everything = {name: frozenset({"sideways", *p}) for name, p in parameters.PARAMETERS.items()}
    monkeypatch.setattr(parameters, "PARAMETERS", everything)
    from test_primitive_tables import assert_defaults, with_parameter

    with pytest.raises(AssertionError):
        for name in ("gather", "transpose", "pad"):
            for call in map(with_parameter, calls(name, 1)):
                assert_defaults(call)
    assert _jax.Eqn
