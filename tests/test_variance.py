"""The measured variance of candidates, against closed forms."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen._reports.measure import Contender, Moments
from ppgen._reports.variance_report import Candidate, VarianceReport
from ppgen.errors import PpgenError

KEY = jax.random.key(0)
P = 0.3


def toy(p):
    return (ppgen.draw(dist.Bernoulli(p), name="b") - 0.499) ** 2


def test_variance_is_that_of_the_closed_form():
    report = ppgen.variance(
        toy, [ppgen.ScoreFunction(), ppgen.Enumerate()], samples=20_000, repetitions=2
    )(KEY, P)
    score, exact = report.candidates
    # cost times score, at b = 1 and b = 0
    values = np.array([0.501**2 / P, -(0.499**2) / (1 - P)])
    weights = np.array([P, 1 - P])
    expected = weights @ values**2 - (weights @ values) ** 2
    assert abs(score.variance - expected) < 5 * score.error
    assert 0 < score.error < 0.05 * score.variance
    assert exact.variance == 0
    assert report.best is exact
    best = ppgen.expectation(ppgen.with_estimators(toy, report.best.choice))
    assert float(jax.grad(best, 1)(KEY, P)) == pytest.approx(0.501**2 - 0.499**2, rel=1e-3)
    assert exact.flops < score.flops and exact.seconds > 0


def test_entries_of_all_real_arguments_add_up():
    def f(theta, static, n):
        x = ppgen.draw(dist.Normal(theta["loc"], 1.0))
        return jnp.sum(x * theta["scale"]) * n

    args = ({"loc": jnp.zeros(3), "scale": jnp.ones(3)}, None, 2)
    report = ppgen.variance(f, [None], samples=4000, repetitions=1)(KEY, *args)
    (candidate,) = report.candidates
    assert candidate.label == "as the program says"
    # The slope by loc is fixed; the one by scale is 2 x, of variance 4 each.
    assert abs(candidate.variance - 12.0) < 5 * candidate.error


def test_candidates_of_every_form_are_named_as_one_writes_them():
    candidates = [
        "auto",
        ppgen.MeasureValued(prune=True),
        {"b": ppgen.ScoreFunction(baseline=0.3)},
        ppgen.Reparameterize(),
    ]
    report = ppgen.variance(toy, candidates, samples=10, repetitions=1)(KEY, P)
    assert [c.label for c in report.candidates] == [
        "auto",
        "MeasureValued(prune=True)",
        "b: ScoreFunction(baseline=0.3)",
        "Reparameterize()",
    ]
    refused = report.candidates[-1]
    assert "no pathwise derivative" in refused.refused and np.isnan(refused.product)
    text = " ".join(str(report).split())
    assert "refused" in text and "no pathwise derivative" in text
    assert text.index("auto") < text.index("ScoreFunction(baseline=0.3)")


def test_own_labels_and_draws():
    candidates = {"none": ppgen.ScoreFunction(baseline=0.0), "others": ppgen.LeaveOneOut}
    candidates["others"] = ppgen.ScoreFunction()
    report = ppgen.variance(toy, candidates, draws=4, samples=4000, repetitions=1)(KEY, P)
    none, others = report.candidates
    assert (none.label, others.label) == ("none", "others")
    assert others.variance < 0.5 * none.variance


def test_all_refused():
    report = ppgen.variance(toy, [ppgen.Reparameterize()], samples=10)(KEY, P)
    with pytest.raises(PpgenError, match="no pathwise derivative"):
        report.best  # noqa: B018


def test_plot_has_a_point_for_each_accepted_candidate():
    import matplotlib.pyplot as plt

    candidates = ["auto", ppgen.ScoreFunction(), ppgen.Reparameterize()]
    report = ppgen.variance(toy, candidates, samples=100, repetitions=1)(KEY, P)
    ax = report.plot()
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == ["auto (exact)", "ScoreFunction()"]
    plt.close(ax.figure)


@pytest.mark.parametrize("far", [False, True])
def test_legend_lies_beside_the_points_and_lines_of_equal_product_say_so(far):
    import matplotlib.pyplot as plt

    def f(x):
        return jnp.sin(ppgen.draw(dist.Normal(x, 1.0), name="x"))

    candidates = [ppgen.Reparameterize(), ppgen.ScoreFunction()]
    report = ppgen.variance(f, candidates, samples=200, repetitions=4)(KEY, P)
    if far:
        slow = dataclasses.replace(report.candidates[1], seconds=4.0)
        report = VarianceReport((report.candidates[0], slow))
    ax = report.plot()
    ax.figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert legend.x0 >= ax.get_window_extent().x1
    assert legend.x1 <= ax.figure.bbox.x1
    texts = [t.get_text() for t in ax.texts]
    assert "best product" in texts
    ticks = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
    inside = sorted((t for t in ticks if t.width), key=lambda t: t.x0)
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(inside))
    plt.close(ax.figure)


# --- errors ---------------------------------------------------------------------------------------


def test_running_moments_are_those_of_all_at_once():
    data = np.random.default_rng(0).normal(size=(50, 3)) * [1.0, 2.0, 0.0] + [0.0, 1e3, 5.0]
    moments = Moments()
    for row in data:
        moments.add(row)
    np.testing.assert_allclose(moments.mean, data.mean(0))
    np.testing.assert_allclose(moments.variance, data.var(0, ddof=1).sum())


def test_errors_are_as_large_as_the_scatter_of_what_they_are_errors_of():
    rng = np.random.default_rng(1)
    variances, errors, medians, of_medians = [], [], [], []
    for _ in range(300):
        contender = Contender(lambda key: None, 0.0, 1e-7)
        for x in rng.gamma(2.0, size=100):
            contender.moments.add(np.array([x]))
        contender.times = list(rng.gamma(2.0, size=100))
        variances.append(contender.variance[0])
        errors.append(contender.variance[1])
        medians.append(contender.seconds[0])
        of_medians.append(contender.seconds[1])
    assert 0.7 < np.sqrt(np.mean(np.square(errors))) / np.std(variances) < 1.3
    assert 0.8 < np.sqrt(np.mean(np.square(of_medians))) / np.std(medians) < 1.3


def test_gradients_that_differ_by_rounding_have_no_variance():
    keys = [jnp.float32(i) for i in (0, 1, 0, 1)]
    contender = Contender(lambda key: jnp.float32(3.0) + 3e-7 * key, 0.0, 1.2e-7)
    contender.take(keys)
    assert contender.moments.variance > 0 and contender.variance == (0.0, 0.0)
    contender = Contender(lambda key: jnp.float32(3.0) + 1e-3 * key, 0.0, 1.2e-7)
    contender.take(keys)
    assert contender.variance[0] > 0


def row(label, variance, seconds, noise=0.05):
    return Candidate(label, variance, noise * variance, seconds, noise * seconds, samples=100)


def test_noise_does_not_rank():
    # The second is smaller by less than noise, the third is not, the fourth is much larger.
    report = VarianceReport(
        (row("a", 1.0, 1.0), row("b", 0.95, 1.0), row("c", 1.5, 1.0), row("d", 0.1, 30.0))
    )
    assert [c.label for c in report.ties] == ["a", "b"]
    assert report.best.label == "a"
    lines = str(report).splitlines()
    assert [line[0] for line in lines[2:6]] == ["a", "b", "c", "d"]
    assert "1 x tie" in lines[2] and "0.95 x tie" in lines[3] and "tie" not in lines[4]
    assert "± 5e+01 ms" in lines[2]


def test_without_noise_the_smaller_product_is_first():
    report = VarianceReport((row("a", 1.0, 1.0, 0.01), row("b", 0.9, 1.0, 0.01)))
    assert report.best.label == "b" and len(report.ties) == 1


def test_among_those_without_variance_time_decides():
    report = VarianceReport(
        (row("noisy", 1e-9, 1e-9), row("slow", 0.0, 2.0), row("fast", 0.0, 1.0))
    )
    assert report.best.label == "fast" and len(report.ties) == 1
    report = VarianceReport((row("a", 0.0, 1.01), row("b", 0.0, 1.0)))
    assert report.best.label == "a" and len(report.ties) == 2


def test_a_gradient_that_is_not_finite_is_never_the_best():
    report = VarianceReport((row("nan", np.nan, 1.0), row("finite", 5.0, 1.0)))
    assert report.best.label == "finite"


# --- progress -------------------------------------------------------------------------------------


def test_progress_says_what_is_compiled_and_counts_the_gradients(capsys):
    ppgen.variance(toy, ["auto", ppgen.ScoreFunction()], samples=30, repetitions=3)(KEY, P)
    shown = capsys.readouterr().err
    assert "compiling 1 of 2, auto" in shown and "compiling 2 of 2, ScoreFunction()" in shown
    assert "60/60" in shown
    ppgen.variance(toy, ["auto"], samples=3, repetitions=1, progress=False)(KEY, P)
    assert capsys.readouterr().err == ""


def test_nothing_to_differentiate_by():
    with pytest.raises(PpgenError, match="no argument is a floating-point number"):
        ppgen.variance(lambda n: toy(P) * n, ["auto"], samples=3)(KEY, 2)
