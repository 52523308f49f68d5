"""What is said to be continuous, to have no atoms, to lie in a range: against grids along lines.

Along lines through the space of the operands, also through ties and edges, the largest steps of a
grid are halved until the operands are next to each other. What is continuous has no step left.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from primitive_calls import MAKERS, Call
from rules import TABLES, calls, continuous, rows, steady

from ppgen._analysis import analyse, discontinuity, hidden_randomness, propagation, ranges
from ppgen._analysis.influence import NONE, Influence

STEPS, HALVINGS = 20, 22
LEAST = 0.01
"""A step that counts, relative to the values; rounding to a bfloat16 makes smaller ones."""
POLE = 1e3


class Line:
    """A line through the space of some operands; the others are what they are.

    Args:
        call: the function.
        moving: which operands move.
        rng: for the direction.
        middle: what they are in the middle: "anything", all the same ("tie"), or one of them whole
            numbers ("edge").
    """

    def __init__(self, call: Call, moving: list[bool], rng: np.random.Generator, middle: str):
        self.call, self.results, self.rng = call, steady(call.eqn), rng
        self.middles, self.directions = [], []
        tie = rng.integers(-2, 3) / 2
        edge = rng.choice([k for k, moves in enumerate(moving) if moves])
        for k, (x, moves) in enumerate(zip(call.operands, moving, strict=True)):
            centre = rng.uniform(-2, 2, x.shape)
            if middle == "tie":
                centre = np.full(x.shape, tie)
            elif middle == "edge" and k == edge:
                centre = rng.integers(-2, 3, x.shape) * 1.0
            direction = rng.uniform(-3, 3, x.shape)
            if np.iscomplexobj(x):
                centre = centre + 1j * (middle == "anything") * rng.uniform(-2, 2, x.shape)
                direction = direction + 1j * rng.uniform(-3, 3, x.shape)
            self.middles.append(centre if moves else x)
            self.directions.append(direction if moves else None)

    def at(self, t: float) -> np.ndarray:
        """The real results there: real numbers, and in a second row how large each number is."""
        operands = [
            m if d is None else np.asarray(m + t * d, x.dtype)
            for m, d, x in zip(self.middles, self.directions, self.call.operands, strict=True)
        ]
        outs = self.call(*operands)
        parts = [np.ravel(outs[k]) for k in self.results]
        # A complex number is as large as both of its parts together.
        flat = np.concatenate([np.asarray(p, np.complex128) for p in parts])
        return np.stack([[flat.real, flat.imag], [np.abs(flat)] * 2]).reshape(2, -1)

    def grid(self) -> np.ndarray:
        return np.stack([self.at(t) for t in np.linspace(-1, 1, STEPS + 1)])

    def jumps(self, *, poles: bool = False) -> bool:
        """Whether a step remains however near two points are: one between numbers, or at a pole."""
        values = self.grid()
        if not values.size:
            return False
        sizes = _step(values[:-1], values[1:])
        large = np.argwhere(sizes > LEAST)
        if not len(large):
            return False
        some = large[self.rng.integers(len(large), size=3)].tolist()
        largest = np.unravel_index(sizes.argmax(), sizes.shape)
        tried = (largest, *some)
        return any(self._remains(int(k), int(element), poles) for k, element in tried)

    def _remains(self, k: int, element: int, poles: bool) -> bool:
        low, high = np.linspace(-1, 1, STEPS + 1)[[k, k + 1]]
        before, after = (self.at(t)[:, element] for t in (low, high))
        for _ in range(HALVINGS):
            t = (low + high) / 2
            there = self.at(t)[:, element]
            if not np.isfinite(there).all():
                return False
            if _step(before, there) >= _step(there, after):
                high, after = t, there
            else:
                low, before = t, there
            if _step(before, after) <= LEAST:
                return False
        if poles:
            return bool(min(before[1], after[1]) > POLE and before[0] * after[0] < 0)
        return bool(max(before[1], after[1]) < POLE)


def has_poles(name: str, count: int = 6) -> bool:
    """Whether a step remains whose sides get larger and larger, with one sign and the other."""
    rng = np.random.default_rng(0)
    return any(
        Line(call, moving, rng, "anything").jumps(poles=True)
        for call in calls(name, count)
        for moving in subsets(call, rng)
        if steady(call.eqn)
    )


def _step(a, b):
    """The step between two values, relative to their size; none to what is not finite."""
    with np.errstate(all="ignore"):
        a, sizes_a, b, sizes_b = (
            x[..., k, :] if x.ndim > 1 else x[k] for x in (a, b) for k in (0, 1)
        )
        step = np.abs(a - b) / (1 + sizes_a + sizes_b)
    return np.where(np.isfinite(step), step, 0)


def subsets(call: Call, rng: np.random.Generator) -> list[list[bool]]:
    """Which operands move: all real ones, and one of them."""
    real = call.real()
    if not real:
        return []
    one = real[rng.integers(len(real))]
    count = range(len(call.operands))
    found = [[k in real for k in count]]
    return found if len(real) == 1 else [*found, [k == one for k in count]]


def all_of(call: Call, moving: list[bool]) -> bool:
    return sum(moving) == len(call.real())


def said_continuous_but_jumps(name: str, count: int = 4) -> bool:
    rng = np.random.default_rng(0)
    return any(
        Line(call, moving, rng, middle).jumps()
        for call in calls(name, count)
        for moving in subsets(call, rng)
        if steady(call.eqn) and continuous(call.eqn, moving)
        for middle in (("anything", "tie", "edge") if all_of(call, moving) else ("anything",))
    )


def jumps(name: str, count: int = 5) -> bool:
    rng = np.random.default_rng(0)
    return any(
        Line(call, moving, rng, "anything").jumps()
        for call in calls(name, count)
        for moving in subsets(call, rng)
        if steady(call.eqn)
    )


WALKED = {"custom_linear_solve", "undifferentiable", "pure_callback", "io_callback"}
"""What is walked through, and what has no derivative that could miss anything."""
NAMES = sorted(MAKERS.keys() - WALKED)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_to_be_continuous_is(name):
    assert not said_continuous_but_jumps(name)


REGULAR = {"triangular_solve", "custom_linear_solve", "lu", "qr", "eigh", "svd"}
"""What is taken for granted: a matrix that is divided by is not singular."""


@pytest.mark.parametrize("name", NAMES)
def test_what_has_poles_is_said_to(name):
    if has_poles(name):
        assert name in {*discontinuity._POLES, *discontinuity._JUMPS, *REGULAR}


def test_poles_are_seen():
    assert all(has_poles(name, 16) for name in ("div", "tan", "digamma", "triangular_solve"))


def test_what_is_said_to_jump_is_seen_to_jump():
    """The grid sees jumps; and nothing is refused in the belief of jumps that are not there."""
    assert all(jumps(name) for name in discontinuity._JUMPS.keys() - {"argmax", "argmin"})
    assert all(jumps(name, 16) for name in ("lu", "qr"))


@pytest.mark.parametrize("name", ["floor", "ceil", "round", "sign", "rem", "atan2", "qr", "lu"])
def test_a_jump_that_is_called_continuous_is_found(monkeypatch, name):
    monkeypatch.setattr(discontinuity, "CONTINUOUS", discontinuity.CONTINUOUS | {name})
    monkeypatch.delitem(discontinuity._JUMPS, name, raising=False)
    assert said_continuous_but_jumps(name, 16)


def test_a_jump_of_some_operands_and_parameters_only_is_found(monkeypatch):
    monkeypatch.setattr(discontinuity, "_OF_REALS", frozenset())
    monkeypatch.setattr(discontinuity, "_VECTORS", {})
    monkeypatch.setattr(discontinuity, "_DIGITS", 0)
    for name in ("log", "sqrt", "max", "eigh", "svd", "convert_element_type", "reduce_precision"):
        assert said_continuous_but_jumps(name, 16), name


def test_keys_of_a_sort_that_are_forgotten_are_found(monkeypatch):
    eqn_of = discontinuity._by_itself

    def forgetful(eqn, ins, derived):
        return None if eqn.primitive.name == "sort" else eqn_of(eqn, ins, derived)

    monkeypatch.setattr(discontinuity, "_by_itself", forgetful)
    monkeypatch.setattr(hidden_randomness._Walk, "check_sort", lambda *args: None)
    assert said_continuous_but_jumps("sort", 16)


# --- suspicion ------------------------------------------------------------------------------------


def loses_suspicion(name: str) -> bool:
    """Whether a jump goes on as if it were none.

    Integers and booleans of what is random and moving are suspect. What is made of them is suspect
    in turn if it is an integer or a boolean, and refused if it is a number.
    """
    for call in calls(name, 3):
        eqn, count = call.eqn, len(call.operands)
        real = call.real()
        started = [Influence(pathwise=1, atoms=True) if k in real else NONE for k in range(count)]
        cases = [started] if real else []
        for k in set(range(count)) - set(real):
            cases.append([Influence(mixed=1, suspect=2) if i == k else NONE for i in range(count)])
        for ins in cases:
            if discontinuity.discontinuity(eqn, ins) is not None:
                continue
            outs = analyse.settled(eqn, ins, propagation.propagate(eqn, ins), jumps=True)
            for v, out in zip(eqn.outvars, outs, strict=True):
                from_reals = ins is started and discontinuity.is_inexact(v)
                if not from_reals and not out.suspect:
                    return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_suspicion_is_not_lost(name):
    assert not loses_suspicion(name)


def test_suspicion_that_is_lost_is_found(monkeypatch):
    settled = analyse.settled

    def trusting(eqn, ins, outs, *, jumps):
        return [o._replace(suspect=0) for o in settled(eqn, ins, outs, jumps=jumps)]

    with monkeypatch.context() as m:
        m.setattr(analyse, "settled", trusting)
        assert all(map(loses_suspicion, ("gt", "and", "reduce_or", "is_finite")))
    with monkeypatch.context() as m:
        m.setattr(discontinuity, "_by_suspects", lambda eqn, ins: None)
        assert all(map(loses_suspicion, ("gather", "convert_element_type", "scatter-add")))


# --- atoms ----------------------------------------------------------------------------------------


def said_atomless_but_repeats(name: str) -> bool:
    """Whether a result is the same number at several points of a line, and another at others."""
    rng = np.random.default_rng(0)
    for call in calls(name, 5):
        for moving in subsets(call, rng):
            ins = [Influence(pathwise=1) if m else NONE for m in moving]
            outs = discontinuity.ranged(call.eqn, ins, propagation.propagate(call.eqn, ins))
            if not steady(call.eqn) or outs[steady(call.eqn)[0]].atoms:
                continue
            for column in Line(call, moving, rng, "anything").grid()[:, 0].T:
                _, counts = np.unique(column[np.isfinite(column)], return_counts=True)
                if len(counts) > 1 and counts.max() > 2:
                    return True
    return False


ATOMLESS = sorted(discontinuity._ATOMLESS & set(NAMES))


@pytest.mark.parametrize("name", ATOMLESS)
def test_what_gives_no_atoms_repeats_no_number(name):
    assert not said_atomless_but_repeats(name)


def test_planted_atoms_are_found(monkeypatch):
    planted = {"max", "clamp", "floor", "sign"}
    monkeypatch.setattr(discontinuity, "_ATOMLESS", discontinuity._ATOMLESS | planted)
    for name in planted:
        assert said_atomless_but_repeats(name), name


# --- ranges ---------------------------------------------------------------------------------------

RANGES = [(0.0, 1.0), (-1.0, 2.0), (0.25, 3.0), (-np.inf, np.inf), (0.0, np.inf), (0.1, 0.3)]


def outside(name: str, count: int = 12) -> bool:
    """Whether results lie outside of the range that is said of them."""
    rng = np.random.default_rng(0)
    for call in calls(name, count):
        ins, operands = [], []
        for v, x in zip(call.eqn.invars, call.operands, strict=False):
            if type(v).__name__ == "Literal" or not jnp.issubdtype(x.dtype, jnp.floating):
                ins.append(NONE)
                operands.append(x)
                continue
            low, high = RANGES[rng.integers(len(RANGES))]
            ins.append(Influence(frozen=1, within=(low, high)))
            # Some lie at the ends.
            inside = rng.uniform(max(low, -9) - 0.2, min(high, 9) + 0.2, x.shape)
            operands.append(np.asarray(np.clip(inside, low, high), x.dtype))
        outs = discontinuity.settled(
            call.eqn, ins, propagation.propagate(call.eqn, ins), jumps=True
        )
        outs = discontinuity.ranged(call.eqn, ins, outs)
        for influence, values in zip(outs, call(*operands), strict=True):
            if influence.within == ranges.ANYWHERE or np.iscomplexobj(values):
                continue
            low, high = influence.within
            values = np.asarray(values, np.float64)
            values = values[~np.isnan(values)]
            slack = 1e-5 * (1 + np.abs(values))
            if np.any(values < low - slack) or np.any(values > high + slack):
                return True
    return False


RANGED = set().union(*(rows(t) for t in TABLES if ".ranges." in t))
MORE = "convert_element_type ne select_n gather pad integer_pow add add_any sub neg max min".split()


@pytest.mark.parametrize("name", sorted((RANGED | {*MORE, "clamp", "mul", "div"}) - WALKED))
def test_results_lie_where_they_are_said_to(name):
    assert not outside(name)


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - RANGED - {*MORE} - WALKED))
def test_what_has_no_rule_lies_anywhere(name):
    assert not outside(name, 2)


def test_planted_ranges_are_found(monkeypatch):
    monkeypatch.setattr(
        ranges, "_KEEPING", ranges._KEEPING | {"floor", "sin", "log", "reduce_sum", "tile"}
    )
    monkeypatch.setattr(ranges, "_CLOSED", ranges._CLOSED | {"atan2", "log", "digamma"})
    assert outside("floor") and outside("sin") and outside("reduce_sum") and outside("digamma")
