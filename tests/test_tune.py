"""The search for estimators, on objectives whose best ones are known."""

from __future__ import annotations

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
import ppgen.estimators
from ppgen._reports import measure, tune_search
from ppgen._reports.measure import Contender
from ppgen.errors import CostError, PpgenError
from ppgen.estimators._configurations import every_configuration
from ppgen.testing import ESTIMATORS

KEY = jax.random.key(0)
P = 0.3


def tune(f, **options):
    return ppgen.tune(f, **{"progress": False, "seconds": 100.0} | options)


def row(tuned, label):
    return next(c for c in tuned.candidates if c.label == label)


def flip(p):
    return (ppgen.draw(dist.Bernoulli(p), name="b") - 0.499) ** 2


@pytest.fixture(scope="module")
def of_flip():
    return tune(flip)(KEY, P)


class Halved(ppgen.AbstractEstimator):
    """A planted bug: half of the derivative, and so a quarter of the variance."""

    differentiable: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def misfit(self, dist):
        return ppgen.Reparameterize().misfit(dist)

    def __call__(self, key, dist):
        x = ppgen.Reparameterize()(key, dist).value
        return ppgen.Points((x + jax.lax.stop_gradient(x)) / 2)


class Broken(ppgen.AbstractEstimator):
    """One that says that it fits, and fails."""

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def misfit(self, dist):
        return None

    def __call__(self, key, dist):
        raise KeyError("nothing works")


# --- what is found --------------------------------------------------------------------------------


def test_measured_variances_and_their_order_are_those_of_the_closed_forms(of_flip):
    # At b = 1 and b = 0; with the score, and for the antithetic pairs with u in [0, 1].
    p, f1, f0 = P, 0.501**2, 0.499**2
    score = p * (f1 / p) ** 2 + (1 - p) * (f0 / (1 - p)) ** 2 - (f1 - f0) ** 2
    # DisARM: with probability 2p the pair differs; then its size is known.
    size = 0.5 * (f1 - f0) * (1 - p) / (p * (1 - p))
    disarm = 2 * p * size**2 - (f1 - f0) ** 2
    for label, known in {"as the program says": score, "DisARM()": disarm}.items():
        found = row(of_flip, label)
        assert abs(found.variance - known) < 5 * found.error, label
    assert of_flip.best.variance == 0
    assert row(of_flip, "DisARM()").product < row(of_flip, "as the program says").product


def test_result_is_what_with_estimators_takes(of_flip):
    (estimator,) = of_flip.estimators.values()
    assert isinstance(estimator, (ppgen.Enumerate, ppgen.MeasureValued)) and of_flip.draws == 1
    g = ppgen.expectation(ppgen.with_estimators(flip, of_flip.estimators), draws=of_flip.draws)
    np.testing.assert_allclose(jax.grad(g, 1)(KEY, P), 0.501**2 - 0.499**2, rtol=1e-4)


def test_biased_estimators_are_not_tried(of_flip):
    labels = {c.label for c in of_flip.candidates}
    assert {"DisARM()", "MeasureValued()"} < labels
    assert not any("StraightThrough" in x or "Gumbel" in x for x in labels)


def test_biased_estimators_are_tried_where_they_are_allowed():
    def cost(p):
        return jnp.sin(ppgen.draw(dist.Bernoulli(p), name="b"))

    labels = {c.label for c in tune(cost, allow_biased=True)(KEY, P).candidates}
    assert {"StraightThrough()", "GumbelSoftmax(hard=True)"} < labels


def nearly_linear(loc, grad=None):
    x = ppgen.draw(dist.Normal(loc, 1.0), name="x", grad=grad)
    return 2.0 * x + 0.1 * jnp.sin(x)


def test_pathwise_derivatives_beat_the_score_function():
    tuned = tune(lambda loc: nearly_linear(loc, ppgen.ScoreFunction()))(KEY, 0.5)
    assert type(tuned.estimators["x"]) is ppgen.Reparameterize
    # The derivative is 2 + cos(x) / 10; the score function's, cost times (x - loc).
    of_cosine = (1 + np.exp(-2.0) * np.cos(1.0)) / 2 - np.exp(-1.0) * np.cos(0.5) ** 2
    assert abs(tuned.best.variance - 0.01 * of_cosine) < 5 * tuned.best.error
    x = 0.5 + np.random.default_rng(0).normal(size=1_000_000)
    score = np.var((2.0 * x + 0.1 * np.sin(x)) * (x - 0.5))
    assert 0.3 < row(tuned, "as the program says").variance / score < 3.0


def test_a_tie_leaves_the_program_as_it_is():
    tuned = tune(nearly_linear)(KEY, 0.5)
    assert tuned.estimators == {} and tuned.chosen == "as the program says"
    # The same computation under another name is not measured twice.
    assert "Reparameterize()" not in {c.label for c in tuned.candidates}


def test_each_site_gets_its_own():
    def f(theta):
        b = numpyro.sample("b", dist.Bernoulli(logits=theta[0]))
        x = numpyro.sample("x", dist.Normal(theta[1] + b, 1.0))
        return 2.0 * x + 0.1 * jnp.sin(x) + b * theta[1]

    tuned = tune(f)(KEY, jnp.array([0.3, -0.2]))
    assert set(tuned.estimators) == {"b"}
    assert isinstance(tuned.estimators["b"], (ppgen.Enumerate, ppgen.MeasureValued))
    assert "chosen  b: " in str(tuned)


def test_a_program_that_is_an_error_as_it_is():
    def f(loc):
        x = ppgen.draw(dist.Normal(loc, 1.0), name="x")
        return jnp.where(x > 0, 1.0, 0.0)  # a jump, which the default does not see

    tuned = tune(f)(KEY, 0.5)
    assert "reaches an indicator" in row(tuned, "as the program says").refused
    assert type(tuned.estimators["x"]) in (ppgen.ScoreFunction, ppgen.MeasureValued)


@pytest.mark.long
def test_sites_that_are_alike_are_tried_together_and_then_one_by_one():
    def f(p):
        b = [numpyro.sample(f"b[{i}]", dist.Bernoulli(p)) for i in range(2)]
        # Only the last one has variance to be saved.
        return 1e-3 * b[0] + jnp.exp(2.0 * b[1])

    tuned = tune(f)(KEY, P)
    assert tuned.best.variance == 0
    labels = {c.label for c in tuned.candidates}
    assert "DisARM()" in labels  # at both
    assert any(label.startswith("b[0]: ") for label in labels)
    # Their names are globs, which match nothing else.
    g = ppgen.expectation(ppgen.with_estimators(f, tuned.estimators))
    np.testing.assert_allclose(jax.grad(g, 1)(KEY, P), 1e-3 + np.exp(2.0) - 1, rtol=1e-4)


def test_the_number_of_draws_is_chosen_too():
    def f(p):
        # Mixed by a product that none can enumerate.
        b = ppgen.draw(dist.Bernoulli(p).expand([40]), name="b")
        return jnp.sin(jnp.sum(b)) + 5.0

    tuned = tune(f, draws=(1, 8))(KEY, jnp.full(40, P))
    # Without a baseline the constant is most of the variance.
    alone, several = (row(tuned, f"as the program says, {n}") for n in ("1 draw", "8 draws"))
    assert several.product < alone.product
    assert f"{tuned.draws} draw" in tuned.chosen
    refused = [c for c in tuned.candidates if c.refused]
    assert any("Enumerate" in c.label for c in refused)


# --- what must not be found -----------------------------------------------------------------------


def test_planted_bug_is_not_chosen():
    tuned = tune(nearly_linear, also=[Halved()])(KEY, 0.5)
    planted = row(tuned, "Halved()")
    assert "biased" in planted.refused and tuned.chosen == "as the program says"
    assert "refused  Halved(): its mean gradient is not that of" in str(tuned)
    # It is the comparison of means that finds it: without it, it has the smaller variance.
    tuned = tune(nearly_linear, also=[Halved()], allow_biased=True)(KEY, 0.5)
    assert tuned.chosen == "Halved()"


def test_what_misses_rare_events_is_not_chosen():
    def f(p):
        return ppgen.draw(dist.Bernoulli(p), name="b") * 1.0

    # In a thousand runs of the score function there is no event, and so no variance.
    tuned = tune(f)(KEY, 1e-5)
    assert tuned.best.variance == 0
    g = ppgen.expectation(ppgen.with_estimators(f, tuned.estimators))
    np.testing.assert_allclose(jax.grad(g, 1)(KEY, 1e-5), 1.0, rtol=1e-3)


@pytest.mark.parametrize("runs", [16, 64, 256])
def test_comparison_of_means_has_few_false_alarms_and_finds_what_is_large(runs):
    rng = np.random.default_rng(runs)

    def contender(scale):
        made = Contender(lambda key: None, 0.0, 1e-7)
        for x in rng.gamma(0.5, size=(runs, 2)):  # skewed
            made.moments.add(scale * x)
        return made

    apart = [tune_search._apart(contender(1.0), contender(1.0)) for _ in range(400)]
    assert max(apart) < tune_search._APART
    if runs == 256:
        apart = [tune_search._apart(contender(1.0), contender(3.0)) for _ in range(50)]
        assert min(apart) > tune_search._APART


def test_a_candidate_that_fails_is_refused_with_the_reason():
    tuned = tune(flip, also=[Broken()])(KEY, P)
    assert "KeyError: 'nothing works'" in row(tuned, "Broken()").refused
    assert tuned.best.variance == 0
    assert "KeyError: 'nothing works'" in str(tuned)


class Infinite(ppgen.AbstractEstimator):
    """One whose value is finite, and its derivative sometimes is not."""

    differentiable: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def misfit(self, dist):
        return ppgen.Reparameterize().misfit(dist)

    def __call__(self, key, dist):
        x = ppgen.Reparameterize()(key, dist).value
        return ppgen.Points(x + jnp.where(x > 0.5, jnp.sqrt(0.0 * x), 0.0))


def test_a_gradient_that_is_not_finite_is_no_candidate():
    tuned = tune(nearly_linear, also=[Infinite()])(KEY, 0.5)
    assert "not always finite" in row(tuned, "Infinite()").refused
    assert tuned.chosen == "as the program says"


def test_an_objective_that_nothing_mends_raises_its_own_error():
    with pytest.raises(CostError, match="must be a real scalar"):
        tune(lambda p: jnp.ones(2) * flip(p))(KEY, P)
    with pytest.raises(ZeroDivisionError):
        tune(lambda p: flip(p) / (1 // 0))(KEY, P)
    with pytest.raises(PpgenError, match="no argument is a floating-point number"):
        tune(lambda n: flip(P) * n)(KEY, 2)
    with pytest.raises(ValueError, match="seconds must be positive"):
        tune(flip, seconds=0.0)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        tune(flip, draws=())


# --- the budget -----------------------------------------------------------------------------------


@pytest.fixture
def ticking(monkeypatch):
    """A clock that moves by an eighth of a second each time that somebody looks at it."""
    ticks = itertools.count()

    def clock():
        return 0.125 * next(ticks)

    monkeypatch.setattr(measure, "clock", clock)
    return clock


@pytest.mark.parametrize("seconds", [0.1, 2.0, 5.0])
def test_time_is_kept(ticking, seconds):
    tuned = tune(flip, seconds=seconds, clock=ticking)(KEY, P)
    # A compilation and the runs of a turn are ended; each takes a few looks at the clock.
    assert tuned.seconds < seconds + 10.0
    runs = sum(c.samples for c in tuned.candidates)
    assert runs <= 10 * seconds + 60
    assert tuned.left_out > 0 and "more candidates" in str(tuned)
    assert tuned.best.samples > 1


def test_with_time_for_one_candidate_it_is_the_one_with_most_draws(ticking):
    tuned = tune(flip, seconds=0.1, draws=(1, 4, 2), clock=ticking)(KEY, P)
    assert len(tuned.candidates) == 1 and tuned.draws == 4


def test_more_time_is_more_measurements(ticking):
    few, many = (tune(flip, seconds=s, clock=ticking)(KEY, P) for s in (10.0, 300.0))
    assert len(few.candidates) < len(many.candidates)
    assert many.left_out == 0 and many.best.variance == 0
    assert sum(c.samples for c in few.candidates) < sum(c.samples for c in many.candidates)


def test_same_key_same_result(ticking):
    one, two = (tune(flip, seconds=300.0, clock=ticking)(KEY, P) for _ in range(2))
    assert one == two
    other = tune(flip, seconds=300.0, clock=ticking)(jax.random.key(1), P)
    score = "as the program says"
    assert row(one, score).variance != row(other, score).variance


def test_runs_are_timed_with_the_clock_that_is_given():
    tuned = tune(flip, clock=itertools.count(0.0, 2.0).__next__)(KEY, P)
    assert {c.seconds for c in tuned.candidates if not c.refused} == {2.0}


# --- the registry, the report ---------------------------------------------------------------------


def test_every_estimator_is_tried_or_says_that_it_cannot_be():
    tried = {type(e) for e in every_configuration()}
    assert {type(e) for e in ESTIMATORS.values()} - tried == {ppgen.RELAX, ppgen.ARM}
    for cls in (ppgen.RELAX, ppgen.ControlVariate, ppgen.ARM):
        assert cls.configurations == ()


def test_a_new_estimator_is_tried_without_an_entry_anywhere(monkeypatch):
    monkeypatch.setattr(ppgen.estimators, "Halved", Halved, raising=False)
    assert "Halved" in {type(e).__name__ for e in every_configuration()}


def test_report_is_a_table_of_100_columns(of_flip):
    text = str(of_flip)
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[0].split()[-3:] == ["runs", "rounds", "estimators"]
    assert of_flip.chosen in text.splitlines()[2]
    assert f"time    {of_flip.seconds:.1f} s" in text


def test_plot_has_all_that_was_measured(of_flip):
    import matplotlib.pyplot as plt

    ax = of_flip.plot()
    assert len(ax.get_legend().get_texts()) == sum(not c.refused for c in of_flip.candidates)
    plt.close(ax.figure)


def test_progress_is_of_the_time(capsys):
    ppgen.tune(flip, seconds=3.0)(KEY, P)
    shown = capsys.readouterr().err
    assert "compiling Enumerate()" in shown and "/3 s" in shown
