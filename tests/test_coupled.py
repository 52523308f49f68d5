"""Antithetic and quasi-Monte Carlo draws: unbiased, and better than independent ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen._sampling.quantiles import from_uniforms, has_quantiles, uniforms_needed
from ppgen._sampling.sobol import scrambled_sobol
from ppgen.errors import EstimatorError
from ppgen.estimators import Antithetic, LeaveOneOut, QuasiMonteCarlo, Reparameterize, ScoreFunction
from ppgen.testing import assert_unbiased

pytestmark = pytest.mark.sweep(of=3)

KEY = jax.random.key(0)
WEIGHTS = jnp.array([1.0, 0.5, -0.3, 0.8])
THETA = jnp.array([0.3, -0.2])


def smooth(estimator):
    def f(t):
        with numpyro.plate("N", 4):
            x = numpyro.sample("x", dist.Normal(t[0], jnp.exp(t[1])), infer={"grad": estimator})
        return jnp.sum(jnp.sin(x) * WEIGHTS) + 0.3 * jnp.sum(x) ** 2

    return f


def smooth_exact(t):
    mean, variance = t[0], jnp.exp(2 * t[1])
    odd = jnp.sum(WEIGHTS) * jnp.sin(mean) * jnp.exp(-variance / 2)
    return odd + 0.3 * (16 * mean**2 + 4 * variance)


@pytest.mark.parametrize(
    "estimator, draws",
    [
        (Antithetic(), 4),
        (QuasiMonteCarlo(), 4),
        (QuasiMonteCarlo(), 3),
        (Antithetic(), 1),
        (Antithetic(ScoreFunction()), 4),
        (QuasiMonteCarlo(ScoreFunction(baseline=0.7)), 4),
    ],
)
def test_unbiased(estimator, draws):
    """A cost with terms of one element and one of all, to second order."""
    score = isinstance(estimator.estimator, ScoreFunction)
    assert_unbiased(
        smooth(estimator),
        THETA,
        order=1 if score else 2,
        exact=smooth_exact,
        samples=40_000 if score else 8_000,
        detect=0.5,
        draws=draws,
    )


@pytest.mark.parametrize("kind", [Antithetic, QuasiMonteCarlo])
def test_discrete_choices_in_a_scan_and_lanes(kind):
    """Frozen samples: a scan, a vmap, and a product of two sites."""

    def f(t):
        def step(total, scale):
            b = ppgen.draw(dist.Bernoulli(logits=scale * t[0]), grad=kind(ScoreFunction()))
            return total + b, 1.0 * b

        total, _ = jax.lax.scan(step, 0, jnp.array([1.0, -0.5]))
        lane = lambda a: ppgen.draw(dist.Normal(a * t[1], 1.0), grad=kind())  # noqa: E731
        x = jax.vmap(lane)(jnp.array([1.0, 2.0]))
        return total**2 * (1 + x[0] * x[1])

    def exact(t):
        p, q = jax.nn.sigmoid(t[0]), jax.nn.sigmoid(-0.5 * t[0])
        return (p + q + 2 * p * q) * (1 + 2 * t[1] ** 2)

    assert_unbiased(f, THETA, order=1, exact=exact, samples=40_000, detect=0.6, draws=2)


def test_the_other_draws_are_no_baseline(monkeypatch):
    """Because they depend on this one: planted, it is caught."""

    def f(t):
        return ppgen.draw(dist.Bernoulli(logits=t), grad=Antithetic(ScoreFunction())) + 1.0

    exact = lambda t: jax.nn.sigmoid(t) + 1  # noqa: E731
    theta = jnp.array(0.2)
    assert_unbiased(f, theta, order=1, exact=exact, samples=5_000, detect=1.0, draws=2)
    monkeypatch.setattr(Antithetic, "leave_one_out", True)
    monkeypatch.setattr(Antithetic, "coupled", False)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(f, theta, order=1, exact=exact, samples=5_000, detect=1.0, draws=2)


def test_beside_a_site_with_a_leave_one_out_baseline():
    def f(t):
        a = ppgen.draw(dist.Bernoulli(logits=t[0]), grad=ScoreFunction())
        b = ppgen.draw(dist.Bernoulli(logits=t[1]), grad=Antithetic(ScoreFunction()))
        return (a + 2.0) * (b + 1.0)

    def exact(t):
        return (jax.nn.sigmoid(t[0]) + 2) * (jax.nn.sigmoid(t[1]) + 1)

    assert_unbiased(f, THETA, order=1, exact=exact, samples=10_000, detect=1.0, draws=2)


@pytest.mark.long
def test_a_wrong_quantile_is_caught(monkeypatch):
    """A planted bug: uniforms that are not uniform."""
    from ppgen.estimators import _coupled

    right = _coupled.uniform
    monkeypatch.setattr(_coupled, "uniform", lambda *args: 0.9 * right(*args) + 0.02)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(
            smooth(QuasiMonteCarlo()), THETA, order=1, exact=smooth_exact, detect=1.0, draws=4,
            samples=5_000,
        )  # fmt: skip


# --- variance


def variances(f, draws, runs=256):
    """Of the value and of the derivative."""
    g = jax.value_and_grad(ppgen.expectation(f, draws=draws), argnums=1)
    both = jax.jit(jax.vmap(g, (0, None)))(jax.random.split(KEY, runs), jnp.array(0.2))
    return np.array([np.var(np.asarray(x, np.float64)) for x in both])


def exponential(estimator):
    def f(t):
        x = ppgen.draw(dist.Normal(t * jnp.ones(4), 1.0), grad=estimator)
        return jnp.exp(0.3 * jnp.sum(x * WEIGHTS))

    return f


def test_quasi_monte_carlo_converges_faster():
    """A smooth integrand of four dimensions: the variance falls faster than 1 / K."""
    few, many = (variances(exponential(QuasiMonteCarlo()), k) for k in (16, 1024))
    plain = variances(exponential(Reparameterize()), 16)
    rate = np.log(few / many) / np.log(64)
    assert np.all(rate > 1.4)
    assert np.all(few < plain / 2)
    assert np.all(many < plain / 64 / 10)


def test_antithetic_draws_cancel_what_is_linear():
    linear = lambda t: 3 * ppgen.draw(dist.Normal(t, 1.0), grad=Antithetic()) + 1  # noqa: E731
    even = lambda t: ppgen.draw(dist.Normal(0 * t, 1.0), grad=Antithetic()) ** 2  # noqa: E731
    assert np.all(variances(linear, 2) < 1e-11)
    assert 0.7 < variances(even, 2, 2000)[0] / 2 < 1.3


# --- the pieces


def test_nets_are_nets():
    """Every interval of length 1/K has one point in each dimension; so have K boxes in two."""
    size = 64
    bits = jax.vmap(lambda i: scrambled_sobol(KEY, i, size, 5))(jnp.arange(size))
    strata = np.sort(np.asarray(bits >> 26), axis=0)
    np.testing.assert_array_equal(strata, np.arange(size)[:, None] * np.ones((1, 5)))
    pairs = {(int(a >> 29), int(b >> 29)) for a, b in bits[:, :2]}
    assert len(pairs) == size
    # Another key, another order and another scramble.
    other = jax.vmap(lambda i: scrambled_sobol(jax.random.key(1), i, size, 5))(jnp.arange(size))
    places = np.asarray(bits[:, 0] >> 26), np.asarray(other[:, 0] >> 26)
    assert len(set(zip(*places, strict=True))) == size
    assert abs(np.corrcoef(*places)[0, 1]) < 0.4


FAMILIES = {
    "normal": dist.Normal(0.3, 1.2),
    "uniform": dist.Uniform(-1.0, 2.0),
    "laplace": dist.Laplace(0.3, 1.2),
    "logistic": dist.Logistic(0.3, 1.2),
    "cauchy": dist.Cauchy(0.3, 1.2),
    "gumbel": dist.Gumbel(0.3, 1.2),
    "exponential": dist.Exponential(1.2),
    "half normal": dist.HalfNormal(1.2),
    "half cauchy": dist.HalfCauchy(1.2),
    "weibull": dist.Weibull(1.2, 1.5),
    "gompertz": dist.Gompertz(1.2, 0.7),
    "soft laplace": dist.SoftLaplace(0.2, 1.2),
    "asymmetric laplace": dist.AsymmetricLaplace(0.2, 1.1, 0.8),
    "log normal": dist.LogNormal(0.2, 0.6),
    "pareto": dist.Pareto(0.7, 3.0),
    "log uniform": dist.LogUniform(0.2, 1.5),
    "bernoulli": dist.Bernoulli(0.3),
    "bernoulli logits": dist.Bernoulli(logits=0.3),
    "categorical": dist.Categorical(jnp.array([0.2, 0.5, 0.3])),
    "multivariate": dist.MultivariateNormal(
        jnp.ones(2), scale_tril=jnp.array([[1.0, 0.0], [0.4, 0.8]])
    ),
}


@pytest.mark.parametrize("x64", [False, True])
def test_the_distribution_is_numpyros(x64):
    """Quantiles of the coupled sample against those of NumPyro's; types and shapes too."""
    n = 20_000
    estimator = QuasiMonteCarlo(ScoreFunction())
    assert all(map(has_quantiles, FAMILIES.values()))

    @jax.jit
    def samples(key):
        ours = {k: jax.vmap(lambda u, d=d: from_uniforms(d, u)) for k, d in FAMILIES.items()}
        u = {k: jax.random.uniform(key, (n, *uniforms_needed(d))) for k, d in FAMILIES.items()}
        types = {k: jax.eval_shape(estimator, key, d).value for k, d in FAMILIES.items()}
        return {k: (f(u[k]).astype(types[k].dtype), FAMILIES[k].sample(key, (n,)))
                for k, f in ours.items()}  # fmt: skip

    with jax.enable_x64(x64):
        for name, (ours, theirs) in samples(KEY).items():
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name
            for level in (0.1, 0.5, 0.9):
                at = np.quantile(theirs, level, axis=0)
                gap = (np.asarray(ours) <= at).mean(0) - (np.asarray(theirs) <= at).mean(0)
                assert np.all(abs(gap) < 5 * np.sqrt(0.5 / n)), name


def test_expanded_and_transformed():
    """One uniform variable for each element of the batch and event."""
    base = dist.Normal(jnp.zeros((3, 1)), 1.0).expand((2, 3, 4))
    mvn = FAMILIES["multivariate"].expand((5,))
    for d in (base, base.to_event(1), mvn, dist.TransformedDistribution(
        mvn, dist.transforms.ExpTransform())):  # fmt: skip
        shape = d.batch_shape + d.event_shape
        assert uniforms_needed(d) == shape
        assert from_uniforms(d, jnp.full(shape, 0.3)).shape == shape
        value = QuasiMonteCarlo()(KEY, d).value
        assert value.shape == shape and len(np.unique(value)) == value.size


def test_what_does_not_fit():
    fits = Antithetic().misfit(dist.Normal())
    assert fits is None
    assert "Gamma has no inverse" in Antithetic().misfit(dist.Gamma(1.0))
    assert "no pathwise" in Antithetic().misfit(dist.Bernoulli(0.3))
    score = Antithetic(ScoreFunction(LeaveOneOut()))
    assert "no baseline" in score.misfit(dist.Bernoulli(0.3))
    assert "couples" in QuasiMonteCarlo(Antithetic()).misfit(dist.Normal())
    assert "21,201" in QuasiMonteCarlo().misfit(dist.Normal().expand((30_000,)))
    with pytest.raises(EstimatorError, match="draws=4"):
        ppgen.expectation(smooth(Antithetic()), draws=3)(KEY, THETA)


def test_seed_and_check():
    """Outside of an expectation they are plain samples; a jump in the cost is still an error."""
    assert jnp.isfinite(ppgen.seed(smooth(QuasiMonteCarlo()))(KEY, THETA))

    def jump(t):
        return jnp.floor(ppgen.draw(dist.Normal(t, 1.0), grad=QuasiMonteCarlo()))

    with pytest.raises(ppgen.PpgenError, match="floor"):
        ppgen.expectation(jump)(KEY, 0.3)
