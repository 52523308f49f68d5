"""Pairs that samplers make, straightness, and grids of times: by closed forms and brute force."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ppgen
from ppgen.inference import (
    Chain,
    Fields,
    PathError,
    ScheduleError,
    ancestral,
    decode,
    draw_pairs,
    euler_maruyama,
    heun,
    local_errors,
    optimal_times,
    paired,
    path_point,
    path_variation,
    regress,
    solve,
)
from ppgen.testing import exact

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


# --- A6: pairs ------------------------------------------------------------------------------------


@pytest.mark.long
def test_pairs_are_what_running_the_sampler_gives():
    field = lambda x, t: Fields(-x * t, -x)  # noqa: E731
    times = jnp.linspace(0.0, 1.0, 6)
    prior = dist.Normal(jnp.array([1.0, -2.0]), 1.5).to_event(1)

    def by_solve():
        return solve(field, times)(numpyro.sample("x0", prior))

    for program in (Chain(prior, heun(field), times), by_solve):
        x0s, x1s = draw_pairs(program, KEY, 50)
        assert x0s.shape == x1s.shape == (50, 2)
        for x0, x1 in zip(x0s[:3], x1s[:3], strict=True):
            np.testing.assert_allclose(ppgen.assess(program)({"x0": x0}).value, x1, rtol=1e-12)
        assert abs(x0s.mean(0) - prior.mean).max() < 5 * 1.5 / 50**0.5
        np.testing.assert_array_equal(draw_pairs(program, KEY, 50, batch_size=16)[1], x1s)
    # From one point: a point mass, or an observed site.
    noisy = Chain(dist.Delta(jnp.ones(2), event_dim=1), euler_maruyama(field, 0.5), times)

    def observed():
        x0 = numpyro.sample("x0", prior, obs=jnp.ones(2))
        return x0 + ppgen.draw(dist.Normal(), name="e")

    for program in (noisy, observed):
        x0s, x1s = draw_pairs(program, KEY, 7)
        np.testing.assert_array_equal(x0s, np.ones((7, 2)))
        assert len({float(x) for x in x1s[:, 0]}) == 7
    for size in (0, 1):
        assert draw_pairs(noisy, KEY, size)[1].shape == (size, 2)


def test_pairs_of_a_curated_sampler_and_of_trees():
    flow = Chain(dist.Normal(), heun(lambda x, t: 1.0 + 0 * x), jnp.linspace(0.0, 1.0, 3))
    x0s, x1s = draw_pairs(ppgen.curate(flow, lambda x: 5 * x, choices=4), KEY, 400)
    np.testing.assert_allclose(x1s, x0s + 1, rtol=1e-12)
    assert x0s.mean() > 0.7

    def tree():
        x0 = numpyro.sample("x0", dist.Normal())
        return {"a": x0, "b": (x0 > 0).astype(int)}

    x0s, ends = draw_pairs(tree, KEY, 4)
    np.testing.assert_array_equal(ends["b"], x0s > 0)
    with pytest.raises(PathError, match="where it begins"):
        draw_pairs(lambda: numpyro.sample("x", dist.Normal()), KEY, 2)


X0S, X1S = np.array([[0.0, 1], [1, 2], [5, 3]]), np.array([[1.0, 1], [4, 2], [2, 9]])


def test_a_pair_has_the_empirical_law_of_rows():
    """By enumeration, of a function of both ends: rows that do not belong together show."""
    look = lambda a, b: jnp.sin(a[0]) * jnp.cos(b[1]) + a[1] * b[0]  # noqa: E731

    def objective(scale):
        return scale * look(*paired(X0S, X1S))

    found = exact(objective)(1.0)
    np.testing.assert_allclose(found, np.mean([look(a, b) for a, b in zip(X0S, X1S, strict=True)]))
    apart = np.mean([look(a, b) for a, b in itertools.product(X0S, X1S)])
    assert abs(found - apart) > 0.1  # what a planted bug, a row for each end, would have given
    # In a plate, of one pair, of integers and of numbers.
    with numpyro.handlers.seed(rng_seed=0), numpyro.plate("rows", 5):
        a, b = paired(X0S, np.arange(3))
    assert a.shape == (5, 2) and b.shape == (5,) and jnp.issubdtype(b.dtype, jnp.integer)
    np.testing.assert_array_equal(a, X0S[b])
    np.testing.assert_array_equal(ppgen.seed(paired)(KEY, X0S[:1], X1S[:1])[1], X1S[0])
    for ends in ((X0S, X1S[:2]), (X0S[:0], X1S[:0]), (1.0, 2.0)):
        with pytest.raises(PathError, match="pairs of arrays"):
            ppgen.seed(paired)(KEY, *ends)


def test_a_bridge_of_pairs_has_velocities_and_no_score():
    def bridge():
        t = numpyro.sample("t", dist.Uniform())
        x0, x1 = paired(X0S, X1S)
        return t * x1 + (1 - t) * x0

    point = ppgen.seed(path_point(bridge))(KEY)
    row = int(np.argmin(np.abs(X0S - point.sites["x0"]).sum(1)))
    np.testing.assert_allclose(point.velocity, X1S[row] - X0S[row])
    decoder = decode(lambda x, t: 0 * x + 1, bridge, given="velocity")
    np.testing.assert_allclose(decoder(jnp.zeros(2), 0.25).x1, 0.75 * np.ones(2))
    assert decoder(jnp.zeros(2), 0.25).exchange is None
    with pytest.raises(PathError, match="normal"):
        _ = decoder(jnp.zeros(2), 0.25).score
    with pytest.raises(PathError, match="point mass"):
        ppgen.expectation(regress(lambda p, x, t: x, bridge, predict="score"))(KEY, 0.0)


# --- A7: straightness and transport ---------------------------------------------------------------

MEAN, SPREAD = 1.5, 0.4


def first_flow(x, t):
    """Between N(0, 1) and N(m, s²), independent: what regression would learn."""
    variance = (1 - t) ** 2 + t**2 * SPREAD**2
    return Fields(MEAN + (t * SPREAD**2 - (1 - t)) / variance * (x - t * MEAN))


def second_flow(x, t):
    """Between the pairs of the first: z and m + s z."""
    return Fields(MEAN + (SPREAD - 1) * (x - t * MEAN) / (1 - t + t * SPREAD))


def test_reflow_of_a_normal_in_closed_form():
    times = jnp.linspace(0.0, 1.0, 401)
    z = jnp.array([-1.3, 0.2, 2.0])
    path = Chain(dist.Delta(z, event_dim=1), heun(first_flow), times).path
    curve = np.sqrt((1 - times) ** 2 + (times * SPREAD) ** 2)
    right = times[:, None] * MEAN + curve[:, None] * z
    np.testing.assert_allclose(ppgen.assess(path)({"x0": z}).value, right, atol=1e-5)
    # Its map is the optimal one already; the second flow has the same, along straight lines.
    one, two = (
        draw_pairs(Chain(dist.Normal(), heun(flow), times), KEY, 500)
        for flow in (first_flow, second_flow)
    )
    np.testing.assert_allclose(one[1], MEAN + SPREAD * one[0], atol=1e-5)
    for cost in (np.square, np.abs, lambda d: d**4):
        costs = [np.mean(cost(np.asarray(x1 - x0))) for x0, x1 in (one, two)]
        assert costs[1] <= costs[0] * (1 + 1e-4)
    # Variation: E z² times that of the curve, less its mean, by Riemann's sum.
    t = (np.arange(100_000) + 0.5) / 100_000
    slope = (t * SPREAD**2 - (1 - t)) / np.sqrt((1 - t) ** 2 + (t * SPREAD) ** 2)
    known = np.mean((slope - (SPREAD - 1)) ** 2) * np.mean(np.square(z))
    np.testing.assert_allclose(path_variation(first_flow, z, times), known, rtol=1e-3)
    assert path_variation(second_flow, z, times) < 1e-20


def test_a_curved_path_may_need_one_step_all_the_same():
    """Of a decoder that knows the end at once, on any schedule: defect 0, variation not."""
    sharp = {"alpha": lambda t: t**2, "sigma": lambda t: 1 - t}

    def bridge():
        t = numpyro.sample("t", dist.Uniform())
        x1 = numpyro.sample("x1", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        x0 = numpyro.sample("x0", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        return sharp["alpha"](t) * x1 + sharp["sigma"](t) * x0

    end = jnp.array([3.0, -1.0])
    times = jnp.linspace(0.0, 0.9, 181)

    def known(x, t):  # every path leads to one place
        return end

    decoder = decode(known, bridge, given="x1")
    x0s = jax.random.normal(KEY, (4, 2))

    def defect(decoder):
        # At the last time the point is not yet there: what is needed is the expected data then.
        return path_variation(decoder, x0s, times, of="x1")

    gap = jnp.mean(jnp.sum((0.81 * end + 0.1 * x0s - end) ** 2, 1))
    np.testing.assert_allclose(defect(decoder), gap, rtol=1e-3)
    assert path_variation(decoder, x0s, times) > 0.5
    # And that of one that does not know it.
    with_t = decode(lambda x, t: end * t, bridge, given="x1")
    assert defect(with_t) > 1.1 * gap
    step = ancestral(decoder, eta=0.0)(x0s[0], jnp.array(0.0), jnp.array(0.9))
    np.testing.assert_allclose(step.mean, 0.81 * end + 0.1 * x0s[0], rtol=1e-12)


def test_variation_is_differentiated_and_takes_one_point():
    def of(a):
        return path_variation(lambda x, t: Fields(a * x), jnp.ones(1), jnp.linspace(0.0, 1.0, 101))

    a = 0.7
    known = lambda a: a * (math.exp(2 * a) - 1) / 2 - (math.exp(a) - 1) ** 2  # noqa: E731
    np.testing.assert_allclose(of(a), known(a), rtol=1e-3)
    slope = (known(a + 1e-5) - known(a - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(of)(a), slope, rtol=1e-3)


# --- A8: grids ------------------------------------------------------------------------------------


def by_brute_force(costs, steps):
    last = len(costs) - 1
    ways = itertools.combinations(range(1, last), steps - 1)
    paths = [(0, *way, last) for way in ways]
    return min(total(costs, path) for path in paths)


def total(costs, path):
    return sum(costs[i][j] for i, j in itertools.pairwise(path))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_grid_is_the_best_of_all(data):
    count = data.draw(st.integers(2, 11))
    steps = data.draw(st.integers(1, count - 1))
    cost = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1e6), st.just(math.inf))
    costs = np.array(data.draw(st.lists(cost, min_size=count**2, max_size=count**2)))
    costs = costs.reshape(count, count)
    times = np.cumsum(data.draw(st.lists(st.floats(0.1, 2), min_size=count, max_size=count)))
    best = by_brute_force(costs, steps)
    if not math.isfinite(best):
        with pytest.raises(ScheduleError, match="infinite"):
            optimal_times(costs, times, steps)
        return
    found = np.asarray(optimal_times(costs, times, steps))
    path = np.searchsorted(times, found)
    np.testing.assert_array_equal(times[path], found)
    assert path[0] == 0 and path[-1] == count - 1 and len(path) == steps + 1
    assert (np.diff(path) > 0).all()
    np.testing.assert_allclose(total(costs, path), best, rtol=1e-12)


def greedy(costs, times, steps):
    """A planted bug: halve the most expensive step, again and again."""
    path = [0, len(times) - 1]
    while len(path) < steps + 1:
        worst = max(
            (k for k in range(len(path) - 1) if path[k + 1] - path[k] > 1),
            key=lambda k: costs[path[k], path[k + 1]],
        )
        path.insert(worst + 1, (path[worst] + path[worst + 1]) // 2)
    return np.asarray(times)[path]


def test_the_best_is_told_from_the_good():
    rng = np.random.default_rng(0)
    worse = 0
    for _ in range(20):
        costs, times = rng.exponential(size=(9, 9)), np.arange(9.0)
        wrong = greedy(costs, times, 4).astype(int)
        worse += total(costs, wrong) > by_brute_force(costs, 4) + 1e-9
    assert worse > 15


@pytest.mark.parametrize("power", [1.5, 2.0, 4.0])
def test_the_grid_is_uniform_where_costs_are_of_the_length_alone(power):
    index = np.arange(13.0)
    costs = np.abs(index[None] - index[:, None]) ** power
    for steps in (1, 2, 3, 4, 6, 12):
        found = optimal_times(costs, index / 12, steps)
        np.testing.assert_allclose(found, np.linspace(0.0, 1.0, steps + 1), rtol=1e-6)
    # More steps cost less, as such a step costs more than two that replace it.
    totals = [by_brute_force(costs, k) for k in range(1, 13)]
    assert (np.diff(totals) <= 0).all()


def test_what_grids_refuse():
    costs, times = np.ones((4, 4)), np.arange(4.0)
    for steps in (0, 4, -1):
        with pytest.raises(ScheduleError, match="cannot take"):
            optimal_times(costs, times, steps)
    for table in (-costs, costs * np.nan, np.ones((4, 3)), np.ones(4)):
        with pytest.raises(ScheduleError, match="table"):
            optimal_times(table, times, 2)
    np.testing.assert_array_equal(optimal_times(costs, times, 3), times)


def test_local_errors_are_those_of_single_steps():
    """Of x' = -x: its solutions are known, so every entry is."""
    times = jnp.array([0.0, 0.1, 0.3, 0.35, 0.8])
    fine = jnp.sort(jnp.concatenate([jnp.linspace(0.0, 0.8, 1601), times]))
    fine = jnp.unique(fine)
    x0s = jnp.array([[1.0, 2.0], [-1.0, 0.5]])
    costs = local_errors(lambda x, t: Fields(-x), fine, x0s)
    where = np.searchsorted(fine, times)
    found = np.asarray(costs)[np.ix_(where, where)]
    size = float(jnp.mean(jnp.sum(x0s**2, 1)))
    for i, j in itertools.product(range(5), range(5)):
        if j <= i:
            assert found[i, j] == np.inf
        else:
            h = float(times[j] - times[i])
            right = size * math.exp(-2 * times[i]) * (1 - h - math.exp(-h)) ** 2
            np.testing.assert_allclose(found[i, j], right, rtol=1e-3)
    # Backwards in time too.
    back = local_errors(lambda x, t: Fields(-x), jnp.linspace(1.0, 0.0, 5), x0s)
    assert np.isfinite(back[0, 1:]).all() and back[2, 1] == np.inf


def test_a_grid_that_is_fitted_ends_closer_where_the_field_is_uneven():
    """A field that bends early: the fitted grid at equal steps, and the uniform one."""
    field = lambda x, t: Fields(-8 * jnp.exp(-6 * t) * x)  # noqa: E731
    times = jnp.linspace(0.0, 1.0, 41)
    costs = local_errors(field, times, jnp.array([[1.0], [-0.5]]))
    fresh = jnp.array([0.8])
    fine = solve(field, jnp.linspace(0.0, 1.0, 2001))(fresh)

    def error(grid):
        chain = Chain(dist.Delta(fresh, event_dim=1), euler_maruyama(field), grid)
        return float(jnp.abs(ppgen.assess(chain)({"x0": fresh}).value - fine)[0])

    for steps in (4, 8):
        fitted = optimal_times(costs, times, steps)
        assert error(fitted) < 0.6 * error(jnp.linspace(0.0, 1.0, steps + 1))
