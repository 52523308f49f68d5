"""The measured variance of candidates, against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
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
