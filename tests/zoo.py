"""Every NumPyro distribution, made from a tuple of scalar parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import transforms

L = np.array([[1.0, 0.0], [0.4, 0.8]])
ADJACENT = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
ONES = np.ones(2)


def _correlation(r: Any) -> Any:
    return jnp.stack([jnp.array([1.0, 0.0]), jnp.stack([r, jnp.sqrt(1 - r**2)])])


def _pair(p: Any) -> Any:
    return jnp.stack([p, 1 - p])


Make = Callable[..., dist.Distribution]

# Differentiable samplers, with a support that does not depend on the parameters.
PATHWISE: dict[str, tuple[Make, tuple[float, ...]]] = {
    "AsymmetricLaplace": (dist.AsymmetricLaplace, (0.2, 1.1, 0.8)),
    "AsymmetricLaplaceQuantile": (dist.AsymmetricLaplaceQuantile, (0.2, 1.1, 0.4)),
    "Beta": (dist.Beta, (1.5, 2.0)),
    "BetaProportion": (dist.BetaProportion, (0.4, 3.0)),
    "CAR": (lambda m, c, p: dist.CAR(m * np.ones(3), c, p, ADJACENT), (0.2, 0.3, 1.2)),
    "Cauchy": (dist.Cauchy, (0.2, 1.0)),
    "Chi2": (dist.Chi2, (3.0,)),
    "CirculantNormal": (
        lambda m, s: dist.CirculantNormal(
            m * np.ones(3), covariance_rfft=s * jnp.array([1.0, 0.5])
        ),
        (0.2, 0.8),
    ),
    "Dagum": (dist.Dagum, (1.5, 2.5, 1.1)),
    "Dirichlet": (lambda a: dist.Dirichlet(a * jnp.array([1.0, 2.0, 0.5])), (1.3,)),
    "EulerMaruyama": (
        lambda a, s: dist.EulerMaruyama(
            jnp.array([0.0, 0.3, 0.7]), lambda x, t: (-a * x, s), dist.Normal(a, 1.0)
        ),
        (0.8, 0.5),
    ),
    "Expanded": (lambda m, s: dist.Normal(m, s).expand((2,)).to_event(1), (0.2, 1.2)),
    "Exponential": (dist.Exponential, (1.3,)),
    "Folded": (lambda m, s: dist.FoldedDistribution(dist.Normal(m, s)), (0.3, 1.2)),
    "Gamma": (dist.Gamma, (1.5, 2.0)),
    "GaussianCopula": (
        lambda m, r: dist.GaussianCopula(
            dist.Normal(m * ONES, 1.0), correlation_cholesky=_correlation(r)
        ),
        (0.2, 0.4),
    ),
    "GaussianRandomWalk": (lambda s: dist.GaussianRandomWalk(s, 3), (1.2,)),
    "GaussianStateSpace": (
        lambda a, s: dist.GaussianStateSpace(
            3, a * jnp.array([[0.5, 0.1], [0.0, 0.4]]), scale_tril=s * L
        ),
        (1.0, 0.7),
    ),
    "Gompertz": (dist.Gompertz, (1.2, 0.7)),
    "Gumbel": (dist.Gumbel, (0.2, 1.3)),
    "HalfCauchy": (dist.HalfCauchy, (1.2,)),
    "HalfNormal": (dist.HalfNormal, (1.2,)),
    "InverseGamma": (dist.InverseGamma, (3.0, 2.0)),
    "Kumaraswamy": (dist.Kumaraswamy, (1.2, 0.7)),
    "LKJCholesky": (lambda c: dist.LKJCholesky(3, c), (1.3,)),
    "Laplace": (dist.Laplace, (0.2, 1.3)),
    "LogNormal": (dist.LogNormal, (0.2, 0.6)),
    "Logistic": (dist.Logistic, (0.2, 0.6)),
    "LowRankMultivariateNormal": (
        lambda m, f, d: dist.LowRankMultivariateNormal(m * ONES, f * np.ones((2, 1)), d * ONES),
        (0.2, 0.8, 0.5),
    ),
    "Masked": (lambda m, s: dist.Normal(m, s).mask(np.array(True)), (0.2, 1.2)),
    "MatrixNormal": (
        lambda m, r, c: dist.MatrixNormal(m * np.ones((2, 2)), r * L, c * L),
        (0.2, 1.0, 0.8),
    ),
    "MixtureSameFamily": (
        lambda a, m: dist.MixtureSameFamily(
            dist.Categorical(logits=a * jnp.arange(2.0)), dist.Normal(m * ONES, 1.0)
        ),
        (0.3, 0.2),
    ),
    "MultivariateNormal": (
        lambda m, s: dist.MultivariateNormal(m * ONES, scale_tril=s * L),
        (0.2, 0.8),
    ),
    "MultivariateNormal_covariance": (
        lambda m, s: dist.MultivariateNormal(m * ONES, covariance_matrix=s * L @ L.T),
        (0.2, 0.8),
    ),
    "MultivariateStudentT": (
        lambda d, m, s: dist.MultivariateStudentT(d, m * ONES, s * L),
        (4.0, 0.2, 0.8),
    ),
    "Normal": (dist.Normal, (0.2, 1.2)),
    "ProjectedNormal": (lambda c: dist.ProjectedNormal(c * jnp.array([1.0, 0.5])), (0.8,)),
    "RelaxedBernoulliLogits": (dist.RelaxedBernoulliLogits, (0.7, 0.3)),
    "SoftLaplace": (dist.SoftLaplace, (0.2, 1.2)),
    "StudentT": (dist.StudentT, (4.0, 0.2, 1.2)),
    "Transformed": (
        lambda m, s: dist.TransformedDistribution(
            dist.Normal(m, s), [transforms.AffineTransform(m, s), transforms.SigmoidTransform()]
        ),
        (0.2, 1.2),
    ),
    "VonMises": (dist.VonMises, (0.3, 1.2)),
    "Weibull": (dist.Weibull, (1.2, 1.5)),
    "WishartCholesky": (lambda c, s: dist.WishartCholesky(c, scale_tril=s * L), (4.0, 0.8)),
    "ZeroSumNormal": (lambda s: dist.ZeroSumNormal(s, (3,)), (1.2,)),
}

# Differentiable samplers whose support ends at a parameter: how to make them, the parameters, and
# the ends of the support (`None` where it has none) as functions of the parameters.
ENDS: dict[str, tuple[Make, tuple[float, ...], Callable, Callable | None]] = {
    "DoublyTruncatedPowerLaw": (
        dist.DoublyTruncatedPowerLaw,
        (-1.5, 0.5, 2.0),
        lambda a, lo, hi: lo,
        lambda a, lo, hi: hi,
    ),
    "LeftTruncatedGamma": (
        lambda c, r, lo: dist.LeftTruncatedGamma(dist.Gamma(c, r), low=lo),
        (1.5, 1.2, 0.4),
        lambda c, r, lo: lo,
        None,
    ),
    "LeftTruncatedNormal": (
        lambda m, s, lo: dist.TruncatedNormal(m, s, low=lo),
        (0.2, 1.1, -0.3),
        lambda m, s, lo: lo,
        None,
    ),
    "Levy": (dist.Levy, (0.2, 0.8), lambda m, s: m, None),
    "LogUniform": (dist.LogUniform, (0.2, 1.5), lambda lo, hi: lo, lambda lo, hi: hi),
    "LowerTruncatedPowerLaw": (
        dist.LowerTruncatedPowerLaw,
        (-2.5, 0.5),
        lambda a, lo: lo,
        None,
    ),
    "Pareto": (dist.Pareto, (0.7, 3.0), lambda s, a: s, None),
    "RightTruncatedGamma": (
        lambda c, r, hi: dist.RightTruncatedGamma(dist.Gamma(c, r), high=hi),
        (1.5, 1.2, 1.4),
        lambda c, r, hi: 0.0 * hi,
        lambda c, r, hi: hi,
    ),
    "TwoSidedTruncatedCauchy": (
        lambda m, s, lo, hi: dist.TruncatedCauchy(m, s, low=lo, high=hi),
        (0.2, 1.1, -0.6, 0.9),
        lambda m, s, lo, hi: lo,
        lambda m, s, lo, hi: hi,
    ),
    "TwoSidedTruncatedNormal": (
        lambda m, s, lo, hi: dist.TruncatedNormal(m, s, low=lo, high=hi),
        (0.2, 1.1, -0.6, 0.9),
        lambda m, s, lo, hi: lo,
        lambda m, s, lo, hi: hi,
    ),
    "Uniform": (dist.Uniform, (0.2, 1.5), lambda lo, hi: lo, lambda lo, hi: hi),
}

# Discrete, or sampled in a way that has no derivative.
NOT_PATHWISE: dict[str, tuple[Make, tuple[float, ...]]] = {
    "BernoulliLogits": (lambda a: dist.Bernoulli(logits=a), (0.3,)),
    "BernoulliProbs": (lambda p: dist.Bernoulli(probs=p), (0.3,)),
    "BetaBinomial": (lambda a, b: dist.BetaBinomial(a, b, 3), (1.5, 2.0)),
    "BetaNegativeBinomial": (dist.BetaNegativeBinomial, (1.5, 2.0, 3.0)),
    "BinomialLogits": (lambda a: dist.Binomial(3, logits=a), (0.3,)),
    "BinomialProbs": (lambda p: dist.Binomial(3, probs=p), (0.3,)),
    "CategoricalLogits": (lambda a: dist.Categorical(logits=a * jnp.arange(3.0)), (0.3,)),
    "CategoricalProbs": (lambda p: dist.Categorical(probs=_pair(p)), (0.3,)),
    "DirichletMultinomial": (lambda a: dist.DirichletMultinomial(a * ONES, 3), (1.3,)),
    "DiscreteUniform": (lambda a: dist.DiscreteUniform(0, 3), (0.3,)),
    "GammaPoisson": (dist.GammaPoisson, (1.5, 2.0)),
    "GeometricLogits": (lambda a: dist.Geometric(logits=a), (0.3,)),
    "GeometricProbs": (lambda p: dist.Geometric(probs=p), (0.3,)),
    "HurdleGamma": (dist.HurdleGamma, (0.3, 1.5, 2.0)),
    "HurdleLogNormal": (dist.HurdleLogNormal, (0.3, 0.2, 0.6)),
    "HurdleLogits": (
        lambda a, r: dist.HurdleDistribution(dist.Poisson(r), gate_logits=a),
        (0.3, 2.0),
    ),
    "HurdlePoisson": (dist.HurdlePoisson, (0.3, 2.0)),
    "MixtureGeneral": (
        lambda a, m: dist.MixtureGeneral(
            dist.Categorical(logits=a * jnp.arange(2.0)),
            [dist.Normal(m, 1.0), dist.StudentT(3.0, m, 1.0)],
        ),
        (0.3, 0.2),
    ),
    "MultinomialLogits": (
        lambda a: dist.Multinomial(3, logits=a * jnp.arange(2.0), total_count_max=3),
        (0.3,),
    ),
    "MultinomialProbs": (
        lambda p: dist.Multinomial(3, probs=_pair(p), total_count_max=3),
        (0.3,),
    ),
    "NegativeBinomial2": (dist.NegativeBinomial2, (1.5, 2.0)),
    "NegativeBinomialLogits": (dist.NegativeBinomialLogits, (3.0, 0.3)),
    "NegativeBinomialProbs": (dist.NegativeBinomialProbs, (3.0, 0.3)),
    "OrderedLogistic": (lambda a: dist.OrderedLogistic(a, jnp.array([-1.0, 0.5])), (0.3,)),
    "Poisson": (dist.Poisson, (2.0,)),
    "SineBivariateVonMises": (
        lambda a, c: dist.SineBivariateVonMises(a, a, c, c, correlation=0.3),
        (0.3, 1.2),
    ),
    "SineSkewed": (
        lambda a, c: dist.SineSkewed(
            dist.VonMises(a * np.ones(1), c).to_event(1), jnp.array([0.3])
        ),
        (0.3, 1.2),
    ),
    "TransformedDiscrete": (
        lambda p: dist.TransformedDistribution(
            dist.Bernoulli(p), transforms.AffineTransform(0.0, 2.0)
        ),
        (0.3,),
    ),
    "ZeroInflatedLogits": (
        lambda a, r: dist.ZeroInflatedDistribution(dist.Poisson(r), gate_logits=a),
        (0.3, 2.0),
    ),
    "ZeroInflatedPoisson": (dist.ZeroInflatedPoisson, (0.3, 2.0)),
}

ALL: dict[str, tuple[Make, tuple[float, ...]]] = {
    **PATHWISE,
    **{name: case[:2] for name, case in ENDS.items()},
    **NOT_PATHWISE,
    "Delta": (dist.Delta, (0.3,)),
    "LeftCensored": (lambda m, s: dist.LeftCensoredDistribution(dist.Normal(m, s)), (0.2, 1.2)),
    "RelaxedBernoulli": (lambda p: dist.RelaxedBernoulli(0.5, probs=p), (0.3,)),
    "TruncatedPolyaGamma": (lambda a: dist.TruncatedPolyaGamma(), (0.3,)),
}
