"""Facts about NumPyro's families of distributions beyond their declarations: one row each.

A family without a row is as NumPyro declares it. Each row is tested (`tests/test_families.py`).
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportReturnType=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import ndtri
from numpyro.distributions import Distribution


class Family(NamedTuple):
    """A row of the table.

    Attributes:
        pathwise: whether a sample is a differentiable function of all parameters; or the name of
            the attribute with the distribution through which it is sampled, which decides; `None`:
            as NumPyro declares.
        constant: whether it has no randomness, or none that depends on a parameter, so that the
            value carries the whole derivative.
        implicit: whether NumPyro samples it without a derivative, and samples can follow its
            distribution function where that is known.
        cdf: whether it is scalar with a distribution function that JAX differentiates with respect
            to the value and all parameters; or the attribute with the distribution(s) that it is
            known of.
        icdf: `(d, u)`, the sample whose quantiles are `u`, differentiable in the parameters where
            it is continuous; or the attribute with the distribution that it is known of.
        kinked: whether its log density has a kink at `loc`.
    """

    pathwise: bool | str | None = None
    constant: bool = False
    implicit: bool = False
    cdf: bool | str = False
    icdf: Callable[[Any, Array], Array] | str | None = None
    kinked: bool = False


def _own(d: Any, u: Array) -> Array:
    return d.icdf(u)


def _weibull(d: Any, u: Array) -> Array:
    return d.scale * (-jnp.log1p(-u)) ** (1 / d.concentration)


def _multivariate_normal(d: Any, u: Array) -> Array:
    return d.loc + jnp.squeeze(jnp.matmul(d.scale_tril, ndtri(u)[..., None]), -1)


def _bernoulli(d: Any, u: Array) -> Array:
    return (u > 1 - jnp.asarray(d.probs)).astype(int)


def _categorical(d: Any, u: Array) -> Array:
    steps = jnp.cumsum(jax.nn.softmax(d.logits), -1)[..., :-1]
    return jnp.sum(u[..., None] > steps, axis=-1, dtype=int)


_BASE = "base_dist"
_SCALAR = Family(cdf=True, icdf=_own)
# (Not Beta and StudentT: JAX has no derivative of the incomplete beta function by its parameters.)
_CDF_ONLY = Family(cdf=True)
_THROUGH_BASE = Family(pathwise=_BASE)

FAMILIES: dict[type[Distribution], Family] = {
    # Scalar.
    dist.AsymmetricLaplace: Family(cdf=True, icdf=_own, kinked=True),
    dist.AsymmetricLaplaceQuantile: Family(kinked=True),
    dist.Cauchy: _SCALAR,
    dist.Chi2: _CDF_ONLY,
    dist.Exponential: _SCALAR,
    dist.Gamma: _CDF_ONLY,
    dist.Gompertz: _SCALAR,
    dist.Gumbel: _SCALAR,
    dist.HalfCauchy: _SCALAR,
    dist.HalfNormal: _SCALAR,
    dist.Laplace: Family(cdf=True, icdf=_own, kinked=True),
    dist.Logistic: _SCALAR,
    dist.Normal: _SCALAR,
    dist.SoftLaplace: _SCALAR,
    dist.VonMises: Family(implicit=True, cdf=True),  # sampled by rejection
    dist.Weibull: Family(cdf=True, icdf=_weibull),
    # (Not its distribution function: its support moves.)
    dist.Uniform: Family(icdf=_own),
    # Discrete.
    dist.BernoulliLogits: Family(icdf=_bernoulli),
    dist.BernoulliProbs: Family(icdf=_bernoulli),
    dist.CategoricalLogits: Family(icdf=_categorical),
    dist.CategoricalProbs: Family(icdf=_categorical),
    # A choice between an atom and the rest is discrete, rejection of angles not differentiable.
    dist.HurdleProbs: Family(pathwise=False),
    dist.SineBivariateVonMises: Family(pathwise=False),
    dist.SineSkewed: Family(pathwise=False),
    dist.ZeroInflatedProbs: Family(pathwise=False),
    dist.Delta: Family(constant=True),
    dist.TruncatedPolyaGamma: Family(constant=True),
    dist.Unit: Family(constant=True),
    # Differentiable, although NumPyro declares them not, or not entirely.
    dist.GaussianCopulaBeta: Family(pathwise=True),
    dist.InverseWishartCholesky: Family(pathwise=True),
    dist.Levy: Family(pathwise=True),
    dist.WishartCholesky: Family(pathwise=True),
    # Vectors.
    dist.MultivariateNormal: Family(icdf=_multivariate_normal),
    # Sampled through others.
    dist.EulerMaruyama: Family(pathwise="init_dist"),
    dist.ExpandedDistribution: Family(pathwise=_BASE, cdf=_BASE, icdf=_BASE),
    dist.GaussianCopula: Family(pathwise="marginal_dist"),
    dist.Independent: Family(pathwise=_BASE, icdf=_BASE),
    dist.IntervalCensoredDistribution: _THROUGH_BASE,
    dist.LeftCensoredDistribution: _THROUGH_BASE,
    dist.LeftTruncatedDistribution: _THROUGH_BASE,
    dist.LeftTruncatedGamma: _THROUGH_BASE,
    dist.MaskedDistribution: _THROUGH_BASE,
    dist.RightCensoredDistribution: _THROUGH_BASE,
    dist.RightTruncatedDistribution: _THROUGH_BASE,
    dist.RightTruncatedGamma: _THROUGH_BASE,
    dist.TwoSidedTruncatedDistribution: _THROUGH_BASE,
    dist.TwoSidedTruncatedGamma: _THROUGH_BASE,
    # Transforms of a base distribution, of its distribution function where they are monotone.
    dist.InverseGamma: Family(pathwise=_BASE, cdf=_BASE),
    dist.LogNormal: Family(pathwise=_BASE, cdf=_BASE, icdf=_BASE),
    dist.LogUniform: Family(pathwise=_BASE, icdf=_BASE),
    dist.Pareto: Family(pathwise=_BASE, icdf=_BASE),  # its support moves
    dist.TransformedDistribution: Family(pathwise=_BASE, cdf=_BASE, icdf=_BASE),
    # A choice of a component.
    dist.MixtureGeneral: Family(implicit=True, cdf="component_distributions"),
    dist.MixtureSameFamily: Family(implicit=True, cdf="component_distribution"),
}


def family(d: Any) -> Family:
    """The row of exactly this class: a subclass may sample differently."""
    return FAMILIES.get(type(d), Family())


def sampler(d: Distribution) -> Family:
    """The row of the nearest NumPyro class of `d`, for inherited properties."""
    return next((FAMILIES[cls] for cls in type(d).__mro__ if cls in FAMILIES), Family())
