"""Log densities and their derivatives in single precision, over the range that it has.

For the families of the zoo, which is held against the table of families and against NumPyro by
`test_families` and `test_pathwise`, but for those that are named here: a family that is new there
is tested here. What is right is
the same formula in double precision, and that is SciPy's, where SciPy has the family.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import precision_edges
import pytest
import scipy.stats as st
import zoo
from scipy import special

from ppgen._distributions import gamma_functions, saddle_point
from ppgen.densities import log_prob

# Roundings, times the condition number: sums of ten terms, of functions of JAX's that are right to
# a few roundings.
BOUND = 64

# Whose derivatives lose digits still, by a parameter far from those that are usual (see the limits
# in the docs): terms of the size of its inverse cancel.
GRADIENTS_LOST = {"DoublyTruncatedPowerLaw", "Folded", "HurdleLogits", "RelaxedBernoulliLogits"}

# Whose densities do (see there too).
LOST = {
    "CAR",
    "GaussianCopula",
    "Kumaraswamy",
    "LeftTruncatedGamma",
    "MultivariateStudentT",
    "Pareto",
    "RightTruncatedGamma",
    "TwoSidedTruncatedCauchy",
    "TwoSidedTruncatedNormal",
    "VonMises",
    "Weibull",
}

# Nothing to differentiate by; no draw that is on the sphere when it is rounded; and those whose
# points take minutes to evaluate, or were not tried.
LEFT_OUT = {
    "Delta",
    "DiscreteUniform",
    "HurdlePoisson",
    "ProjectedNormal",
    "SineBivariateVonMises",
    "SineSkewed",
    "TransformedDiscrete",
    "TruncatedPolyaGamma",
    "WishartCholesky",
    "ZeroInflatedLogits",
    "ZeroInflatedPoisson",
}

# By a family of the zoo: SciPy's log density at a value, of the same parameters.
SCIPY = {
    "Beta": lambda x, a, b: st.beta.logpdf(x, a, b),
    "BetaBinomial": lambda x, a, b: st.betabinom.logpmf(x, 3, a, b),
    "BetaNegativeBinomial": lambda x, a, b, n: st.betanbinom.logpmf(x, n, b, a),
    "BetaProportion": lambda x, m, c: st.beta.logpdf(x, m * c, (1 - m) * c),
    "BinomialLogits": lambda x, a: st.binom.logpmf(x, 3, special.expit(a)),
    "BinomialProbs": lambda x, p: st.binom.logpmf(x, 3, p),
    "Cauchy": lambda x, m, s: st.cauchy.logpdf(x, m, s),
    "Chi2": lambda x, k: st.chi2.logpdf(x, k),
    "Exponential": lambda x, r: st.expon.logpdf(x, scale=1 / r),
    "Gamma": lambda x, a, r: st.gamma.logpdf(x, a, scale=1 / r),
    "GammaPoisson": lambda x, a, r: st.nbinom.logpmf(x, a, r / (1 + r)),
    "GeometricProbs": lambda x, p: st.geom.logpmf(x + 1, p),
    "Gompertz": lambda x, c, r: st.gompertz.logpdf(x, c, scale=1 / r),
    "Gumbel": lambda x, m, s: st.gumbel_r.logpdf(x, m, s),
    "HalfCauchy": lambda x, s: st.halfcauchy.logpdf(x, scale=s),
    "HalfNormal": lambda x, s: st.halfnorm.logpdf(x, scale=s),
    "InverseGamma": lambda x, a, r: st.invgamma.logpdf(x, a, scale=r),
    "Laplace": lambda x, m, s: st.laplace.logpdf(x, m, s),
    "Levy": lambda x, m, s: st.levy.logpdf(x, m, s),
    "LogNormal": lambda x, m, s: st.lognorm.logpdf(x, s, scale=np.exp(m)),
    "Logistic": lambda x, m, s: st.logistic.logpdf(x, m, s),
    "NegativeBinomialProbs": lambda x, n, p: st.nbinom.logpmf(x, n, 1 - p),
    "Normal": lambda x, m, s: st.norm.logpdf(x, m, s),
    "Pareto": lambda x, s, a: st.pareto.logpdf(x, a, scale=s),
    "Poisson": lambda x, r: st.poisson.logpmf(x, r),
    "StudentT": lambda x, k, m, s: st.t.logpdf(x, k, m, s),
    "VonMises": lambda x, m, c: st.vonmises.logpdf(x, c, m),
    "Weibull": lambda x, s, c: st.weibull_min.logpdf(x, c, scale=s),
}


@pytest.mark.sweep(quick=["Beta", "Gamma", "Poisson", "Cauchy"])
@pytest.mark.parametrize("name", sorted(zoo.ALL.keys() - LEFT_OUT - LOST))
def test_values_and_derivatives(name):
    """At draws of tiny and large parameters, in both tails, and near the ends of the support."""
    points = precision_edges.edge_points(name)
    right = precision_edges.evaluate(name, points, "float64")
    found = precision_edges.evaluate(name, points, "float32")
    for what, excess in zip(
        ("value", "gradient"), precision_edges.excess(found, right), strict=True
    ):
        if what == "gradient" and name in GRADIENTS_LOST:
            continue
        worst = np.unravel_index(np.argmax(excess), excess.shape)
        i = worst[0]
        assert excess[worst] < BOUND, (
            f"{what} of {name}{tuple(points.theta[i])} at {points.values[i]}: "
            f"{getattr(found, what)[i]}, not {getattr(right, what)[i]}"
        )


@pytest.mark.sweep(of=14)
@pytest.mark.parametrize("name", SCIPY)
def test_double_precision_is_scipys(name):
    """At the zoo's parameters, and near the ends of the support."""
    make, at = zoo.ALL[name]
    with jax.enable_x64(True):
        d = make(*map(jnp.float64, at))
        if d.support.is_discrete:
            x = jnp.arange(4)
        else:
            x = dist.biject_to(d.support)(jnp.array([-20.0, -3.0, -0.4, 0.7, 2.0, 20.0]))
        found, right = np.asarray(log_prob(d, x)), SCIPY[name](np.asarray(x), *at)
        # Some of SciPy's take the logarithm of a density that has underflowed.
        seen = np.isfinite(right)
        assert np.all(found[~seen] < -700) and np.sum(seen) >= 3
        np.testing.assert_allclose(found[seen], right[seen], rtol=1e-10, atol=1e-10)


SHAPES = np.array([1e-6, 1e-3, 0.49, 0.51, 1.0, 1.49, 1.51, 3.0, 9.99, 10.01, 300.0, 1e6])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gamma_functions(dtype):
    """Against SciPy's, which are right to 1e-15, in roundings of what their arguments do."""
    shapes = SHAPES.astype(np.float32).astype(np.float64)
    k, m = (x.ravel() for x in np.meshgrid(shapes, shapes))
    with jax.enable_x64(dtype == "float64"):
        eps = float(jnp.finfo(dtype).eps) + 1e-14  # of SciPy's sums
        a, b = jnp.asarray(k, dtype), jnp.asarray(m, dtype)
        value, by_k, by_m = jax.jit(
            jax.vmap(
                lambda k, m: (
                    saddle_point.log_poisson(k, m),
                    *jax.grad(saddle_point.log_poisson, (0, 1))(k, m),
                )
            )
        )(a, b)
        difference = saddle_point.digamma_difference(a, b)
        log_beta = gamma_functions.log_beta(a, b)
        less = saddle_point.log1p_less(a)
    found = (value, by_k, by_m, difference, log_beta, less)
    value, by_k, by_m, difference, log_beta, less = (np.asarray(x, float) for x in found)
    exact = special.xlogy(k, m) - m - special.gammaln(k + 1)
    slope = np.log(m) - special.psi(k + 1)
    # SciPy's own formula loses the digits of what it subtracts.
    lost = 1e-15 * (k + m) * np.log(k + m + 1)
    size = abs(exact) + k * abs(slope) + abs(k - m) + 1
    assert np.all(abs(value - exact) < 32 * eps * size + 8 * lost)
    assert np.all(abs(by_k - slope) < 32 * eps * (abs(slope) + 1 + k * special.polygamma(1, k + 1)))
    assert np.all(abs(by_m - (k - m) / m) <= 8 * eps * (k / m + 1))
    wanted = special.psi(k + m) - special.psi(k)
    assert np.all(abs(difference - wanted) < 32 * eps * wanted + 1e-13 * (1 + abs(special.psi(k))))
    wanted = special.betaln(k, m)
    size = abs(wanted) + np.minimum(k, m) * 20 + 1
    assert np.all(abs(log_beta - wanted) < 32 * eps * size + lost)
    np.testing.assert_allclose(less, np.log1p(k) - k, rtol=64 * eps, atol=1e-16)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Gamma", lambda d, x: d.log_prob(x)),
        ("Cauchy", lambda d, x: d.log_prob(x)),
    ],
)
def test_the_plain_formula_is_found_out(name, plain, monkeypatch):
    """NumPyro's own densities do not pass."""
    monkeypatch.setattr(precision_edges, "log_prob", plain)
    points = precision_edges.edge_points(name)
    right = precision_edges.evaluate(name, points, "float64")
    found = precision_edges.evaluate(name, points, "float32")
    assert max(np.max(x) for x in precision_edges.excess(found, right)) > BOUND
