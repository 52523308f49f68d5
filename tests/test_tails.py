"""Numbers at the edges: hidden data, tails of truncated normals, rare categories, zero weights."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import special

import ppgen
from ppgen._distributions.normal_tails import log_inverse_mills, log_ndtr
from ppgen._sampling.normal_quantiles import ndtri_of_logs
from ppgen._sampling.truncated_draws import with_tails
from ppgen.densities import log_prob
from ppgen.errors import ChoiceMismatchError
from ppgen.inference import elbo, iwelbo

KEY = jax.random.key(0)
PRECISIONS = {"float32": 1e-5, "float64": 1e-9}


@contextlib.contextmanager
def precision(dtype):
    with jax.enable_x64(dtype == "float64"):
        yield PRECISIONS[dtype]


# --- data that a mask hides -----------------------------------------------------------------------

MASK = jnp.array([True, False])
HIDDEN = {
    "normal": (lambda t: dist.Normal(t, 1.0), 0.3),
    "gamma": (lambda t: dist.Gamma(t, 2.0), 0.3),
    "beta": (lambda t: dist.Beta(t, 2.0), 0.3),
    "student": (lambda t: dist.StudentT(3.0, t, 1.0), 0.3),
    "log_normal": (lambda t: dist.LogNormal(t, 1.0), 0.3),
    "truncated": (lambda t: dist.TruncatedNormal(t, 1.0, low=0.1), 0.3),
    "poisson": (lambda t: dist.Poisson(t), 2.0),
    "bernoulli": (lambda t: dist.Bernoulli(logits=t), 1.0),
    "vector": (lambda t: dist.MultivariateNormal(t * jnp.ones(2), jnp.eye(2)), [0.3, 0.1]),
    "simplex": (lambda t: dist.Dirichlet(t * jnp.ones(2)), [0.3, 0.7]),
    "mixture": (
        lambda t: dist.MixtureSameFamily(
            dist.Categorical(jnp.ones(2) / 2), dist.Normal(t * jnp.arange(2.0), 1.0)
        ),
        0.3,
    ),
}


@pytest.mark.parametrize("way", ["handler", "distribution"])
@pytest.mark.parametrize("name", HIDDEN)
def test_missing_data_reach_neither_the_value_nor_the_derivative(name, way):
    make, seen = HIDDEN[name]
    seen = jnp.asarray(seen, float)
    x = jnp.stack([seen, jnp.full(seen.shape, jnp.nan)])

    def model(t):
        with numpyro.plate("n", 2):
            if way == "distribution":
                numpyro.sample("x", make(t).expand([2]).mask(MASK), obs=x)
            else:
                with handlers.mask(mask=MASK):
                    numpyro.sample("x", make(t), obs=x)

    found = jax.value_and_grad(lambda t: ppgen.log_density(model)({}, t))(1.5)
    right = jax.value_and_grad(lambda t: log_prob(make(t), seen))(1.5)
    np.testing.assert_allclose(found, right, rtol=1e-5)


def test_missing_data_by_obs_mask():
    def model(t):
        numpyro.sample(
            "x", dist.Normal(t, 1.0).expand([2]), obs=jnp.array([0.3, jnp.nan]), obs_mask=MASK
        )

    def run(t):
        trace = ppgen.seed(ppgen.simulate(model))(KEY, t)
        return trace.log_probs["x_observed"].sum(), trace.log_density

    found = jax.jacfwd(run)(1.0)
    np.testing.assert_allclose(found[0], -0.7, rtol=1e-5)
    assert jnp.isfinite(found[1])


@pytest.mark.parametrize("objective", [elbo, lambda m, g: iwelbo(m, g, particles=2)])
def test_a_mask_that_only_the_model_has_is_refused(objective):
    """Not where the guide has it too, as the advice says."""

    def model(t):
        numpyro.sample("x", dist.Normal().expand([2]), obs=jnp.array([0.3, 0.0]), obs_mask=MASK)

    def guide(t):
        numpyro.sample("x_unobserved", dist.Normal(t, 1.0).expand([2]))

    def masked(t):
        with handlers.mask(mask=~MASK):
            guide(t)

    with pytest.raises(ChoiceMismatchError, match="masked") as caught:
        ppgen.expectation(objective(model, guide))(KEY, 0.3)
    assert "handlers.mask" in str(caught.value)
    assert jnp.isfinite(ppgen.expectation(objective(model, masked))(KEY, 0.3))


# --- the normal distribution function in its tails ------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_tails_of_the_normal_distribution(dtype):
    x = np.array([-3e3, -900, -30, -20.01, -19.99, -6.01, -5.99, -1, 0, 1])
    log_p = np.array([-1e6, -800.0, -98.0, -20.0, -3.0, -1.0, -0.7, -0.6, -1e-3])
    mills = np.sqrt(2 / np.pi) / special.erfcx(-x / np.sqrt(2))
    quantile = special.ndtri_exp(log_p)
    with precision(dtype) as tolerance:
        at = jnp.asarray(x, dtype)
        np.testing.assert_allclose(log_ndtr(at), special.log_ndtr(x), rtol=tolerance)
        np.testing.assert_allclose(jnp.exp(log_inverse_mills(at)), mills, rtol=tolerance)
        np.testing.assert_allclose(jax.vmap(jax.grad(log_ndtr))(at), mills, rtol=tolerance)
        second = jax.vmap(jax.grad(jax.grad(log_ndtr)))(at)
        np.testing.assert_allclose(second, -mills * (mills + x), rtol=3e-4)
        at = jnp.asarray(log_p, dtype)
        other = np.log(-np.expm1(log_p)).astype(dtype)
        np.testing.assert_allclose(ndtri_of_logs(at, other), quantile, rtol=tolerance)
        slopes = jax.vmap(jax.grad(lambda p: ndtri_of_logs(p, jnp.log(-jnp.expm1(p)))))(at[:-1])
    right = np.exp(log_p + 0.5 * quantile**2 + 0.5 * np.log(2 * np.pi))[3:-1]
    np.testing.assert_allclose(slopes[3:], right, rtol=1e-4)


BOUNDS = [(5.0, None), (12.0, None), (30.0, None), (None, -20.0), (8.0, 9.0), (-30.0, -29.0)]
BOUNDS += [(-1.0, 1.0), (-1.0, 40.0), (None, 1.0)]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("ends", BOUNDS)
def test_draws_of_truncated_normals(ends, dtype):
    """Between the bounds, with the right mean, and moving as their quantiles do."""
    low, high = ends
    low, high = (-np.inf if low is None else low, np.inf if high is None else high)

    def moments(loc):
        # Of the mass on the side of the mode, scaled: a quadrature in double precision.
        a, b = max(low, -40.0), min(high, 40.0)
        nearest = np.clip(loc, a, b)
        reach = 12 / max(1.0, abs(nearest - loc))
        x = np.linspace(max(a, nearest - reach), min(b, nearest + reach), 200_001)
        w = np.exp(-0.5 * (x - loc) ** 2 + 0.5 * (nearest - loc) ** 2)
        mean = np.trapezoid(w * x, x) / np.trapezoid(w, x)
        return mean, np.sqrt(np.trapezoid(w * (x - mean) ** 2, x) / np.trapezoid(w, x))

    mean, deviation = moments(0.0)
    slope = (moments(1e-3)[0] - moments(-1e-3)[0]) / 2e-3
    with precision(dtype):

        def draw(key, loc):
            d = dist.TruncatedNormal(loc, jnp.ones((), dtype), low=ends[0], high=ends[1])
            return ppgen.expectation(lambda: ppgen.draw(d))(key)

        keys, loc = jax.random.split(KEY, 4000), jnp.zeros((), dtype)
        x, moves = jax.jit(jax.vmap(jax.value_and_grad(draw, argnums=1), (0, None)))(keys, loc)
        x, moves = (np.asarray(v, np.float64) for v in (x, moves))
    assert np.all((x >= low) & (x <= high))
    assert abs(x.mean() - mean) < 5 * deviation / np.sqrt(4000)
    assert abs(moves.mean() - slope) < 5 * moves.std() / np.sqrt(4000) + 1e-6


def test_frozen_draws_have_the_tails_too():
    d = with_tails(dist.TruncatedNormal(0.0, 1.0, low=30.0).expand([3]).to_event(1))
    assert jnp.all(jnp.isfinite(d.sample(KEY)))
    program = lambda: ppgen.draw(dist.TruncatedNormal(low=30.0), grad=ppgen.ScoreFunction())  # noqa: E731
    assert 30 < ppgen.expectation(program)(KEY) < 31


# --- rare categories, mixtures --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("cuts", [[-1.0, 1.0], [0.0, 1e-4, 3.0], [2.0]])
def test_ordered_categories_that_underflow(cuts, dtype):
    cuts = np.float64(np.float32(cuts))

    def exact(eta):
        below = np.concatenate([[-np.inf], cuts - eta, [np.inf]])
        a, b = below[:-1], below[1:]
        gap = np.log(-np.expm1(np.concatenate([[-np.inf], -np.diff(cuts), [-np.inf]])))
        return special.log_expit(b) + special.log_expit(-a) + gap

    at, k = np.array([0.0, 3.0, 20.0, -100.0, 1e4]), np.arange(len(cuts) + 1)
    with precision(dtype) as tolerance:

        def density(eta, k):
            return log_prob(dist.OrderedLogistic(eta, jnp.asarray(cuts, dtype)), k)

        both = jax.vmap(jax.vmap(jax.value_and_grad(density), (None, 0)), (0, None))
        value, slope = jax.jit(both)(jnp.asarray(at, dtype), k)
    right = np.stack([exact(eta) for eta in at])
    # (What is close to zero nats is so up to a rounding of one.)
    np.testing.assert_allclose(value, right, rtol=tolerance, atol=1e-7)
    h = 1e-5
    right = np.stack([(exact(eta + h) - exact(eta - h)) / (2 * h) for eta in at])
    np.testing.assert_allclose(slope, right, rtol=1e-3, atol=1e-5)


def test_components_without_density_at_a_value():
    def model(t):
        parts = [dist.Normal(t, 1.0), dist.LogNormal(t, 1.0), dist.Gamma(t, 1.0)]
        mixing = dist.Categorical(logits=jnp.stack([0.0 * t, t, -t]))
        return dist.MixtureGeneral(mixing, parts, support=dist.constraints.real)

    def exact(t):
        return jax.nn.log_softmax(jnp.stack([0.0 * t, t, -t]))[0] + dist.Normal(t).log_prob(-0.3)

    found = jax.value_and_grad(lambda t: log_prob(model(t), -0.3))(0.5)
    np.testing.assert_allclose(found, jax.value_and_grad(exact)(0.5), rtol=1e-5)


def test_weights_of_zero_have_derivatives():
    def density(p, x):
        mixing = dist.Categorical(probs=jnp.stack([p, 1 - p]))
        d = dist.MixtureSameFamily(mixing, dist.Normal(jnp.array([0.0, 1.0]), 1.0))
        return log_prob(d, x)

    for p, side in ((0.0, 1), (1.0, -1)):
        for x in (0.3, 30.0):
            found = jax.grad(density)(p, x)
            ratio = np.exp(-0.5 * x**2 + 0.5 * (x - 1) ** 2)  # of the two densities
            right = ratio - 1 if side > 0 else 1 - 1 / ratio
            np.testing.assert_allclose(found, right, rtol=1e-4)


def test_impossible_logits():
    def density(t):
        logits = jnp.array([0.0, -jnp.inf, 0.0]) + t * jnp.arange(3.0)
        mixing = dist.Categorical(logits=logits, validate_args=False)
        return log_prob(dist.MixtureSameFamily(mixing, dist.Normal(jnp.arange(3.0), 1.0)), 0.3)

    def exact(t):
        terms = jax.nn.log_softmax(jnp.stack([0.0 * t, 2 * t])) + jnp.stack(
            [dist.Normal(m, 1.0).log_prob(0.3) for m in (0.0, 2.0)]
        )
        return jax.nn.logsumexp(terms)

    np.testing.assert_allclose(
        jax.value_and_grad(density)(0.7), jax.value_and_grad(exact)(0.7), rtol=1e-5
    )


def test_at_a_point_mass_only_the_point_counts():
    def density(t, x):
        mixing = dist.Categorical(logits=jnp.stack([0.0 * t, t]))
        parts = [dist.Delta(0.0), dist.Normal(t, 1.0)]
        return log_prob(dist.MixtureGeneral(mixing, parts, support=dist.constraints.real), x)

    np.testing.assert_allclose(density(0.7, 0.0), jax.nn.log_sigmoid(-0.7), rtol=1e-6)
    elsewhere = jax.nn.log_sigmoid(0.7) + dist.Normal(0.7).log_prob(0.3)
    np.testing.assert_allclose(density(0.7, 0.3), elsewhere, rtol=1e-6)


def test_a_mask_that_hides_nothing_is_none():
    """`mask=True` in the model alone: nothing is in the one density and not in the other."""

    def model():
        with numpyro.handlers.mask(mask=True):
            numpyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        numpyro.sample("z", dist.Normal(0.0, 1.0))

    assert ppgen.expectation(elbo(model, guide))(jax.random.key(0)) == 0.0
