"""Law 1, for every family of distributions with every estimator that fits it."""

from __future__ import annotations

import jax
import pytest
from law_pairs import COLUMNS, TABLE, fitting, pair, table, truth

from ppgen import Points
from ppgen.testing import DISTRIBUTIONS, ESTIMATORS, UnderpoweredError, assert_unbiased


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    # Small programs, many of them: compiling them takes longer than running them.
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


def check(pair, exact, samples=50_000):
    # Estimates are noisy against what they estimate where large terms cancel; then a missing one
    # shows all the more. So it is enough to see a bias of that size.
    # Coupled draws are plain ones unless there are several.
    kwargs = {"draws": 2} if pair.estimator.coupled else {}

    def run(samples):
        assert_unbiased(
            pair, pair.theta, order=pair.order, exact=exact, samples=samples, detect=1.0, **kwargs
        )

    try:
        run(samples)
    except UnderpoweredError:
        run(8 * samples)


@pytest.mark.sweep(of=6)
@pytest.mark.parametrize("family", DISTRIBUTIONS)
def test_pair(family):
    exact, failures = truth(family), []
    for name, fit in fitting(family).items():
        try:
            check(fit, exact(fit))
        except AssertionError as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


# Where a mistake in an estimator has to show.
SYMPTOMS = {
    "Reparameterize": "Gamma",
    "Antithetic": "Weibull",
    "QuasiMonteCarlo": "Normal",
    "ScoreFunction": "Poisson",
    "Enumerate": "BinomialProbs",
    "MeasureValued": "CategoricalLogits",
    "DisARM": "BernoulliLogits",
    "ARM": "BernoulliProbs",
    "REBAR": "OneHotLogits",
    "RELAX": "BernoulliProbs",
    "UnorderedSet": "OrderedLogistic",
}


def broken(right):
    """The estimator, with a derivative missing."""

    def wrong(self, key, dist):
        points = right(self, key, dist)
        value, weight, score = points.value, points.weight, points.score
        if weight is None or self.differentiable:
            value = jax.lax.stop_gradient(value)
        elif score is None:
            weight = weight.at[-1].set(jax.lax.stop_gradient(weight[-1]))
        score = None if score is None else jax.lax.stop_gradient(score)
        return Points(value, weight, score, points.baseline, points.control)

    return wrong


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_dropped_derivative_is_found(name, monkeypatch):
    family = SYMPTOMS[name]
    exact = truth(family)
    chosen = pair(family, name)
    kind = type(ESTIMATORS[name])
    monkeypatch.setattr(kind, "__call__", broken(kind.__call__))
    with pytest.raises(AssertionError, match="biased"):
        check(chosen, exact(chosen))


def test_the_table_in_the_docs_is_what_the_code_does():
    assert TABLE.read_text(encoding="utf-8") == table(), (
        "python tests/laws/law_pairs.py writes it anew"
    )
