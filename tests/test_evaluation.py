"""Distances between laws: their means and variances, against enumeration and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from ppgen.inference import (
    clustering_histogram,
    degree_histogram,
    energy_distance,
    frechet,
    gaussian_emd_kernel,
    gaussian_kernel,
    mmd,
    set_kernel,
    spectrum_histogram,
    total_variation_kernel,
)
from ppgen.inference.evaluation._discrepancies import _variance
from ppgen.models.parts.metrics import frechet_distance


def v_statistic(one, other, kernel):
    """The planted bug: every draw is compared with itself too."""
    return kernel(one, one).mean() + kernel(other, other).mean() - 2 * kernel(one, other).mean()


# --- law G3 ---------------------------------------------------------------------------------------


def halves(number, size, seed):
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(size, 2)) * [1.0, 3.0]
    for _ in range(number):
        mixed = rng.permutation(data)
        yield mixed[: size // 2], mixed[size // 2 :]


@pytest.mark.parametrize("estimate", [mmd, energy_distance])
def test_two_halves_differ_by_nothing(estimate):
    """The mean over 1,000 ways to split the data; the V-statistic is found."""
    kernel = gaussian_kernel(1.0)
    given = (kernel,) if estimate is mmd else ()
    found = [estimate(*pair, *given).mean for pair in halves(1000, 30, 0)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(1000)
    wrong = [v_statistic(*pair, kernel) for pair in halves(1000, 30, 0)]
    assert np.mean(wrong) > 20 * np.std(wrong) / math.sqrt(1000)


def test_over_all_halves_the_mean_is_exactly_nothing():
    data, kernel = np.random.default_rng(1).normal(size=(8, 1)), gaussian_kernel(0.5)
    splits = [(np.array(s), np.setdiff1d(range(8), s)) for s in itertools.combinations(range(8), 4)]
    for f in (lambda a, b: mmd(a, b, kernel).mean, lambda a, b: energy_distance(a, b).mean):
        assert abs(np.mean([f(data[a], data[b]) for a, b in splits])) < 1e-15
    assert np.mean([v_statistic(data[a], data[b], kernel) for a, b in splits]) > 0.1


def test_a_shift_increases_it():
    x = np.random.default_rng(2).normal(size=(100, 2))
    shifted = [x + c for c in (0.5, 1.0, 2.0, 4.0)]
    for values in (
        [mmd(x, y, gaussian_kernel(2.0)).mean for y in shifted],
        [energy_distance(x, y).mean for y in shifted],
        [frechet(x, y).distance.mean for y in shifted],
    ):
        assert np.all(np.diff([0.0, *values]) > 0), values


# --- means and variances --------------------------------------------------------------------------

POINTS = np.array([[0.0], [0.7], [2.0]])


@pytest.mark.parametrize(("p", "q"), [((0.2, 0.5, 0.3), (0.5, 0.1, 0.4)), ((0.2, 0.5, 0.3),) * 2])
def test_mean_and_variance_by_enumeration(p, q):
    """All samples of four and of five draws from two laws over three points, with probabilities."""
    p, q, kernel = np.array(p), np.array(q), gaussian_kernel(0.8)
    table = kernel(POINTS, POINTS)
    laws = []
    for law, size in ((p, 4), (q, 5)):
        # As counts: the order of draws changes nothing.
        counts = [c for c in itertools.product(range(size + 1), repeat=3) if sum(c) == size]
        weights = [scipy.stats.multinomial.pmf(c, size, law) for c in counts]
        laws.append([(w, np.repeat(np.arange(3), c)) for w, c in zip(weights, counts, strict=True)])
    rows = []
    for (w, a), (v, b) in itertools.product(*laws):
        off = [table[np.ix_(x, x)] * (1 - np.eye(len(x))) for x in (a, b)]
        linear, interaction = _variance(*off, table[np.ix_(a, b)])
        estimate, error = mmd(POINTS[a], POINTS[b], kernel)
        rows.append((w * v, estimate, linear + interaction, error**2))
    weight, estimate, variance, reported = np.array(rows).T
    mean = weight @ estimate
    assert math.isclose(weight.sum(), 1.0)
    assert math.isclose(mean, (p - q) @ table @ (p - q), rel_tol=1e-12, abs_tol=1e-15)
    exact = weight @ (estimate - mean) ** 2
    assert math.isclose(weight @ variance, exact, rel_tol=1e-10)
    # What is reported is cut off at zero, and so not too small.
    assert exact <= weight @ reported < (3 if np.all(p == q) else 2) * exact
    assert np.all(reported >= 0)


def test_closed_forms_of_gaussians():
    rng, shift, scale = np.random.default_rng(3), 1.5, 1.3
    x, y = rng.normal(size=(1500, 1)), rng.normal(size=(1200, 1)) + shift
    width = scale**2 + 2
    truth = 2 * scale / math.sqrt(width) * (1 - math.exp(-(shift**2) / (2 * width)))
    found = mmd(x, y, gaussian_kernel(scale))
    assert abs(found.mean - truth) < 4 * found.standard_error < 0.2 * truth
    between = scipy.stats.foldnorm(shift / math.sqrt(2), scale=math.sqrt(2)).mean()
    truth = 2 * between - 4 / math.sqrt(math.pi)
    found = energy_distance(x, y)
    assert abs(found.mean - truth) < 4 * found.standard_error < 0.3 * truth
    # With the diagonal it is the square of scipy's.
    m, n = len(x), len(y)
    inside = [np.abs(z - z.T).mean() for z in (x, y)]
    with_diagonal = found.mean + inside[0] / (m - 1) + inside[1] / (n - 1)
    distance = scipy.stats.energy_distance(x[:, 0], y[:, 0])
    assert math.isclose(with_diagonal, distance**2, rel_tol=1e-9)


def test_swapping_the_laws_changes_nothing():
    x, y = np.random.default_rng(4).normal(size=(2, 30, 2, 2))
    for f in (energy_distance, lambda a, b: mmd(a, b, gaussian_kernel(1.0))):
        np.testing.assert_allclose(f(x, y[:20] + 1), f(y[:20] + 1, x), rtol=1e-12)
    one, other = (frechet(*pair, groups=5).distance for pair in ((x[:20], y), (y, x[:20])))
    np.testing.assert_allclose(one, other, rtol=1e-7)


def test_the_frechet_distance_loses_its_bias():
    """Of Gaussians in four dimensions, whose distance is known, from 100 draws of each."""
    rng, shift, spread = np.random.default_rng(5), 0.5, 1.5
    for truth, changed in ((0.0, False), (4 * (shift**2 + (spread - 1) ** 2), True)):
        found = []
        for _ in range(120):
            x, y = rng.normal(size=(2, 100, 4))
            found.append(frechet(x, y * spread + shift if changed else y, groups=10))
        plug_in = np.array([f.plug_in for f in found])
        means, errors = np.array([f.distance for f in found]).T
        noise = means.std() / math.sqrt(120)
        assert abs(means.mean() - truth) < 4 * noise
        assert plug_in.mean() - truth > 8 * plug_in.std() / math.sqrt(120)
        assert abs(means.mean() - truth) < 0.4 * (plug_in.mean() - truth)
        # Near zero the error is too large; elsewhere it is about right.
        assert 0.85 * means.std() < errors.mean() < (1.4 if changed else 4) * means.std()
        assert all(math.isclose(f.distance.mean, f.plug_in - f.bias) for f in found)
    assert math.isclose(found[0].plug_in, found[0].distance.mean + found[0].bias)
    assert frechet_distance(x, y) == frechet(x, y).plug_in


# --- kernels --------------------------------------------------------------------------------------

HISTOGRAMS = np.random.default_rng(6).dirichlet(np.ones(5), size=12)


def test_the_earth_movers_kernel_is_that_of_scipy():
    matrix = gaussian_emd_kernel(0.7, width=0.5)(HISTOGRAMS[:4] * 9, HISTOGRAMS)
    places = 0.5 * np.arange(5)
    for i, j in np.ndindex(matrix.shape):
        moved = scipy.stats.wasserstein_distance(places, places, HISTOGRAMS[i], HISTOGRAMS[j])
        assert math.isclose(matrix[i, j], math.exp(-(moved**2) / (2 * 0.49)), rel_tol=1e-9)


def test_the_kernel_of_total_variation():
    apart = np.abs(HISTOGRAMS[:, None] - HISTOGRAMS).sum(-1) / 2
    for squared, expected in ((True, np.exp(-(apart**2) / 0.32)), (False, np.exp(-apart / 0.4))):
        kernel = total_variation_kernel(0.4, squared=squared)
        np.testing.assert_allclose(kernel(HISTOGRAMS, 3 * HISTOGRAMS), expected, rtol=1e-12)


def test_which_kernels_are_positive_definite():
    """The two that say that they are not, are not: of bins that are far apart, at a wide scale."""
    corners = np.concatenate([np.eye(4), np.ones((1, 4)), [[1, 1, 0, 0], [0, 0, 1, 1]]])
    least = {
        name: np.linalg.eigvalsh(kernel(corners, corners))[0]
        for name, kernel in {
            "gaussian": gaussian_kernel(3.0),
            "variation": total_variation_kernel(3.0, squared=False),
            "squared": total_variation_kernel(3.0),
        }.items()
    }
    assert least["gaussian"] > -1e-12 and least["variation"] > 0 and least["squared"] < -1e-6
    # By the earth mover's distance: four corners around a centre, as cumulative sums.
    around = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
    cumulative = np.c_[np.zeros(5), [0.3, 0.6] + 0.1 * around, np.ones(5)]
    histograms = np.diff(cumulative, axis=1)
    assert np.linalg.eigvalsh(gaussian_emd_kernel(1.0)(histograms, histograms))[0] < -1e-6


def test_sets_in_any_order_and_of_any_size():
    rng = np.random.default_rng(7)
    sets = rng.normal(size=(9, 5, 2))
    sets[3, 2:] = np.nan
    mixed = np.stack([x[rng.permutation(5)] for x in sets])
    kernel = set_kernel(gaussian_kernel(1.0), 0.5)
    np.testing.assert_allclose(kernel(sets, sets), kernel(mixed, sets), rtol=1e-12)
    # By the definition, and points twice are the same set.
    k = gaussian_kernel(1.0)
    a, b = sets[0], sets[3, :2]
    square = k(a, a).mean() + k(b, b).mean() - 2 * k(a, b).mean()
    assert math.isclose(kernel(sets[:1], sets[3:4])[0, 0], math.exp(-square / 0.5), rel_tol=1e-12)
    np.testing.assert_allclose(kernel(np.tile(sets, (1, 2, 1)), sets), kernel(sets, sets))
    assert np.linalg.eigvalsh(kernel(sets, sets))[0] > 0


def test_only_a_kernel_of_sets_sees_what_is_together():
    """Pairs of equal points, and pairs of independent ones: single points have the same law."""
    rng = np.random.default_rng(8)
    one = np.repeat(rng.normal(size=(100, 1, 1)), 2, axis=1)
    other = rng.normal(size=(100, 2, 1))
    found = mmd(one, other, set_kernel(gaussian_kernel(0.5), 0.5))
    assert found.mean > 5 * found.standard_error
    k = gaussian_kernel(0.5)
    singles = mmd(
        *(one, other),
        lambda a, b: k(a.reshape(-1, 1), b.reshape(-1, 1)).reshape(100, 2, 100, 2).mean((1, 3)),
    )
    assert abs(singles.mean) < 4 * singles.standard_error


def random_graphs(number, nodes, share, rng):
    upper = np.triu(rng.random((number, nodes, nodes)) < share, 1)
    return (upper | upper.transpose(0, 2, 1)).astype(int)


STATISTICS = {
    "degree": lambda graphs: degree_histogram(graphs, most=9),
    "clustering": clustering_histogram,
    "spectrum": spectrum_histogram,
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_graphs(name):
    rng, statistic = np.random.default_rng(9), STATISTICS[name]
    graphs = random_graphs(40, 8, 0.4, rng)
    orders = [rng.permutation(8) for _ in graphs]
    mixed = [graph[np.ix_(order, order)] for graph, order in zip(graphs, orders, strict=True)]
    np.testing.assert_array_equal(statistic(graphs), statistic(mixed))
    assert np.all(statistic(graphs).sum(1) == 8)
    kernel = gaussian_emd_kernel(1.0, width=0.1)
    same = mmd(statistic(graphs[:20]), statistic(graphs[20:]), kernel)
    denser = mmd(statistic(graphs), statistic(random_graphs(40, 8, 0.7, rng)), kernel)
    assert abs(same.mean) < 4 * same.standard_error
    assert denser.mean > 5 * denser.standard_error


def test_statistics_by_definition():
    (graph,) = random_graphs(1, 9, 0.5, np.random.default_rng(10))
    shares = []
    for node in range(9):
        near = np.flatnonzero(graph[node])
        pairs = list(itertools.combinations(near, 2))
        shares.append(np.mean([graph[i, j] for i, j in pairs]) if pairs else 0.0)
    expected = np.histogram(shares, 100, (0, 1))[0]
    np.testing.assert_array_equal(clustering_histogram([graph])[0], expected)
    # A star has 0, 2 and ones; a node alone has 0.
    star = np.zeros((5, 5), int)
    star[0, 1:4] = star[1:4, 0] = 1
    assert spectrum_histogram([star], bins=4)[0].tolist() == [2, 0, 2, 1]
    assert degree_histogram([star], most=3)[0].tolist() == [1, 3, 0, 1]


# --- errors ---------------------------------------------------------------------------------------

X = np.random.default_rng(11).normal(size=(5, 2))


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda: mmd(X[:3], X, gaussian_kernel(1.0)), "4 draws of each law are needed"),
        (lambda: mmd(X, X, lambda a, b: np.ones((2, 2))), "the kernel returned the shape"),
        (lambda: energy_distance(X * np.nan, X), "the kernel is not finite"),
        (lambda: gaussian_kernel(0.0), "must be positive"),
        (lambda: gaussian_emd_kernel(math.nan), "must be positive"),
        (lambda: total_variation_kernel(1.0)(X, X), "expected histograms"),
        (lambda: gaussian_emd_kernel(1.0)(np.zeros((2, 3)), np.ones((2, 3))), "not all zero"),
        (lambda: set_kernel(gaussian_kernel(1.0), 1.0)(X, X), "expected sets of shape"),
        (
            lambda: set_kernel(gaussian_kernel(1.0), 1.0)(X[None] * np.nan, X[None]),
            "a set has no points",
        ),
        (lambda: frechet(X, X), "20 groups of two draws or more"),
        (lambda: degree_histogram([1 - np.eye(4)], most=2), "more than `most`"),
        (lambda: degree_histogram([np.eye(4)], most=2), "from a node to itself"),
        (lambda: clustering_histogram([np.triu(np.ones((3, 3)), 1)]), "symmetric matrix"),
        (lambda: spectrum_histogram([np.full((2, 2), 0.5)]), "symmetric matrix"),
    ],
)
def test_errors(f, message):
    with pytest.raises(ValueError, match=message):
        f()
