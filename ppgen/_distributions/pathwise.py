"""Which distributions have a pathwise derivative.

NumPyro's ``has_rsample`` compares two lists of parameter names. It holds vacuously for a class that
declares none (mixtures, a user's distribution), says nothing about discreteness, and does not look
at what a distribution is built on.
"""

from __future__ import annotations

import numpyro.distributions as dist
from numpyro.distributions import Distribution, constraints, transforms

# Sampled by a differentiable function of their parameters, although NumPyro declares them not, or
# not entirely. Each is tested against the derivative of an expectation.
_ALSO = (
    dist.GaussianCopulaBeta,
    dist.InverseWishartCholesky,
    dist.Levy,
    dist.WishartCholesky,
)
# A choice between an atom and the rest is discrete, and rejection sampling of angles is not
# differentiable.
_NEVER = (
    dist.HurdleProbs,
    dist.SineBivariateVonMises,
    dist.SineSkewed,
    dist.ZeroInflatedProbs,
)
# Sampled without a derivative: their samples follow the distribution function, where it is known.
# A mixture chooses a component, and von Mises variables are made by rejection.
IMPLICIT = (dist.MixtureGeneral, dist.MixtureSameFamily, dist.VonMises)
# Scalar families whose distribution function JAX differentiates by the value and all parameters.
# (Not Beta and StudentT: JAX has no derivative of the incomplete beta function by its parameters.)
# Exact types, since a subclass may sample otherwise.
_KNOWN_CDF = (
    dist.AsymmetricLaplace,
    dist.Cauchy,
    dist.Chi2,
    dist.Exponential,
    dist.Gamma,
    dist.Gompertz,
    dist.Gumbel,
    dist.HalfCauchy,
    dist.HalfNormal,
    dist.Laplace,
    dist.Logistic,
    dist.Normal,
    dist.SoftLaplace,
    dist.VonMises,
    dist.Weibull,
)
_TRANSFORMED = (dist.InverseGamma, dist.LogNormal, dist.TransformedDistribution)
_MONOTONE = (
    transforms.AffineTransform,
    transforms.ExpTransform,
    transforms.PowerTransform,
    transforms.SigmoidTransform,
    transforms.SoftplusTransform,
)
# Sampled through the base distribution (or its parameters), and no less differentiable than it.
_WRAPPERS = (
    dist.ExpandedDistribution,
    dist.Independent,
    dist.IntervalCensoredDistribution,
    dist.LeftCensoredDistribution,
    dist.LeftTruncatedDistribution,
    dist.LeftTruncatedGamma,
    dist.MaskedDistribution,
    dist.RightCensoredDistribution,
    dist.RightTruncatedDistribution,
    dist.RightTruncatedGamma,
    dist.TransformedDistribution,
    dist.TwoSidedTruncatedDistribution,
    dist.TwoSidedTruncatedGamma,
)
# No randomness, or none that depends on a parameter: the value carries the whole derivative.
_ALWAYS = (dist.Delta, dist.TruncatedPolyaGamma, dist.Unit)


def has_pathwise_derivative(d: Distribution) -> bool:
    """Whether differentiating a sample of `d` by its parameters is right.

    A user's own distribution has to say so: by `reparametrized_params` that name a parameter and
    cover all of `arg_constraints`, or by its own `has_rsample`.
    """
    if isinstance(d, _ALWAYS):
        return True
    if _is_discrete(d):
        return False
    if not _is_numpyro(_definer(type(d), "sample", "rsample")):
        return _declares(d)
    if isinstance(d, _NEVER):
        return False
    if type(d) in IMPLICIT:
        return has_known_cdf(d)
    if isinstance(d, _WRAPPERS):
        return has_pathwise_derivative(d.base_dist)
    if isinstance(d, dist.EulerMaruyama):
        return has_pathwise_derivative(d.init_dist)
    if isinstance(d, dist.GaussianCopula):
        return has_pathwise_derivative(d.marginal_dist)
    return isinstance(d, _ALSO) or _covers(d)


def has_known_cdf(d: Distribution) -> bool:
    """Whether `d` is scalar, with a distribution function that has all derivatives.

    A mixture has one if its components do, all of them positive on one and the same support: over
    a gap, or at the end of one component inside of another, samples jump.
    """
    if type(d) is dist.MixtureSameFamily:
        return has_known_cdf(d.component_distribution)
    if type(d) is dist.MixtureGeneral:
        parts = d.component_distributions
        supports = {_fixed_support(p) for p in parts}
        return all(map(has_known_cdf, parts)) and len(supports) == 1 and None not in supports
    if isinstance(d, dist.ExpandedDistribution):
        return has_known_cdf(d.base_dist)
    if type(d) in _TRANSFORMED:
        return has_known_cdf(d.base_dist) and all(type(t) in _MONOTONE for t in d.transforms)
    return type(d) in _KNOWN_CDF


def _fixed_support(d: Distribution) -> str | None:
    """The name of a support that does not depend on parameters, up to its ends."""
    support = d.support
    if not isinstance(support, constraints.ParameterFreeConstraint):
        return None
    name = type(support).__name__
    return "_Positive" if name in ("_Nonnegative", "_SoftplusPositive") else name


def _covers(d: Distribution) -> bool:
    named = set(d.reparametrized_params)
    return bool(named) and named >= set(d.arg_constraints)


def _declares(d: Distribution) -> bool:
    """What a class that samples in its own way says of itself (what it inherits is of another)."""
    sampler = _definer(type(d), "sample", "rsample")
    declares = _definer(type(d), "has_rsample")
    if issubclass(declares, sampler) and not _is_numpyro(declares):
        return bool(d.has_rsample)
    return issubclass(_definer(type(d), "reparametrized_params"), sampler) and _covers(d)


def _definer(cls: type, *names: str) -> type:
    """The class that `cls` has the first found of these attributes from."""
    return next(c for c in cls.__mro__ if any(name in vars(c) for name in names))


def _is_numpyro(cls: type) -> bool:
    return cls.__module__.startswith("numpyro.distributions.")


def _is_discrete(d: Distribution) -> bool:
    try:
        support = d.support
    except NotImplementedError:
        return False
    return support is not None and bool(support.is_discrete)
