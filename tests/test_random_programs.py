"""Random programs from the whole language: none is wrong, and planted bugs are found."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen._analysis import propagation
from ppgen.estimators import MeasureValued, ScoreFunction
from ppgen.testing import RandomProgram, planted
from ppgen.testing._lanes import Lanes, keys
from ppgen.testing._random_flows import FLOWS
from ppgen.testing._random_parts import FAMILIES, FUNCTIONS
from ppgen.testing._random_programs import Choice, random_program
from ppgen.testing._slopes import slopes
from ppgen.testing._verdicts import judge as verdict

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "random_programs.py"

# Runtime type checks draw random numbers, also inside of strategies.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module")


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(BENCHMARK), run_name="random_programs")


def program(cost, estimator, family="flip", flow="none"):
    return RandomProgram((0.31, -0.22), (Choice(family, 0, flow, 0, estimator),), ((cost, 2, 1),))


def judged(p):
    return verdict(p, p.theta, draws=p.draws)


@pytest.mark.sweep(quick=["0"])
@pytest.mark.parametrize("piece", range(12))
def test_none_is_wrong(piece):
    programs = [random_program(np.random.default_rng([7, 10 * piece + i])) for i in range(10)]
    found = [(p, judged(p)) for p in programs]
    bad = [(p, v) for p, v in found if v.verdict in ("wrong", "crashed", "not a number")]
    assert not bad, bad
    assert any(v.verdict == "right" for _, v in found)


@pytest.mark.parametrize(
    ("bug", "estimator", "family"),
    [
        ("dropped score term", ScoreFunction(), "pick"),
        ("score term scaled twice", ScoreFunction(), "binomial"),
        ("dropped phantom", MeasureValued(), "flip_probs"),
    ],
)
def test_planted_bugs_are_found(bug, estimator, family):
    p = program("square", estimator, family)
    assert judged(p).verdict == "right"
    with planted(bug):
        assert judged(p).verdict == "wrong"


def test_a_wrong_rule_about_axes_is_found(monkeypatch):
    def by_columns(theta):
        x = ppgen.draw(dist.Bernoulli(jax.nn.sigmoid(theta[:1] * jnp.array([[1.0, 2], [0.5, 1]]))))
        # Element by element the same as x, which only a rule that looks at the order knows.
        same = jnp.reshape(jnp.reshape(x, (4,), order="F"), (2, 2), order="F")
        y = jax.lax.reshape(x, (2, 2), dimensions=(1, 0))
        return jnp.sum(y * jnp.array([[1.0, 10.0], [4.0, 0.3]])) + jnp.sum(same)

    assert verdict(by_columns, (0.3, 0.1)).verdict == "right"
    straight = propagation.RULES["reshape"]

    def careless(eqn, ins):
        eqn = eqn.replace(params=eqn.params | {"dimensions": None})
        return straight(eqn, ins)

    monkeypatch.setitem(propagation.RULES, "reshape", careless)
    assert verdict(by_columns, (0.3, 0.1)).verdict == "wrong"


def test_refused_programs_are_sound_or_not():
    jump = judged(program("argsort", ppgen.Reparameterize(), family="normal"))
    assert (jump.verdict, jump.sound) == ("refused", "unsound")
    assert jump.why.startswith("DiscontinuityError")
    # What jumps is hidden behind a factor of zero, which no rule can know.
    hidden = verdict(
        lambda t: ppgen.draw(dist.Normal(t[0], 1.0)) * (1 + 0 * jnp.floor(t[1] * 2)),
        (0.3, 0.2),
    )
    assert hidden.verdict == "right"
    factor = jnp.zeros(())
    needless = verdict(
        lambda t: t[0] + factor * jnp.floor(ppgen.draw(dist.Normal(t[1], 1.0))), (0.3, 0.2)
    )
    assert (needless.verdict, needless.sound) == ("refused", "sound")


def test_a_kink_at_the_point_itself_is_not_judged():
    """JAX's derivative there is one of two, and the slope of the expectation neither."""

    def kinked(t):
        x = ppgen.draw(dist.Normal(0.0, 1.0), name="x")
        return jnp.sort(jnp.stack([t[0], t[1]]))[1] + x

    at = (0.31, 0.31)
    assert verdict(kinked, at).why == "kinks at the point itself"
    assert verdict(kinked, (0.31, 0.35)).verdict == "right"
    assert np.all(np.abs(slopes(kinked, at).kinks - 1.0) < 1e-3)


@pytest.mark.parametrize("flow", ["while", "counted while", "open while"])
def test_loops_of_unknown_length_are_judged(flow):
    """Those with a bound run in blocks, with branches that keep keys for the way back."""
    assert judged(program("sum", ScoreFunction(), "flip", flow)).verdict == "right"


def test_nothing_to_compare_with():
    def f(theta):
        x = ppgen.draw(dist.Dirichlet(jnp.ones(3) + theta[0] ** 2))
        return x[0]

    assert verdict(f, (0.3,)).verdict == "unknown"


@pytest.mark.parametrize(
    ("family", "mean"),
    [
        (lambda t: dist.Normal(t, 0.5), lambda t: t),
        (lambda t: dist.Exponential(t), lambda t: 1 / t),
        (lambda t: dist.Gamma(t, 2.0), lambda t: t / 2),
        (lambda t: dist.Beta(t, 2.0), lambda t: t / (t + 2)),
        (lambda t: dist.Gumbel(t, 1.0), lambda t: t + 0.5772156649),
        (lambda t: dist.LogNormal(t, 0.5), lambda t: jnp.exp(t + 0.125)),
        (lambda t: dist.Uniform(0.0, t), lambda t: t / 2),
        (lambda t: dist.Poisson(t), lambda t: t),
        (lambda t: dist.Geometric(t / 2), lambda t: 2 / t - 1),
        (lambda t: dist.Binomial(3, t / 2), lambda t: 1.5 * t),
        (
            lambda t: dist.TransformedDistribution(
                dist.Exponential(1.0), dist.transforms.AffineTransform(t, 2.0)
            ),
            lambda t: t + 2,
        ),
    ],
)
def test_slopes_of_means(family, mean):
    found = slopes(lambda t: ppgen.draw(family(t[0])) * 1.0, (0.9,), nodes=400, terms=120)
    assert found.value == pytest.approx(float(mean(0.9)), rel=2e-3)
    assert found.slopes[0] == pytest.approx(float(jax.grad(mean)(0.9)), rel=2e-2)


def test_lanes_compute_what_jax_computes():
    """Costs of pairs of numbers, and their slopes, on lanes and under `vmap`."""
    x, y = jnp.array([0.31, 1.0, -0.71]), jnp.array([-0.22, 0.0, 2.0])

    def all_costs(x, y):
        return [jnp.asarray(f(x, y), float) for f in FUNCTIONS.values()]

    want = jax.jit(jax.vmap(all_costs))(x, y)
    graph = jax.make_jaxpr(all_costs)(x[0], y[0])
    with np.errstate(all="ignore"):
        got = Lanes()(graph, [np.asarray(x), np.asarray(y)])
    for name, a, b in zip(FUNCTIONS, got, want, strict=True):
        np.testing.assert_allclose(np.broadcast_to(a, (3,)), b, 1e-4, 1e-5, err_msg=name)


@pytest.mark.parametrize(
    "sample",
    [
        lambda key: jax.random.normal(key),
        lambda key: 1.0 * jax.random.randint(key, (), 1, 4),
        lambda key: 1.0 * jax.random.permutation(key, 4)[1],
        lambda key: jnp.sum(jax.random.gamma(key, jnp.array([0.7, 1.3]))),
        lambda key: 1.0 * dist.Poisson(3.3).sample(key),
    ],
)
def test_keys_draw_what_they_should(sample):
    own = np.asarray(Lanes()(jax.make_jaxpr(sample)(jax.random.key(0)), [keys(20_000, 1)])[0])
    theirs = np.asarray(jax.vmap(sample)(jax.random.split(jax.random.key(0), 4000)))
    assert abs(own.mean() - theirs.mean()) < 5 * theirs.std() / 4000**0.5
    assert own.std() == pytest.approx(theirs.std(), rel=0.1)


def test_every_part_is_drawn():
    drawn = [random_program(np.random.default_rng([1, i])) for i in range(1500)]
    assert {c.family for p in drawn for c in p.choices} >= set(FAMILIES)
    assert {c.flow for p in drawn for c in p.choices} >= set(FLOWS)
    assert {name for p in drawn for name, *_ in p.costs} >= set(FUNCTIONS)
    estimators = {type(c.estimator).__name__ for p in drawn for c in p.choices}
    assert {"Enumerate", "ARM", "UnorderedSet", "QuasiMonteCarlo", "NoneType"} <= estimators


def test_the_count_goes_on_where_it_stopped(benchmark, tmp_path, monkeypatch):
    main = benchmark["main"]
    monkeypatch.setitem(main.__globals__, "PIECE", 4)
    words = ["x", "--programs", "4", "--folder", str(tmp_path), "--out", str(tmp_path / "out.md")]
    monkeypatch.setattr(sys, "argv", words)
    main()
    results = json.loads((tmp_path / "0-0.json").read_text())
    assert len(results) == 4 and "wrong" not in {r["verdict"] for r in results}
    monkeypatch.setitem(main.__globals__, "piece", None)  # what is there is not done again
    main()
    assert "| wrong | 0 | 0.00% |" in (tmp_path / "out.md").read_text()


def test_kinds_of_refusals(benchmark):
    kind = benchmark["kind"]
    a, b = (f"DiscontinuityError: the value of '{z}' reaches argsort at : where" for z in "ab")
    assert kind(a) == kind(b) and "argsort" in kind(a)


def test_impossible_draws_of_a_proposal_have_no_weight():
    """∞ − ∞ in the weights of what is summed over but cannot be drawn."""
    for estimator in (ppgen.Enumerate(), MeasureValued()):
        found = judged(program("sum", estimator, "impossible", "normalize"))
        assert found.verdict == "right", found


def test_a_count_as_the_value_of_a_real_site():
    import numpyro

    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z * jnp.float32(0.5), 1.0), obs=0.3)

    assert ppgen.log_density(model)({"z": jnp.array(2)}) == ppgen.log_density(model)({"z": 2.0})
