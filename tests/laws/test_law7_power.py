"""Law 7: bugs that implementations of gradient estimators have had are found."""

from __future__ import annotations

import pytest
from law_helpers import truth

from ppgen.testing import CASES, ESTIMATORS, PLANTED, assert_unbiased, planted

# Where each bug shows, by case and estimators, and the highest order that is needed.
SYMPTOMS = {
    "dropped score term": [
        ("flip", {"*": "ScoreFunction"}),
        ("scan", {"*": "ScoreFunction"}),
        ("mixed elbo", {"b": "ScoreFunction"}),
    ],
    "score term scaled twice": [
        ("scaled elbo", {"*": "ScoreFunction"}),
        ("lanes", {"b": "ScoreFunction"}),
    ],
    "dropped phantom": [
        ("poisson", {"*": "MeasureValued"}),
        ("mixing", {"*": "MeasureValued"}),
        ("switch", {"k": "MeasureValued"}),
    ],
    "doubled plate scale": [("subsampled elbo", {"*": "ScoreFunction"})],
    "shared key across lanes": [
        ("lanes", {"x": "Reparameterize"}),
        ("lanes", {"*": "ScoreFunction"}),
    ],
    "one frozen sample in scan": [
        ("random walk", {"*": "Reparameterize"}),
        ("scan", {"*": "ScoreFunction"}),
    ],
}


def test_every_bug_is_looked_for():
    assert set(SYMPTOMS) == set(PLANTED)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("bug", SYMPTOMS)
def test_planted_bug_is_found(bug):
    for name, estimators in SYMPTOMS[bug]:
        case = CASES[name]
        chosen = case.with_estimators({site: ESTIMATORS[e] for site, e in estimators.items()})
        # The oracle runs before the bug is planted: it must not share it.
        expected = truth(case)
        with planted(bug), pytest.raises(AssertionError, match="biased"):
            assert_unbiased(
                chosen.function, *chosen.args, order=1, exact=expected, samples=case.samples
            )
