"""Random programs from the whole language: none is wrong; the benchmark that counts them runs."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import ppgen
from ppgen.testing import RandomProgram, planted
from ppgen.testing._random_parts import FUNCTIONS
from ppgen.testing._random_programs import Choice

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "random_programs.py"

# Runtime type checks draw random numbers, also inside of strategies.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module")


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(BENCHMARK), run_name="random_programs")


def program(cost, estimator, family="flip", flow="none"):
    return RandomProgram((0.3, -0.2), (Choice(family, 0, flow, 0, estimator),), ((cost, 2, 1),))


@pytest.mark.long
def test_none_is_wrong_and_the_count_goes_on_where_it_stopped(benchmark, tmp_path, monkeypatch):
    main = benchmark["main"]
    monkeypatch.setitem(main.__globals__, "PIECE", 5)
    words = ["x", "--programs", "5", "--folder", str(tmp_path), "--out", str(tmp_path / "out.md")]
    monkeypatch.setattr(sys, "argv", words)
    main()
    results = json.loads((tmp_path / "0-0.json").read_text())
    assert results and {r["verdict"] for r in results} <= {"right", "refused", "unknown"}, results
    monkeypatch.setitem(main.__globals__, "piece", None)  # what is there is not done again
    main()
    assert "| wrong | 0 | 0.0% |" in (tmp_path / "out.md").read_text()


def test_verdicts(benchmark):
    judge = benchmark["judge"]
    right = program("sort", ppgen.ScoreFunction())
    assert judge(right)[0] == "right"
    with planted("dropped score term"):
        assert judge(right)[0] == "wrong"
    refused = program("argsort", ppgen.Reparameterize(), family="normal")
    verdict, why = judge(refused)
    assert verdict == "refused" and why.startswith("DiscontinuityError")
    assert "argsort" not in benchmark["kind"]("EstimatorError: a, b")


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_costs_are_of_two_numbers(name):
    value = FUNCTIONS[name](jnp.array(0.3), jnp.array(-0.7))
    assert jnp.shape(value) == () and jnp.isfinite(value)
    slope = jax.grad(lambda x: FUNCTIONS[name](x, jnp.array(-0.7)) * 1.0)(0.3)
    assert jnp.isfinite(slope)
