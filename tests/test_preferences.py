"""Rewards from votes, losses on what was preferred, and training on what is kept."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen.errors import ChoiceMismatchError
from ppgen.inference import (
    VotesError,
    curated_law,
    ddo,
    ddo_jensen,
    dpo,
    elbo,
    fit,
    fit_rewards,
    kl_regularized_reward,
    retrain,
    vote_log_likelihood,
)
from ppgen.testing import exact


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def float32(_float64):
    """What most users have."""
    with jax.enable_x64(False):
        yield


P = np.array([0.1, 0.2, 0.3, 0.4])
R = np.array([0.3, -0.5, 2.0, 1.0])
REAL = np.array([0.4, 0.1, 0.3, 0.2])


def categorical(logits, x=None):
    return numpyro.sample("x", dist.Categorical(logits=logits), obs=x)


def minimum(f, at):
    """Newton's method on logits, whose sum is free."""
    slope, curvature = jax.jit(jax.grad(f)), jax.jit(jax.hessian(f))
    for _ in range(30):
        at = at - jnp.linalg.lstsq(curvature(at), slope(at))[0]
    return at


def total_variation(p, q):
    return 0.5 * np.abs(np.asarray(p) - np.asarray(q)).sum()


def divergence(p, q):
    return float(np.sum(p * np.log(p / q)))


# --- the law of what is curated -------------------------------------------------------------------


def by_hand(p, r, choices):
    out, weights = np.zeros(len(p)), np.exp(r - r.max())
    for runs in itertools.product(range(len(p)), repeat=choices):
        for kept in runs:
            out[kept] += np.prod(p[list(runs)]) * weights[kept] / weights[list(runs)].sum()
    return out


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("choices", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_curated_law(choices, scale):
    got = curated_law(P, scale * R, choices=choices)
    np.testing.assert_allclose(got, by_hand(P, scale * R, choices), rtol=1e-10, atol=1e-15)


def test_curated_law_is_that_of_the_program():
    program = ppgen.curate(lambda: categorical(jnp.log(P)), lambda x: jnp.array(R)[x], choices=3)
    density = exact(lambda x: jnp.exp(ppgen.log_density(program)({"x": x})))
    np.testing.assert_allclose(
        jax.vmap(density)(jnp.arange(4)), curated_law(P, R, choices=3), rtol=1e-10
    )


def test_curated_law_of_very_many():
    """The closed form p exp(t r) / Z after t rounds, to which a finite K comes like 1/K."""
    for choices, within in ((math.inf, 1e-12), (1e9, 1e-6)):
        p = P
        for t in range(1, 11):
            p = curated_law(p, R, choices=choices)
            right = P * np.exp(t * (R - R.max()))
            assert total_variation(p, right / right.sum()) < within
    # Far from it at a small K, or the test would say nothing.
    assert total_variation(curated_law(P, R, choices=4), curated_law(P, R, choices=1e9)) > 0.05


def retraining(law, choices, mix, rounds=10):
    """Every bound of Ferbach et al. in every round."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        reference = rng.dirichlet(np.ones(6))
        rewards = rng.normal(size=6)
        value, p = np.exp(rewards), reference
        for _ in range(rounds):
            kept = law(p, rewards, choices=choices)
            new = kept if mix is None else (reference + mix * kept) / (1 + mix)
            mean = p @ value
            variance = p @ (value - mean) ** 2
            rise = (choices - 1) / choices * variance / value.max()
            assert kept @ value >= mean + rise - 1e-12
            if mix is not None:
                assert new @ value >= reference @ value - 1e-12
                if mix * (choices - 1) < 1:
                    bound = -math.log(1 - mix * (choices - 1))
                    assert divergence(new, reference) <= bound
                    # From which it follows: no probability grows by more.
                    assert np.log(new / reference).max() <= bound + 1e-12
            # Monotone in the reward, and only changed by it.
            assert np.all(np.diff((kept / p)[np.argsort(rewards)]) >= -1e-12)
            p = new
    return p


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(("choices", "mix"), [(2, None), (4, None), (2, 0.5), (4, 0.2), (4, 2.0)])
def test_published_bounds(choices, mix):
    retraining(curated_law, choices, mix)


def test_bounds_have_power():
    def upside_down(p, r, *, choices):
        return curated_law(p, -r, choices=choices)

    def fewer(p, r, *, choices):
        return curated_law(p, r, choices=choices - 1)

    def best_of(p, r, *, choices):
        kept = p * (r == r.max())
        return kept / kept.sum()

    def no_memory(p, r, *, choices):
        return 0.5 * p + 0.5 * curated_law(p, r, choices=choices)

    for bug, choices, mix in (
        (upside_down, 2, None), (fewer, 2, None), (no_memory, 2, None), (best_of, 4, 0.2),
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            retraining(bug, choices, mix)
            pytest.fail(bug.__name__)


def test_curated_law_errors():
    for p, r, choices, match in (
        (P, R, 0, "at least 1"),
        (P, [0, 0, 0, np.inf], 2, "finite"),
        ([-0.1, 1.1], [0.0, 1.0], 2, "nonnegative"),
    ):
        with pytest.raises(ValueError, match=match):
            curated_law(np.array(p), np.array(r), choices=choices)


# --- retraining -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [None, 0.5])
def test_retraining_follows_the_recursion(mix):
    n, key = 10_000, jax.random.key(1)
    real = None if mix is None else jax.random.categorical(key, jnp.log(P), shape=(n // 3,))
    seen = []
    result = retrain(
        categorical,
        lambda x: jnp.array(R)[x],
        jnp.log(jnp.array(P)),
        optax.adam(optax.cosine_decay_schedule(0.05, 100)),
        key=jax.random.key(0),
        rounds=2,
        choices=3,
        size=n,
        steps=100,
        reference=real,
        mix=mix,
        callback=seen.append,
    )
    p = P
    for now in seen:
        kept = curated_law(p, R, choices=3)
        # Of a sample of n, the distance is about sqrt(4 / (2π n)) = .008 a round.
        share = np.bincount(np.asarray(now.curated), minlength=4) / n
        assert total_variation(share, kept) < 0.03
        np.testing.assert_allclose(now.rewards, R[np.asarray(now.curated)], rtol=1e-6)
        p = kept if mix is None else (P + mix * kept) / (1 + mix)
        assert total_variation(jax.nn.softmax(now.params), p) < 0.03
    # Without the curation, or with a K that is one off, it would have been elsewhere.
    assert total_variation(P, p) > 0.06
    assert [now.number for now in seen] == [1, 2]
    np.testing.assert_allclose(result.rewards, [now.rewards.mean() for now in seen], rtol=1e-5)
    if mix is None:
        assert np.all(np.diff(result.rewards) > 0)


def test_retraining_with_an_objective_of_its_own(float32):
    """A latent variable model and a bound; a black box for a reward; stopped by the callback."""

    def model(m, x=None):
        z = numpyro.sample("z", dist.Normal(m, 1.0))
        return numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(m, x):
        numpyro.sample("z", dist.Normal((m + x) / 2, 0.5**0.5))

    def rater(x):
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(np.floor, shape, x, vmap_method="expand_dims")

    bound = elbo(model, guide)
    arguments = {
        "key": jax.random.key(0), "rounds": 9, "choices": 2, "size": 500, "steps": 100,
        "callback": lambda now: now.number == 2,
    }  # fmt: skip
    result = retrain(
        model,
        rater,
        0.0,
        optax.adam(0.05),
        objective=lambda m, xs: jnp.mean(jax.vmap(lambda x: bound(m, x))(xs)),
        **arguments,
    )
    assert len(result.rewards) == 2
    # Of two with a spread of sqrt 2, about the better one: half of a standard deviation a round.
    assert 0.7 < result.params < 1.7
    with pytest.raises(ChoiceMismatchError, match="no value"):
        retrain(model, lambda x: x, 0.0, optax.adam(0.05), **arguments)


def test_real_data_are_drawn_evenly():
    from ppgen.inference.preferences._retrain import _rows

    data = {"x": np.arange(7), "y": 10 * np.arange(7)}
    for count in (0, 17):
        rows = _rows(data, count, jax.random.key(count))
        times = np.bincount(np.asarray(rows["x"]), minlength=7)
        assert times.sum() == count and np.ptp(times) <= 1
        np.testing.assert_array_equal(rows["y"], 10 * rows["x"])


def test_retrain_errors():
    good = {
        "key": jax.random.key(0), "rounds": 1, "choices": 2, "size": 10, "steps": 1,
    }  # fmt: skip
    for bad, match in (
        ({"rounds": 0}, "positive"),
        ({"size": 0}, "positive"),
        ({"mix": 0.5}, "both or none"),
        ({"reference": np.zeros(3, int)}, "both or none"),
        ({"reference": np.zeros(3, int), "mix": 0.0}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=match):
            retrain(categorical, lambda x: x, jnp.zeros(4), optax.sgd(0.1), **(good | bad))


# --- losses on densities --------------------------------------------------------------------------


def expected_ddo(alpha, beta, start=P):
    """The exact loss of logits: data and draws of the reference are summed over."""
    loss = ddo(categorical, lambda _: categorical(jnp.log(start)), alpha=alpha, beta=beta)
    summed = ppgen.with_estimators(loss, {"x": ppgen.Enumerate()})
    each = ppgen.expectation(lambda x, logits: summed({"x": x}, logits))

    def f(logits):
        values = jax.vmap(lambda x: each(jax.random.key(0), x, logits))(jnp.arange(4))
        return jnp.sum(REAL * values)

    return f


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_ddo_recovers_the_law_of_the_data(beta):
    """From the reference; for β ≠ 1 the power of both, for the α for which that is a law."""
    power = P ** (1 - 1 / beta) * REAL ** (1 / beta)
    alpha = power.sum() ** beta
    logits = minimum(expected_ddo(alpha, beta), jnp.log(P))
    assert total_variation(jax.nn.softmax(logits), power / power.sum()) < 1e-9
    # With another α it is not.
    logits = minimum(expected_ddo(1.3 * alpha, beta), jnp.log(P))
    assert total_variation(jax.nn.softmax(logits), power / power.sum()) > 1e-2


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (4.0, 0.1)])
def test_ddo_at_the_reference(alpha, beta):
    f, at = jax.jit(expected_ddo(alpha, beta)), jnp.log(P)
    np.testing.assert_allclose(f(at), (1 + alpha) * np.log(2), rtol=1e-12)
    likelihood = jax.grad(lambda a: -jnp.sum(REAL * jax.nn.log_softmax(a)))(at)
    np.testing.assert_allclose(jax.grad(f)(at), beta / 2 * likelihood, atol=1e-12)


def test_ddo_sharpens_a_model_that_is_too_small(float32):
    """.8 N(0, 1) + .2 N(6, 1) under one Gaussian: from covering both modes to the larger one."""
    x = np.linspace(-12, 18, 3001)
    log_real = np.logaddexp(np.log(0.8) - x**2 / 2, np.log(0.2) - (x - 6) ** 2 / 2)
    log_real -= 0.5 * np.log(2 * np.pi)

    def divergences(params):
        mean, scale = float(params[0]), float(jnp.exp(params[1]))
        log_q = -0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
        q, p, step = np.exp(log_q), np.exp(log_real), x[1] - x[0]
        return (q * (log_q - log_real)).sum() * step, (p * (log_real - log_q)).sum() * step

    def program(params):
        numpyro.sample("x", dist.Normal(params[0], jnp.exp(params[1])))

    best = jnp.array([1.2, 0.5 * np.log(6.76)])  # the maximum of the likelihood
    keys = jax.random.split(jax.random.key(0))
    data = 6.0 * jax.random.bernoulli(keys[0], 0.2, (20_000,)) + jax.random.normal(
        keys[1], (20_000,)
    )
    loss = ddo(program, lambda _: program(best), alpha=4.0, beta=0.1)
    path = []
    fit(
        lambda params, xs: jnp.mean(jax.vmap(lambda x: loss({"x": x}, params))(xs)),
        best - 0.1,  # at the maximum itself its expected gradient is zero
        optax.adam(0.01),
        key=jax.random.key(1),
        steps=100,
        data=data,
        batch_size=2048,
        chunk=10,
        callback=lambda now: path.append(divergences(now.params)),
    )
    before, after = divergences(best), min(path)
    np.testing.assert_allclose(before[0], 0.898, atol=5e-4)
    assert after[0] < 0.3 and after[1] > 2 * before[1]


def test_ddo_by_bounds():
    """The same noise for both: no noise at the reference. Above the loss of the mean, by Jensen."""

    def noise(x):
        return ppgen.draw(dist.Normal(0.0, 1.0), name="noise")

    def denoising(m, x, eps):
        return 0.5 * (x - m) ** 2 + eps * (x - m)

    f = ppgen.expectation(ddo_jensen(noise, denoising, alpha=3.0, beta=0.5))
    f = jax.jit(f)
    slope = jax.jit(jax.grad(f, argnums=(1, 2, 4)))
    for seed in range(3):
        np.testing.assert_allclose(f(jax.random.key(seed), 0.3, 0.3, 1.0, 2.0), 4 * np.log(2), 1e-6)
        by_model, *rest = slope(jax.random.key(seed), 0.3, 0.3, 1.0, 2.0)
        assert by_model != 0 and rest == [0.0, 0.0]

    # Without noise it is `ddo` of unit Gaussians, fake given.
    def silent(x):
        return 0.0

    real, fake, m = 1.0, 2.0, 0.8
    ratios = [(x**2 - (x - m) ** 2) / 2 for x in (real, fake)]
    right = np.logaddexp(0, -0.5 * ratios[0]) + 3 * np.logaddexp(0, 0.5 * ratios[1])
    loss = ddo_jensen(silent, denoising, alpha=3.0, beta=0.5)
    np.testing.assert_allclose(loss(m, 0.0, real, fake), right, rtol=1e-6)
    noisy = ppgen.expectation(ddo_jensen(noise, denoising, alpha=3.0, beta=0.5), draws=20_000)
    assert right + 0.01 < noisy(jax.random.key(0), m, 0.0, real, fake) < right + 0.1


def test_dpo_is_the_regularised_optimum():
    """Votes by Bradley and Terry on all pairs: the minimum is p_ref exp(r / β), normalised."""
    beta = 0.7
    loss = dpo(categorical, lambda _: categorical(jnp.log(P)), beta=beta)
    pairs = jnp.array(list(itertools.permutations(range(4), 2)))
    odds = jax.nn.sigmoid(jnp.array(R)[pairs[:, 0]] - jnp.array(R)[pairs[:, 1]])

    def f(logits):
        each = jax.vmap(lambda pair: loss({"x": pair[0]}, {"x": pair[1]}, logits))
        return jnp.sum(odds * each(pairs))

    tilted = P * np.exp(R / beta)
    logits = minimum(f, jnp.log(P))
    assert total_variation(jax.nn.softmax(logits), tilted / tilted.sum()) < 1e-9
    # Where it is largest, too, that the regularised reward is.
    g = exact(
        kl_regularized_reward(
            categorical, lambda _: categorical(jnp.log(P)), lambda x: jnp.array(R)[x], beta=beta
        )
    )
    np.testing.assert_allclose(g(logits), beta * np.log(tilted.sum()), rtol=1e-9)
    np.testing.assert_allclose(jax.grad(g)(logits), 0.0, atol=1e-9)
    # Elsewhere it is the bound of the tilted reference.
    model = ppgen.tilt(lambda _: categorical(jnp.log(P)), lambda x: -jnp.array(R)[x] / beta)
    at = jnp.array([0.1, 0.5, -0.3, 0.0])
    np.testing.assert_allclose(g(at), beta * exact(elbo(model, categorical))(at), rtol=1e-9)
    assert np.all(np.abs(jax.grad(g)(at)) > 1e-3)


# --- votes ----------------------------------------------------------------------------------------


def simulated(rewards, votes, choices, rng):
    """Rows of items in the order of random voters."""
    sets = np.argsort(rng.random((votes, len(rewards))), axis=1)[:, :choices]
    order = np.argsort(-(rewards[sets] + rng.gumbel(size=sets.shape)), axis=1)
    return np.take_along_axis(sets, order, axis=1)


@pytest.mark.parametrize(("choices", "ranked"), [(2, False), (3, False), (4, True)])
def test_intervals_cover(choices, ranked):
    """In 300 repetitions, 95 % intervals cover the truth in 95 ± 4 %, at 3 standard errors."""
    rng, truth, hits = np.random.default_rng(0), np.array([0.0, 0.5, 1.0, -1.0, 0.3]), []
    for _ in range(300):
        fitted = fit_rewards(simulated(truth, 300, choices, rng), ranked=ranked)
        for robust in (False, True):
            _, low, high = fitted.difference(2, 3, robust=robust)
            hits.append(low < 2.0 < high)
    rate = np.reshape(hits, (-1, 2)).mean(0)
    assert np.all(np.abs(rate - 0.95) < 0.04), rate


@pytest.mark.parametrize("ranked", [False, True])
def test_fitted_rewards_against_automatic_derivatives(ranked):
    """The maximum, the information and the sandwich; votes of two, three and four items."""
    rng = np.random.default_rng(1)
    votes = simulated(np.array([0.0, 0.5, 1.0, -1.0, 0.3]), 200, 4, rng)
    votes[:60, 3] = votes[:20, 2] = -1
    fitted = fit_rewards(votes, ranked=ranked)

    @jax.jit
    def each(rewards):
        seen = jnp.where(votes >= 0, rewards[votes], -jnp.inf)
        return vote_log_likelihood(seen, ranked=ranked)

    at = jnp.array(fitted.rewards)
    scores = jax.jit(jax.jacfwd(each))(at)
    information = -jax.jit(jax.hessian(lambda r: jnp.sum(each(r))))(at)
    np.testing.assert_allclose(jnp.sum(each(at)), fitted.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(scores.sum(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(fitted.rewards.sum(), 0.0, atol=1e-12)
    inverse = np.linalg.pinv(information)
    np.testing.assert_allclose(fitted.covariance, inverse, atol=1e-9)
    np.testing.assert_allclose(fitted.robust, inverse @ (scores.T @ scores) @ inverse, atol=1e-9)
    assert np.abs(fitted.robust - fitted.covariance).max() > 1e-4


def test_sandwich_where_the_model_is_wrong():
    """Voters who are sure of some pairs and not of others: only the sandwich has the spread."""
    rng, estimates, errors = np.random.default_rng(2), [], []
    for _ in range(200):
        # Item 0 loses to 1 half of the time, 1 to 2 likewise; but 0 all but never wins against 2.
        pair = rng.choice(3, size=300, p=[0.1, 0.1, 0.8])
        first, second = np.array([0, 1, 0])[pair], np.array([1, 2, 2])[pair]
        won = rng.random(300) < np.array([0.5, 0.5, 0.03])[pair]
        votes = np.where(won[:, None], np.c_[first, second], np.c_[second, first])
        fitted = fit_rewards(votes)
        estimates.append(fitted.rewards[1])
        errors.append([fitted.covariance[1, 1] ** 0.5, fitted.robust[1, 1] ** 0.5])
    spread, (by_information, by_sandwich) = np.std(estimates), np.mean(errors, axis=0)
    assert abs(by_sandwich / spread - 1) < 0.15
    assert abs(by_information / spread - 1) > 0.15


def test_features():
    """Rewards linear in features, of items that were never seen too; what is constant is free."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(8, 2))
    truth = features @ [1.0, -0.5]
    votes = simulated(truth[:6], 3000, 3, rng)
    fitted = fit_rewards(votes, features=np.c_[features, np.ones(8)])
    np.testing.assert_allclose(fitted.rewards, truth - truth.mean(), atol=0.2)
    scaled = fit_rewards(votes, features=features @ np.diag([1e6, 1e-6]))
    np.testing.assert_allclose(scaled.rewards, fitted.rewards, atol=1e-6)
    # As many features as items are no restriction.
    free, table = fit_rewards(votes), fit_rewards(votes, features=rng.normal(size=(6, 7)))
    np.testing.assert_allclose(table.rewards, free.rewards, atol=1e-6)
    np.testing.assert_allclose(table.covariance, free.covariance, atol=1e-8)


def test_votes_have_probabilities():
    rewards = jnp.array([0.3, -0.5, 2.0, 1.0])
    orders = jnp.array(list(itertools.permutations(range(4))))
    ranked = vote_log_likelihood(rewards[orders], ranked=True)
    np.testing.assert_allclose(jnp.exp(ranked).sum(), 1.0, rtol=1e-6)
    winners = vote_log_likelihood(rewards[orders[::6]])
    np.testing.assert_allclose(jnp.exp(winners).sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(winners, jax.nn.log_softmax(rewards)[orders[::6, 0]], rtol=1e-5)
    # Shifts change nothing, and who was not there neither.
    np.testing.assert_allclose(vote_log_likelihood(rewards + 7, ranked=True), ranked[0], rtol=1e-5)
    with_nobody = vote_log_likelihood(jnp.array([0.3, -0.5, -jnp.inf]), ranked=True)
    np.testing.assert_allclose(with_nobody, vote_log_likelihood(rewards[:2]), rtol=1e-6)


@pytest.mark.parametrize(
    ("votes", "match"),
    [
        ([[0, 1]] * 3, "items 1 never won"),
        ([[0, 1], [1, 0], [1, 2], [0, 2]], "items 2 never won"),
        ([[2, 1], [1, 0], [0, 1]], "items 2 never lost"),
        ([[0, 1], [1, 0], [2, 3], [3, 2]], "items 0, 1 were never compared"),
        ([[0, 0]], "vote 0 has an item twice"),
        ([[0, 1, 2], [0, -1, -1]], "vote 1 chooses from fewer than two"),
        ([[0, -1, 2]], "has an item after a -1"),
        ([[0], [1]], "two choices or more"),
    ],
)
def test_votes_that_determine_nothing(votes, match):
    with pytest.raises(VotesError, match=match):
        fit_rewards(np.array(votes))


def test_errors_of_features_and_contrasts():
    votes = np.array([[0, 1], [0, 1], [1, 2], [1, 2]])
    with pytest.raises(VotesError, match="decides all votes"):
        fit_rewards(votes, features=np.array([[2.0], [1.0], [0.0]]))
    with pytest.raises(VotesError, match="never differs"):
        fit_rewards(votes, features=np.c_[[0.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
    with pytest.raises(VotesError, match="never differs"):
        fit_rewards(votes, features=np.ones((4, 1)))
    with pytest.raises(VotesError, match="has no features"):
        fit_rewards(votes, features=np.ones((2, 1)))
    fitted = fit_rewards(np.array([[0, 1], [1, 0]]))
    with pytest.raises(VotesError, match="up to a constant"):
        fitted.interval(np.array([1.0, 0.0]))
