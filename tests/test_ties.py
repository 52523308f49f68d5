"""Davidson's model of votes with ties: its equations, its maximum, its errors."""

from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.optimize import linprog

import ppgen
from ppgen.inference import VotesError, fit_rewards
from ppgen.inference.preferences import _ties
from ppgen.inference.preferences._determined import undetermined

TRUTH = np.array([0.0, 0.5, 1.0, -1.0, 0.3])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def davidson(rewards, nu, one, other):
    """Probabilities that `one` wins, that `other` wins, and of a tie: as in the paper."""
    e = np.exp if isinstance(rewards, np.ndarray) else jnp.exp
    p, q = e(rewards[one]), e(rewards[other])
    tie = nu * (p * q) ** 0.5
    return p / (p + q + tie), q / (p + q + tie), tie / (p + q + tie)


def simulated(rewards, nu, votes, rng):
    """Votes that were decided, the winner first, and ties."""
    pairs = np.argsort(rng.random((votes, len(rewards))), axis=1)[:, :2]
    p, q, _ = davidson(rewards, nu, *pairs.T)
    u = rng.random(votes)
    won, lost = u < p, (u >= p) & (u < p + q)
    return np.concatenate([pairs[won], pairs[lost][:, ::-1]]), pairs[~won & ~lost]


def wins_and_ties(votes, ties, items):
    return (
        np.bincount(votes[:, 0], minlength=items) + np.bincount(ties.ravel(), minlength=items) / 2
    )


def assert_equations(fitted, votes, ties):
    """Wins and half of the ties of each item, and the number of ties, are as expected."""
    both = np.concatenate([votes, ties])
    p, q, tie = davidson(fitted.rewards, fitted.nu, *both.T)
    expected = np.zeros(len(fitted.rewards))
    np.add.at(expected, both[:, 0], p + tie / 2)
    np.add.at(expected, both[:, 1], q + tie / 2)
    seen = wins_and_ties(votes, ties, len(expected))
    np.testing.assert_allclose(expected, seen, rtol=0, atol=1e-9)
    np.testing.assert_allclose(tie.sum(), len(ties), rtol=0, atol=1e-9)
    np.testing.assert_allclose(fitted.rewards.sum(), 0.0, atol=1e-12)


@pytest.mark.parametrize(("seed", "nu", "number"), [(0, 0.7, 400), (1, 0.05, 6000), (2, 6.0, 300)])
def test_the_likelihood_equations(seed, nu, number):
    votes, ties = simulated(TRUTH, nu, number, np.random.default_rng(seed))
    assert_equations(fit_rewards(votes, ties=ties), votes, ties)


def doubled(votes, ties):
    return fit_rewards(votes, ties=np.concatenate([ties, ties]))


def one_each(votes, ties):
    return fit_rewards(np.concatenate([votes, ties, ties[:, ::-1]]))._replace(nu=0.7)


def half_each(votes, ties):
    return fit_rewards(np.concatenate([votes, votes, ties, ties[:, ::-1]]))._replace(nu=0.7)


@pytest.mark.parametrize("wrong", [doubled, one_each, half_each])
def test_the_equations_find_other_ways_to_count_a_tie(wrong):
    votes, ties = simulated(TRUTH, 0.7, 400, np.random.default_rng(0))
    with pytest.raises(AssertionError):
        assert_equations(wrong(votes, ties), votes, ties)


def test_the_equations_find_a_wrong_model(monkeypatch):
    """A tie whose probability does not depend on who plays as it should."""
    votes, ties = simulated(TRUTH, 0.7, 400, np.random.default_rng(0))
    monkeypatch.setattr(_ties, "_DESIGN", np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(AssertionError):
        assert_equations(fit_rewards(votes, ties=ties), votes, ties)


def test_two_items_have_a_closed_form():
    won, lost, equal = 20, 5, 12
    fitted = fit_rewards([[0, 1]] * won + [[1, 0]] * lost, ties=[[1, 0]] * equal)
    estimate, low, high = fitted.difference(0, 1)
    assert math.isclose(estimate, math.log(won / lost), rel_tol=1e-12)
    assert math.isclose(fitted.nu, equal / math.sqrt(won * lost), rel_tol=1e-12)
    # The delta method for counts of a multinomial.
    variance = 1 / won + 1 / lost
    assert math.isclose(high - low, 2 * 1.959963984540054 * math.sqrt(variance), rel_tol=1e-12)
    assert math.isclose(fitted.log_nu_error, math.sqrt(1 / equal + variance / 4), rel_tol=1e-12)
    # Of a saturated model the sandwich is the same.
    np.testing.assert_allclose(fitted.robust, fitted.covariance, rtol=1e-12)
    total = won + lost + equal
    entropy = sum(n * math.log(n / total) for n in (won, lost, equal))
    assert math.isclose(fitted.log_likelihood, entropy, rel_tol=1e-12)
    win, tie = fitted.probabilities()
    np.testing.assert_allclose([win[0, 1], win[1, 0]], [won / total, lost / total], rtol=1e-12)
    np.testing.assert_allclose(tie[0, 1], equal / total, rtol=1e-12)
    np.testing.assert_allclose(win + win.T + tie, 1.0, rtol=1e-12)


def test_against_automatic_derivatives():
    """One term for each vote, by the formula; the fit has counts of pairs."""
    votes, ties = simulated(TRUTH, 0.7, 300, np.random.default_rng(3))
    fitted = fit_rewards(votes, ties=ties)

    @jax.jit
    def each(point):
        rewards, nu = point[:-1], jnp.exp(point[-1])
        won = davidson(rewards, nu, *votes.T)[0]
        return jnp.log(jnp.concatenate([won, davidson(rewards, nu, *ties.T)[2]]))

    at = jnp.append(jnp.array(fitted.rewards), math.log(fitted.nu))
    scores = jax.jit(jax.jacfwd(each))(at)
    information = -jax.jit(jax.hessian(lambda point: jnp.sum(each(point))))(at)
    inverse = np.linalg.pinv(information, rcond=1e-10)
    np.testing.assert_allclose(scores.sum(0), 0.0, atol=1e-9)
    np.testing.assert_allclose(jnp.sum(each(at)), fitted.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(fitted.covariance, inverse[:-1, :-1], atol=1e-11)
    np.testing.assert_allclose(fitted.log_nu_error**2, inverse[-1, -1], rtol=1e-9)
    sandwich = (inverse @ (scores.T @ scores) @ inverse)[:-1, :-1]
    np.testing.assert_allclose(fitted.robust, sandwich, atol=1e-11)
    assert np.abs(fitted.robust - fitted.covariance).max() > 1e-4


@pytest.mark.parametrize("none", [[], np.zeros((0, 2), int), jnp.zeros((0, 2))])
def test_no_ties_change_no_bit(none):
    votes, _ = simulated(TRUTH, 0.7, 300, np.random.default_rng(4))
    for features in (None, np.random.default_rng(0).normal(size=(5, 2))):
        with_none, without = (
            fit_rewards(votes, features=features, ties=ties) for ties in (none, None)
        )
        assert with_none.nu == 0.0 and math.isnan(with_none.log_nu_error)
        for one, other in zip(with_none, without, strict=True):
            np.testing.assert_array_equal(one, other)
    assert np.all(without.probabilities()[1] == 0)


def test_the_order_of_votes_changes_no_bit():
    rng = np.random.default_rng(5)
    votes, ties = simulated(TRUTH, 0.7, 300, rng)
    shuffled, turned = rng.permutation(votes), rng.permuted(rng.permutation(ties), axis=1)
    assert not np.array_equal(turned, ties)
    for one, other in zip(
        fit_rewards(votes, ties=ties), fit_rewards(shuffled, ties=turned), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_all_votes_twice_halve_the_covariance():
    votes, ties = simulated(TRUTH, 0.7, 300, np.random.default_rng(6))
    once = fit_rewards(votes, ties=ties)
    twice = fit_rewards(np.repeat(votes, 2, axis=0), ties=np.repeat(ties, 2, axis=0))
    np.testing.assert_allclose(twice.rewards, once.rewards, atol=1e-10)
    np.testing.assert_allclose(twice.nu, once.nu, rtol=1e-10)
    np.testing.assert_allclose(twice.covariance, once.covariance / 2, rtol=1e-9)
    np.testing.assert_allclose(twice.robust, once.robust / 2, rtol=1e-9)
    # Not so of the ties alone.
    more = fit_rewards(votes, ties=np.repeat(ties, 2, axis=0))
    assert np.abs(more.rewards - once.rewards).max() > 1e-3


def test_intervals_cover():
    """In 300 repetitions, 95 ± 4 %, at 3 standard errors; ranks all at once."""
    rng, hits = np.random.default_rng(7), []
    ranks = 1 + np.argsort(np.argsort(-TRUTH))
    for _ in range(300):
        votes, ties = simulated(TRUTH, 0.7, 400, rng)
        fitted = fit_rewards(votes, ties=ties)
        inside = []
        for robust in (False, True):
            _, low, high = fitted.difference(2, 3, robust=robust)
            inside.append(low < 2.0 < high)
        best, worst = fitted.ranks().T
        off = abs(math.log(fitted.nu / 0.7)) / fitted.log_nu_error
        hits.append([*inside, off < 1.96, np.all((best <= ranks) & (ranks <= worst))])
    *rates, of_ranks = np.mean(hits, axis=0)
    assert np.all(np.abs(np.array(rates) - 0.95) < 0.04), rates
    assert of_ranks > 0.91


def test_ranks():
    best_first = [[0, 1], [0, 1], [1, 0], [0, 2], [0, 2], [2, 0], [1, 2], [2, 1]]
    few, many = (fit_rewards(best_first * n) for n in (1, 1000))
    assert few.ranks().tolist() == [[1, 3]] * 3
    assert many.ranks().tolist() == [[1, 1], [2, 3], [2, 3]]
    assert many.ranks(robust=True).tolist() == [[1, 1], [2, 3], [2, 3]]


def test_ranks_hold_for_all_items_at_once():
    """Of equal items every rank may be any; 95 % limits for each pair would say otherwise often."""
    rng, whole = np.random.default_rng(11), []
    for _ in range(200):
        votes, ties = simulated(np.zeros(5), 0.7, 300, rng)
        fitted = fit_rewards(votes, ties=ties)
        # Ten pairs: what is 95 % for all of them is 60 % where one is meant.
        whole.append([np.all(fitted.ranks(level=x) == [1, 5]) for x in (0.95, 0.6)])
    strict, loose = np.mean(whole, axis=0)
    assert strict > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 200) and 0.6 < loose < 0.85


def platform(rewards, nu, pairs, outcome=None):
    """Votes as a program: of each pair the first, the second, or neither."""
    half = (rewards[pairs[:, 0]] - rewards[pairs[:, 1]]) / 2
    logits = jnp.stack([half, -half, jnp.full_like(half, jnp.log(nu))], axis=-1)
    return numpyro.sample("vote", dist.Categorical(logits=logits).to_event(1), obs=outcome)


def test_votes_of_a_program():
    """The likelihood is the density of the platform; its draws give its rewards back."""
    pairs = jnp.array(list(itertools.permutations(range(5), 2)) * 100)
    outcome = np.asarray(ppgen.seed(platform)(jax.random.key(0), jnp.array(TRUTH), 0.7, pairs))
    won = np.where((outcome == 0)[:, None], pairs, pairs[:, ::-1])[outcome < 2]
    ties = np.asarray(pairs)[outcome == 2]
    fitted = fit_rewards(won, ties=ties)
    given = (jnp.array(fitted.rewards), fitted.nu, pairs)
    value = ppgen.log_density(platform)({"vote": outcome}, *given)
    assert math.isclose(value, fitted.log_likelihood, rel_tol=1e-12)
    for one, other in itertools.combinations(range(5), 2):
        estimate, low, high = fitted.difference(one, other, level=1 - 1e-4)
        assert low < TRUTH[one] - TRUTH[other] < high


def test_another_package_agrees_without_ties():
    choix = pytest.importorskip("choix")
    votes, _ = simulated(TRUTH, 0.0, 500, np.random.default_rng(10))
    other = choix.opt_pairwise(5, votes.tolist(), alpha=0.0, tol=1e-12)
    np.testing.assert_allclose(fit_rewards(votes).rewards, other - other.mean(), atol=1e-6)


def test_the_benchmark_runs(tmp_path):
    benchmark = Path(__file__).parent.parent / "benchmarks" / "arena.py"
    page = tmp_path / "arena.md"
    runpy.run_path(str(benchmark))["main"](["--fast", "--out", str(page)])
    text = page.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| with")]
    assert len(rows) == 6 and all("yes" in line for line in rows if "invariant" in line)
    assert "Kendall's τ" in text and "random" in text


def test_features():
    rng = np.random.default_rng(8)
    features = rng.normal(size=(8, 2))
    truth = features @ [1.0, -0.5]
    votes, ties = simulated(truth[:6], 0.5, 3000, rng)
    fitted = fit_rewards(votes, ties=ties, features=np.c_[features, np.ones(8)])
    np.testing.assert_allclose(fitted.rewards, truth - truth.mean(), atol=0.25)
    assert abs(math.log(fitted.nu / 0.5)) < 4 * fitted.log_nu_error
    # As many features as items are no restriction.
    free = fit_rewards(votes, ties=ties)
    table = fit_rewards(votes, ties=ties, features=rng.normal(size=(6, 7)))
    np.testing.assert_allclose(table.rewards, free.rewards, atol=1e-9)
    np.testing.assert_allclose(table.covariance, free.covariance, atol=1e-9)


CIRCLE = [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("votes", "ties", "match"),
    [
        ([], [[0, 1]], "all votes are ties"),
        ([[0, 1]] * 3, [[0, 1]], "no circle of votes has more wins than ties"),
        ([[0, 1], [1, 2]], [[0, 1], [1, 2]], "no circle"),
        ([[0, 1]] * 3 + [[1, 2]] * 3, [[0, 1]], "items 2 never won against"),
        (CIRCLE, [[2, 3]], "items 0, 1 were never compared"),
        (CIRCLE, [[0, 2], [3, 3]], "tie 1 has an item twice"),
        (CIRCLE, [[0, -1]], "tie 0 chooses from fewer"),
        (CIRCLE, [[0, 1, 2]], "tie 0 is between more than two items"),
        (CIRCLE, [[0], [1]], "expected ties of shape"),
        (CIRCLE, np.array([[0.5, 1.0]]), "not whole numbers"),
        ([[0, 1, 2], [2, 1, 0]], [[0, 1]], "vote 0 is between more than two items"),
    ],
)
def test_votes_that_determine_nothing(votes, ties, match):
    with pytest.raises(VotesError, match=match):
        fit_rewards(votes, ties=ties)


def test_features_that_votes_do_not_determine():
    eye = np.eye(2)
    for number in (1, 1000):
        votes, ties = np.array([[0, 1]] * 3 * number), np.array([[0, 1]] * number)
        with pytest.raises(VotesError, match="decides all votes"):
            fit_rewards(votes, ties=ties, features=eye)
    for features in (np.ones((2, 1)), np.zeros((2, 0))):
        with pytest.raises(VotesError, match="never differs"):
            fit_rewards(np.array(CIRCLE), ties=ties, features=features)
    with pytest.raises(VotesError, match="all votes are ties"):
        fit_rewards(np.zeros((0, 2), int), ties=ties, features=eye)
    with pytest.raises(VotesError, match="item 2 has no features"):
        fit_rewards(np.array(CIRCLE), ties=np.array([[0, 2]]), features=eye)


def has_a_maximum(votes, ties, items):
    """No direction but that of a common shift makes no vote less likely: by linear programs."""
    at = np.eye(items + 1)
    rows = [at[i] - at[j] for i, j in votes]
    rows += [(at[i] - at[j]) / 2 - at[-1] for i, j in votes]
    rows += [at[-1] - sign * (at[i] - at[j]) / 2 for i, j in ties for sign in (1, -1)]
    bounds = [(0, 0)] + [(-1, 1)] * items  # the first item does not move
    for target in np.concatenate([at, -at]):
        found = linprog(-target, A_ub=-np.array(rows), b_ub=np.zeros(len(rows)), bounds=bounds)
        if -found.fun > 1e-6:
            return False
    return True


def test_a_maximum_is_known_by_the_graph():
    rng, seen = np.random.default_rng(9), []
    for _ in range(60):
        items = int(rng.integers(2, 5))
        rows = [rng.permutation(items)[:2] for _ in range(int(rng.integers(3, 10)))]
        cut = int(rng.integers(1, len(rows) - 1))
        votes, ties = np.array(rows[:cut]), np.array(rows[cut:])
        there = has_a_maximum(votes, ties, items)
        assert (undetermined(votes, ties, items) is None) == there, (votes, ties)
        connected = undetermined(np.concatenate([votes, ties, ties[:, ::-1]]), ties[:0], items)
        seen.append((there, connected is None))
        if there and len(np.unique(rows)) == items:
            assert_equations(fit_rewards(votes, ties=ties), votes, ties)
    # All three cases, and that of the ties at least five times.
    assert min(seen.count(case) for case in [(True, True), (False, True), (False, False)]) >= 5
