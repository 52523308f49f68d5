"""Gamma, Beta and Dirichlet variables of small concentrations: draws, densities and scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from scipy import special

import ppgen
from ppgen import Reparameterize, ScoreFunction
from ppgen._sampling.log_gamma import slope
from ppgen._sampling.log_scale import split_log_scale
from ppgen.inference import elbo

KEY = jax.random.key(4)
DRAWS = 4000
PRECISIONS = ("float32", "float64")
SMALL = (1e-3, 1e-2, 0.1)


def dirichlet(a):
    return [a, 2 * a, 1.5 * a]


# By a concentration: the distribution, and its entropy in double precision.
FAMILIES = {
    "gamma": (lambda a: dist.Gamma(a, 2.0), lambda a: st.gamma.entropy(a, scale=0.5)),
    "chi2": (lambda a: dist.Chi2(2 * a), lambda a: st.chi2.entropy(2 * a)),
    "inverse gamma": (
        lambda a: dist.InverseGamma(a, 2.0),
        lambda a: st.invgamma.entropy(a, scale=2.0),
    ),
    "beta": (lambda a: dist.Beta(a, 1.5 * a), lambda a: st.beta.entropy(a, 1.5 * a)),
    "proportion": (
        lambda a: dist.BetaProportion(0.25, 4 * a),
        lambda a: st.beta.entropy(a, 3 * a),
    ),
    "dirichlet": (
        lambda a: dist.Dirichlet(jnp.stack(dirichlet(a))),
        lambda a: st.dirichlet.entropy(dirichlet(a)),
    ),
}


def close(found, exact, slack=1e-5):
    """Within five standard errors: one false alarm in two million."""
    found = np.asarray(found, np.float64)
    assert np.all(np.isfinite(found))
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - exact) < 5 * error + slack * abs(exact)


def difference(f, a):
    return (f(a * (1 + 1e-4)) - f(a * (1 - 1e-4))) / (2e-4 * a)


@pytest.mark.sweep(quick=["float32-gamma", "float32-beta", "float32-dirichlet"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_log_densities_and_scores_at_draws(name, dtype):
    """The mean log density is minus the entropy, and the mean score is zero."""
    make, entropy = FAMILIES[name]

    def one(key, a):
        base, _ = split_log_scale(make(a))
        y = jax.lax.stop_gradient(base.sample(key))
        return jax.value_and_grad(lambda a: split_log_scale(make(a))[0].log_prob(y))(a)

    with jax.enable_x64(dtype == "float64"):
        run = jax.jit(jax.vmap(one, (0, None)))
        for a in SMALL:
            value, score = run(jax.random.split(KEY, DRAWS), jnp.asarray(a, dtype))
            close(value, -entropy(a))
            close(score, 0.0)


@pytest.mark.sweep(quick=["float32-beta-ScoreFunction", "float32-gamma-Reparameterize"])
@pytest.mark.parametrize("estimator", [ScoreFunction, Reparameterize])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_entropies_have_their_slopes(name, dtype, estimator):
    """Of a site's own log density, by either estimator."""
    make, entropy = FAMILIES[name]

    def program(a):
        numpyro.sample("z", make(a), infer={"grad": estimator()})

    def minus_entropy(a):
        return ppgen.simulate(program)(a).log_density

    with jax.enable_x64(dtype == "float64"):
        g = jax.value_and_grad(ppgen.expectation(minus_entropy), argnums=1)
        run = jax.jit(jax.vmap(g, (0, None)))
        for a in SMALL:
            value, gradient = run(jax.random.split(KEY, DRAWS), jnp.asarray(a, dtype))
            close(value, -entropy(a))
            close(gradient, -difference(entropy, a))


def cost(z):
    cos, tanh = (np.cos, np.tanh) if isinstance(z, np.ndarray) else (jnp.cos, jnp.tanh)
    return cos(2 * z) + tanh(z) ** 2


def mean_cost(name, a):
    """By quadrature on the log scale, and the two ends, where the cost is what it is there."""
    y, step = np.linspace(-30, 30, 60_001, retstep=True)
    x, jacobian = np.exp(y), np.exp(y)
    law = st.gamma(a, scale=0.5)
    if name == "beta":
        x, jacobian = special.expit(y), special.expit(y) * special.expit(-y)
        law = st.beta(a, 1.5 * a)
        log_density = (a - 1) * special.log_expit(y) + (1.5 * a - 1) * special.log_expit(-y)
        density = np.exp(log_density - special.betaln(a, 1.5 * a))
    else:
        density = law.pdf(x)
    inside = np.sum(cost(x) * density * jacobian) * step
    return inside + law.cdf(np.exp(-30)) * cost(np.zeros(()))


@pytest.mark.sweep(quick=["float32-beta-ScoreFunction", "float32-gamma-Reparameterize"])
@pytest.mark.parametrize("estimator", [ScoreFunction, Reparameterize])
@pytest.mark.parametrize("name", ["gamma", "beta"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_costs_have_their_slopes(name, dtype, estimator):
    """Of a draw that is no site; against quadrature."""
    make, _ = FAMILIES[name]
    with jax.enable_x64(dtype == "float64"):
        f = ppgen.expectation(lambda a: cost(ppgen.draw(make(a), grad=estimator())))
        run = jax.jit(jax.vmap(jax.value_and_grad(f, argnums=1), (0, None)))
        for a in SMALL:
            value, gradient = run(jax.random.split(KEY, 20_000), jnp.asarray(a, dtype))
            if name == "beta":  # at its other end too
                upper = lambda a: st.beta.cdf(np.exp(-30), 1.5 * a, a) * cost(np.ones(()))  # noqa: E731
            else:
                upper = lambda a: 0.0  # noqa: E731
            exact = lambda a: mean_cost(name, a) + upper(a)  # noqa: E731, B023
            close(value, exact(a))
            close(gradient, difference(exact, a), slack=1e-3)


def _kl_gamma(a, b):
    """Of Gamma(a, 2) from Gamma(b, 1)."""
    return (
        (a - b) * special.psi(a) - special.gammaln(a) + special.gammaln(b) + b * np.log(2) - a / 2
    )


def _kl_dirichlet(a, b):
    a, b = np.asarray(a), np.asarray(b)
    norm = special.gammaln(a.sum()) - special.gammaln(a).sum()
    norm = norm - special.gammaln(b.sum()) + special.gammaln(b).sum()
    return norm + np.sum((a - b) * (special.psi(a) - special.psi(a.sum())))


BOUNDS = {
    "gamma": (FAMILIES["gamma"][0], lambda: dist.Gamma(2e-3, 1.0), lambda a: _kl_gamma(a, 2e-3)),
    "inverse gamma": (
        FAMILIES["inverse gamma"][0],
        lambda: dist.InverseGamma(2e-3, 1.0),
        lambda a: _kl_gamma(a, 2e-3),
    ),
    "beta": (
        FAMILIES["beta"][0],
        lambda: dist.Beta(2e-3, 1e-3),
        lambda a: _kl_dirichlet([a, 1.5 * a], [2e-3, 1e-3]),
    ),
    "dirichlet": (
        FAMILIES["dirichlet"][0],
        lambda: dist.Dirichlet(jnp.array([2e-3, 1e-3, 1e-3])),
        lambda a: _kl_dirichlet(dirichlet(a), [2e-3, 1e-3, 1e-3]),
    ),
}


@pytest.mark.sweep(quick=["plate-ScoreFunction-beta"])
@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("estimator", [ScoreFunction, Reparameterize])
@pytest.mark.parametrize("around", ["nothing", "plate"])
def test_a_bound_knows_the_density_of_a_value_that_underflowed(name, estimator, around):
    """The model's density of what the guide has drawn, in single precision."""
    make, prior, kl = BOUNDS[name]
    size = 3 if around == "plate" else 1

    def site(d, **options):
        if around == "plate":
            with numpyro.plate("n", 3):
                numpyro.sample("z", d, **options)
        else:
            numpyro.sample("z", d, **options)

    bound = elbo(lambda a: site(prior()), lambda a: site(make(a), infer={"grad": estimator()}))
    g = jax.value_and_grad(ppgen.expectation(bound), argnums=1)
    value, gradient = jax.jit(jax.vmap(g, (0, None)))(jax.random.split(KEY, DRAWS), 1.2e-3)
    close(value, -size * kl(1.2e-3))
    close(gradient, -size * difference(kl, 1.2e-3))


def test_a_frozen_value_behind_other_maps():
    """Where ends move too, the choice behind the map is on the log scale."""

    def f(t):
        d = dist.TransformedDistribution(
            dist.Beta(t, 2 * t), dist.transforms.AffineTransform(0.0, 1.0 + t)
        )
        return ppgen.draw(d, grad=ScoreFunction())

    g = jax.jit(jax.vmap(jax.grad(ppgen.expectation(f), argnums=1), (0, None)))
    close(g(jax.random.split(KEY, DRAWS), 1e-3), 1 / 3)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_logs_of_gamma_variables_follow_their_quantiles(dtype):
    """On both sides of where the distribution function is a power, and far below zero."""
    a = np.array([0.1, 0.1, 0.1, 0.5, 0.5, 3.0, 40.0])
    u = np.array([1e-3, 0.3, 0.7, 0.01, 0.6, 0.4, 0.9])
    a, u = np.append(a, [0.05] * 60), np.append(u, np.linspace(0.35, 0.7, 60))
    y = np.log(special.gammaincinv(a, u))
    h = 1e-5 * a
    up, down = (np.log(special.gammaincinv(a + s * h, u)) for s in (1, -1))
    with jax.enable_x64(dtype == "float64"):
        found = slope(jnp.asarray(y, dtype), jnp.asarray(a, dtype))
        np.testing.assert_allclose(found, (up - down) / (2 * h), rtol=1e-3)
        # With a distribution function of x**a / Gamma(a + 1).
        y, a = jnp.asarray([-1e3, -3e4], dtype), jnp.asarray([1e-3, 1e-4], dtype)
        np.testing.assert_allclose(slope(y, a), (special.psi(1 + a) - y) / a, rtol=1e-5)
