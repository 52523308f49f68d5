"""Paths as programs: velocities, the algebra between predictions, and regression."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from bridges import PATHS, bridge_of, cosine, logit_normal, mode, normal, student

import ppgen
from ppgen.inference import (
    PathError,
    coefficients,
    decode,
    empirical_denoiser,
    implicit_score_matching,
    optimal_pairs,
    path_point,
    regress,
    sliced_score_matching,
)
from ppgen.models.parts.data import GaussianMixture
from ppgen.testing import assert_unbiased, exact

# Comparisons of means are within 5 standard errors: a false alarm has probability below 6e-7.
SIGMAS = 5.0
MIXTURE = GaussianMixture.isotropic([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.5, 0.8])


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def mixture64():
    return GaussianMixture.isotropic([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.5, 0.8])


# --- the algebra ----------------------------------------------------------------------------------


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", PATHS)
def test_velocity_and_score_are_those_of_the_mixture(name, x64):
    """Against finite differences of the schedule, and against the density of what is noised."""
    alpha, sigma = PATHS[name]
    mixture = mixture64()
    bridge = bridge_of(alpha, sigma, mixture.distribution)
    decoder = decode(lambda x, t: mixture.denoised(x, alpha(t), sigma(t)), bridge, given="x1")

    @jax.jit
    def one(t, x):
        found = decoder(x, t)
        smoothed = mixture.smoothed(alpha(t), sigma(t))
        return found.velocity, found.score, found.exchange, smoothed.score(x)

    for t in (0.2, 0.6, 0.9):
        x = jnp.array([0.4, -0.3]) * sigma(t) + alpha(t)
        velocity, score, exchange, right = one(t, x)
        np.testing.assert_allclose(score, right, rtol=1e-9)
        step = 1e-5
        dots = [(f(t + step) - f(t - step)) / (2 * step) for f in (alpha, sigma)]
        x1 = mixture.denoised(x, alpha(t), sigma(t))
        x0 = (x - alpha(t) * x1) / sigma(t)
        np.testing.assert_allclose(velocity, dots[0] * x1 + dots[1] * x0, rtol=1e-7)
        # v = (alpha_dot / alpha) x + exchange * score, which says what `exchange` is.
        expected = dots[0] / alpha(t) * x + exchange * right
        np.testing.assert_allclose(velocity, expected, rtol=1e-6)


def test_any_prediction_gives_all_others(x64):
    def bridge():  # noise that is not standard
        t = numpyro.sample("t", dist.Uniform())
        x1 = numpyro.sample("x1", normal(2))
        x0 = numpyro.sample("x0", dist.Normal(jnp.array([0.5, -1.0]), 1.7).to_event(1))
        return t * x1 + (1 - t) ** 2 * x0

    def denoised(x, t):
        noised = GaussianMixture.isotropic([1.0], [[0.0, 0.0]], 1.0)
        shift = (1 - t) ** 2 * jnp.array([0.5, -1.0])
        return noised.denoised(x - shift, t, 1.7 * (1 - t) ** 2)

    x, t = jnp.array([0.3, 0.7]), 0.4
    names = ("x1", "x0", "velocity", "score")

    @jax.jit
    def all_ways(x, t):
        right = decode(denoised, bridge, given="x1")(x, t)
        ways = [
            decode(lambda x, t, given=given: getattr(right, given), bridge, given=given)(x, t)
            for given in names
        ]
        return right, [[getattr(found, name) for name in names] for found in ways]

    right, ways = all_ways(x, t)
    for found in ways:
        for name, value in zip(names, found, strict=True):
            np.testing.assert_allclose(value, getattr(right, name), rtol=1e-10)
    variance = t**2 + (1.7 * (1 - t) ** 2) ** 2
    score = -(x - (1 - t) ** 2 * jnp.array([0.5, -1.0])) / variance
    np.testing.assert_allclose(right.score, score, rtol=1e-10)


def test_noise_that_is_not_normal_has_no_score_by_algebra():
    bridge = bridge_of(*PATHS["EDM"], MIXTURE.distribution, noise=student(3.0))

    def ask(bridge, name, given="x1"):
        field = decode(lambda x, t: x, bridge, given=given)
        return jax.eval_shape(lambda x: getattr(field(x, 0.5), name), jnp.ones(2))

    def pairs():
        t = numpyro.sample("t", dist.Uniform())
        x0 = numpyro.sample("x0", normal(2))
        x1 = numpyro.sample("x1", dist.Delta(jnp.sinh(x0), event_dim=1))
        return t * x1 + (1 - t) * x0

    def around():
        t = numpyro.sample("t", dist.Uniform())
        x1 = numpyro.sample("x1", normal(2))
        return t * x1 + (1 - t) * numpyro.sample("x0", dist.Normal(x1, 1.0).to_event(1))

    # Normal noise that the data know, or that knows the data, has none either.
    for path in (bridge, pairs, around):
        assert ask(path, "exchange") is None
        assert ask(path, "velocity").shape == (2,)
        for options in (("score",), ("velocity", "score")):
            with pytest.raises(PathError, match="normal"):
                ask(path, *options)


MIXES = [
    lambda t, a, b: t * a**2 + (1 - t) * b,
    lambda t, a, b: t * a[::-1] + (1 - t) * b,  # linear, but not element by element
    lambda t, a, b: t * a + (1 - t) * b + t,
    lambda t, a, b: t * a + (1 - t) * b + a * b,
]


def test_paths_that_are_not_linear_are_refused():
    def bridge(mix):
        t = numpyro.sample("t", dist.Uniform())
        return mix(t, numpyro.sample("x1", normal(2)), numpyro.sample("x0", normal(2)))

    # Under jit it is too late for an error, but not for a silent number.
    found = jax.jit(lambda t: [coefficients(bridge)(t, jnp.zeros(2), m)[:4] for m in MIXES])(0.5)
    assert np.isnan(found).all()
    # A third site on the path.
    with pytest.raises(PathError, match="element by element"):
        coefficients(interpolant)(0.5, jnp.zeros(()))


def test_a_path_needs_time():
    no_time = lambda: numpyro.sample("x1", normal(2))  # noqa: E731

    def still():
        t = numpyro.sample("t", dist.Uniform())
        return numpyro.sample("x", dist.Normal(t, 1.0))

    def steps():
        return 1.0 * numpyro.sample("t", dist.Categorical(jnp.ones(3) / 3))

    for bridge, message in ((no_time, "no site"), (still, "not depend"), (steps, "no site")):
        with pytest.raises(PathError, match=message):
            ppgen.seed(path_point(bridge))(jax.random.key(0))
    with pytest.raises(PathError, match="no site 'x0'"):
        coefficients(still)(0.5, jnp.zeros(2))


# --- regression -----------------------------------------------------------------------------------


def scalar_bridge(loc=1.0):
    t = numpyro.sample("t", dist.Uniform(0.1, 0.9))
    x1 = numpyro.sample("x1", dist.Normal(loc, 0.5))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
    return t * x1 + (1 - t) * x0


def linear(params, x, t):
    return params[0] + params[1] * x * t


PARAMS = jnp.array([0.4, -0.7])
WEIGHT = lambda t: 1 + t**2  # noqa: E731


@pytest.mark.long
def test_regression_is_unbiased_whatever_times_are_drawn():
    right = exact(regress(linear, scalar_bridge, weight=WEIGHT), nodes=24)
    proposal = logit_normal(0.3, 1.5)
    for law in (proposal, dist.Beta(2.0, 2.0)):
        proposed = regress(linear, scalar_bridge, weight=WEIGHT, proposal=law)
        assert_unbiased(proposed, PARAMS, exact=right, order=1, samples=50_000, detect=0.3)


@pytest.mark.long
def test_a_proposal_without_its_ratio_is_seen_to_be_biased():
    """The power of the test above."""

    def wrong_bridge():
        t = numpyro.sample("t", logit_normal(0.3, 1.5))
        x1 = numpyro.sample("x1", dist.Normal(1.0, 0.5))
        x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
        return t * x1 + (1 - t) * x0

    right = exact(regress(linear, scalar_bridge, weight=WEIGHT), nodes=24)
    with pytest.raises(AssertionError):
        wrong = regress(linear, wrong_bridge, weight=WEIGHT)
        assert_unbiased(wrong, PARAMS, exact=right, order=1, samples=50_000, detect=0.2)


def interpolant():
    """A stochastic interpolant: noise that vanishes at both ends."""
    t = numpyro.sample("t", dist.Uniform(0.1, 0.9))
    x1 = numpyro.sample("x1", dist.Normal(2.0, 0.5))
    x0 = numpyro.sample("x0", dist.Normal(-1.0, 0.3))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    return t * x1 + (1 - t) * x0 + jnp.sqrt(2 * t * (1 - t)) * z


def interpolant_score(x, t):
    variance = (0.5 * t) ** 2 + (0.3 * (1 - t)) ** 2 + 2 * t * (1 - t)
    return -(x - (2 * t - (1 - t))) / variance


def heavy():
    """Data of two points, and Student noise."""
    t = numpyro.sample("t", dist.Uniform(0.1, 0.9))
    x1 = 2 * numpyro.sample("side", dist.Bernoulli(0.3)) - 1.0
    return t * x1 + (1 - t) * numpyro.sample("x0", dist.StudentT(4.0))


def heavy_score(x, t):
    noised = lambda x: jnp.logaddexp(  # noqa: E731
        jnp.log(0.3) + dist.StudentT(4.0, t, 1 - t).log_prob(x),
        jnp.log(0.7) + dist.StudentT(4.0, -t, 1 - t).log_prob(x),
    )
    return jax.grad(noised)(x)


@pytest.mark.parametrize(
    ("bridge", "field", "options"),
    [
        (interpolant, interpolant_score, {"predict": "score", "noise": "z"}),
        (heavy, heavy_score, {"predict": "score"}),
    ],
)
def test_scores_are_the_minimum_also_of_three_sites_and_of_noise_with_tails(bridge, field, options):
    """The gradient vanishes at the score, and not at three tenths more."""

    def objective(params, size):
        def model(params, x, t):
            features = jnp.stack([jnp.ones(()), jnp.tanh(x), t * jnp.cos(x)])
            return size * field(x, t) + params @ features

        return regress(model, bridge, **options)(params)

    g = jax.grad(ppgen.expectation(objective), argnums=1)
    run = jax.jit(jax.vmap(lambda key, size: g(key, jnp.zeros(3), size), (0, None)))
    for size in (1.0, 1.3):
        found = np.asarray(run(jax.random.split(jax.random.key(0), 40_000), size), np.float64)
        z = np.abs(found.mean(0)) / found.std(0) * len(found) ** 0.5
        assert (z.max() < SIGMAS) == (size == 1)


def test_conditional_means_of_the_mixture_are_the_minimum():
    """Of a batch of times,"""

    def bridge():
        t = numpyro.sample("t", dist.Uniform(0.1 * jnp.ones(4), 0.9))[:, None]
        with numpyro.plate("rows", 4):
            x1 = numpyro.sample("x1", MIXTURE.distribution)
            x0 = numpyro.sample("x0", normal(2))
        return t * x1 + (1 - t) * x0

    one = bridge_of(*PATHS["rectified"], MIXTURE.distribution)
    decoder = decode(lambda x, t: MIXTURE.denoised(x, t, 1 - t), one, given="x1")

    def model(params, x, t):
        features = jnp.stack([jnp.ones_like(x), jnp.tanh(x), t[:, None] * x], -1)
        return jax.vmap(decoder)(x, t).velocity + features @ params

    g = jax.jit(jax.vmap(jax.grad(ppgen.expectation(regress(model, bridge)), argnums=1), (0, None)))
    found = np.asarray(g(jax.random.split(jax.random.key(0), 5000), jnp.zeros(3)), np.float64)
    assert np.all(np.abs(found.mean(0)) < SIGMAS * found.std(0) / len(found) ** 0.5)


def test_a_label_goes_to_the_model_and_antithetic_noise_keeps_the_mean():
    def bridge(datum):
        t = numpyro.sample("t", dist.Uniform())
        y = numpyro.sample("y", dist.Bernoulli(0.4))
        x1 = numpyro.sample("x1", dist.Normal(0.0, 1.0), obs=datum + y)
        x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
        return t * x1 + (1 - t) * x0

    model = lambda p, x, t, y, x1: p[0] * y + p[1] * x + 0.1 * x1  # noqa: E731
    plain = regress(model, bridge, predict="x1", inputs=("y", "x1"))
    mirrored = ppgen.with_estimators(plain, {"x0": ppgen.Antithetic()})

    def gradients(f):
        g = jax.grad(ppgen.expectation(f, draws=2), argnums=1)
        keys = jax.random.split(jax.random.key(0), 20_000)
        return np.asarray(jax.jit(jax.vmap(lambda key: g(key, PARAMS, 0.5)))(keys))

    one, two = gradients(plain), gradients(mirrored)
    error = np.sqrt((one.var(0) + two.var(0)) / len(one))
    assert np.all(np.abs(one.mean(0) - two.mean(0)) < SIGMAS * error)
    assert np.all(two.var(0) < one.var(0))


def test_what_a_regression_refuses():
    def run(objective, *args):
        return ppgen.expectation(objective)(jax.random.key(0), PARAMS, *args)

    def uniform():
        t = numpyro.sample("t", dist.Uniform())
        return t * numpyro.sample("x1", dist.Normal()) + numpyro.sample("x0", dist.Uniform())

    def reflow():
        t = numpyro.sample("t", dist.Uniform())
        x0 = numpyro.sample("x0", dist.Normal())
        x1 = numpyro.sample("x1", dist.Delta(jnp.sinh(x0)))
        return t * x1 + (1 - t) * x0

    def curved():
        t = numpyro.sample("t", dist.Uniform())
        x0 = numpyro.sample("x0", dist.Normal())
        return t * numpyro.sample("x1", dist.Normal()) + t * jnp.tanh(x0)

    for bridge, message in ((uniform, "discontinuous"), (reflow, "depend")):
        with pytest.raises(PathError, match=message):
            run(regress(linear, bridge, predict="score"))
    assert np.isnan(run(regress(linear, curved, predict="score")))
    with pytest.raises(PathError, match="no such site"):
        run(regress(linear, scalar_bridge, predict="x2"))
    with pytest.raises(PathError, match="no such site"):
        run(regress(linear, scalar_bridge, inputs=("y",)))
    with pytest.raises(PathError, match="shape"):
        run(regress(lambda p, x, t: p, scalar_bridge))
    # Pairs of a reflow have a velocity all the same.
    point = ppgen.seed(path_point(reflow))(jax.random.key(0))
    x0 = point.sites["x0"]
    np.testing.assert_allclose(point.velocity, jnp.sinh(x0) - x0, rtol=1e-5)


# --- times, couplings, data -----------------------------------------------------------------------


def test_densities_of_time(x64):
    t = jnp.linspace(0.05, 0.95, 7)
    edges = jnp.linspace(0.0, 1.0, 2001)
    middle = (edges[1:] + edges[:-1]) / 2

    def known(s):
        return dist.TransformedDistribution(
            dist.Normal(0.3, s), dist.transforms.SigmoidTransform()
        ).log_prob(t)

    @jax.jit
    def all_of_them(s):
        ours = lambda s: logit_normal(0.3, s).log_prob(t)  # noqa: E731
        return {
            "cosine": jnp.exp(cosine().log_prob(t)),
            "logit": (ours(s), jax.jacfwd(ours)(s)),
            "known": (known(s), jax.jacfwd(known)(s)),
            "mode": [jnp.exp(mode(a).log_prob(middle)) for a in (s, -0.5)],
            "draws": [mode(a).sample(jax.random.key(0), (20_000,)) for a in (s, -0.5)],
        }

    found = all_of_them(1.2)
    right = 2 / (jnp.pi * (1 - 2 * t + 2 * t**2))
    np.testing.assert_allclose(found["cosine"], right, rtol=1e-10)
    for ours, theirs in zip(found["logit"], found["known"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7)
    for density, drawn in zip(found["mode"], found["draws"], strict=True):
        assert abs(jnp.mean(density) - 1) < 1e-5
        error = drawn.std() / 20_000**0.5
        assert abs(drawn.mean() - jnp.mean(middle * density)) < SIGMAS * error


def test_optimal_pairs_are_the_best_of_all_permutations():
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = (jax.random.normal(key, (3, 5, 2)) for key in keys)
    found = jax.jit(jax.vmap(optimal_pairs))(a, b)
    for x0, x1, pairs in zip(a, b, found, strict=True):
        costs = {p: jnp.sum((x0 - x1[jnp.array(p)]) ** 2) for p in itertools.permutations(range(5))}
        assert tuple(pairs.tolist()) == min(costs, key=costs.get)
    # They jump: a derivative through them would be wrong in silence.
    with pytest.raises(PathError, match="discontinuously"):
        jax.grad(lambda s: jnp.sum(b[0][optimal_pairs(s * a[0], b[0])]))(1.0)


def test_regression_on_optimal_pairs():
    """Straighter than on independent ones: the target varies less where the point is known."""

    def bridge(coupled):
        t = numpyro.sample("t", dist.Uniform(jnp.zeros(16), 1.0))
        x0 = numpyro.sample("x0", dist.Normal(jnp.zeros((16, 1)), 1.0).to_event(1))
        batch = ppgen.draw(dist.Normal(jnp.full((16, 1), 3.0), 0.5))
        pairs = optimal_pairs(x0, batch) if coupled else jnp.arange(16)
        x1 = numpyro.sample("x1", dist.Delta(batch[pairs], event_dim=1))
        return t[:, None] * x1 + (1 - t[:, None]) * x0

    def transport(scale, x, t):  # along x1 = 3 + x0 / 2
        t = t[:, None]
        return scale * (3 - (x - 3 * t) / (1 - t / 2) / 2)

    value = ppgen.expectation(regress(transport, bridge), draws=100)
    loss = [jax.jit(value, static_argnums=2)(jax.random.key(1), 1.0, c) for c in (True, False)]
    assert loss[0] < 0.3 * loss[1]
    # The laws of both ends are fixed: parameters of the field have a derivative.
    jax.make_jaxpr(jax.grad(value, argnums=1), static_argnums=2)(jax.random.key(1), 1.0, True)


def test_student_noise_is_edm_with_many_degrees_and_poisson_flow_with_one(x64):
    data = jax.random.normal(jax.random.key(0), (50, 2)) * jnp.array([2.0, 0.5])
    x, t = jnp.array([1.5, -0.4]), 0.6
    alpha, sigma = PATHS["EDM"]
    law = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))

    def velocity(noise):
        bridge = bridge_of(alpha, sigma, law, noise=noise)
        decoder = decode(empirical_denoiser(bridge, data), bridge, given="x1")
        return jax.jit(lambda x, t: decoder(x, t).velocity)(x, t)

    edm = velocity(normal)
    np.testing.assert_allclose(velocity(student(1e5)), edm, atol=1e-3 * np.abs(edm).max())
    assert np.abs(velocity(student(10.0)) - edm).max() > 0.01 * np.abs(edm).max()
    # The field of electric charges at the data, in one dimension more: dx / dz = E_x / E_z.
    r = sigma(t)
    gaps = jnp.concatenate([x - data, jnp.full((50, 1), r)], 1)
    field = jnp.sum(gaps / jnp.sum(gaps**2, 1, keepdims=True) ** 1.5, 0)
    slope = jax.grad(sigma)(t)
    np.testing.assert_allclose(velocity(student(1.0)), slope * field[:2] / field[2], rtol=1e-9)


# --- score matching without noise -----------------------------------------------------------------


def test_score_matching_has_its_exact_value_and_gradient():
    program = lambda: numpyro.sample("x", dist.Normal(jnp.array([0.5, -1.0]), 0.8).to_event(1))  # noqa: E731
    score = lambda p, x: jnp.tanh(p[0] - x) + p[1] * x[::-1] * x  # noqa: E731
    implicit = implicit_score_matching(score, program)
    assert_unbiased(implicit, PARAMS, order=1, samples=100_000, detect=0.15)
    right = exact(implicit)
    sliced = sliced_score_matching(score, program, slices=3)
    assert_unbiased(sliced, PARAMS, exact=right, order=1, samples=100_000, detect=0.2)

    # By definition: half the squared distance to the score, up to a constant.
    def explicit(p):
        x = program()
        return 0.5 * jnp.sum((score(p, x) - (jnp.array([0.5, -1.0]) - x) / 0.64) ** 2)

    np.testing.assert_allclose(
        jax.grad(exact(explicit))(PARAMS), jax.grad(right)(PARAMS), rtol=1e-3
    )
