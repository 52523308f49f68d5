"""Which distributions have a pathwise derivative.

NumPyro's ``has_rsample`` compares two lists of parameter names. It holds vacuously for a class that
declares none (mixtures, a user's distribution), says nothing about discreteness, and does not look
at what a distribution is built on.
"""

from __future__ import annotations

from numpyro.distributions import Distribution, constraints, transforms

from ppgen._distributions.families import family, sampler
from ppgen._distributions.own_classes import definer
from ppgen._distributions.wrappers import is_discrete

_MONOTONE = (
    transforms.AffineTransform,
    transforms.ExpTransform,
    transforms.PowerTransform,
    transforms.SigmoidTransform,
    transforms.SoftplusTransform,
)


def has_pathwise_derivative(d: Distribution) -> bool:
    """Whether differentiating a sample of `d` by its parameters is right.

    A user's distribution has to declare it: by `reparametrized_params` that name a parameter and
    cover all of `arg_constraints`, or by its own `has_rsample`.
    """
    row = sampler(d)
    if row.constant:
        return True
    if is_discrete(d):
        return False
    if not _is_numpyro(definer(type(d), "sample", "rsample")):
        return _declares(d)
    if family(d).implicit:
        return has_known_cdf(d)
    if isinstance(row.pathwise, str):
        return has_pathwise_derivative(getattr(d, row.pathwise))
    return _covers(d) if row.pathwise is None else row.pathwise


def has_known_cdf(d: Distribution) -> bool:
    """Whether `d` is scalar, with a distribution function that has all derivatives.

    A mixture has one if its components do, all of them positive on one and the same support: over
    a gap, or at the end of one component inside of another, samples jump.
    """
    of = family(d).cdf
    if not isinstance(of, str):
        return of
    parts = getattr(d, of)
    if not isinstance(parts, Distribution):
        supports = {_fixed_support(p) for p in parts}
        return all(map(has_known_cdf, parts)) and len(supports) == 1 and None not in supports
    return has_known_cdf(parts) and all(type(t) in _MONOTONE for t in getattr(d, "transforms", ()))


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
    """The declaration of a class that samples in its own way (inherited ones do not apply)."""
    sampler = definer(type(d), "sample", "rsample")
    declares = definer(type(d), "has_rsample")
    if issubclass(declares, sampler) and not _is_numpyro(declares):
        return bool(d.has_rsample)
    return issubclass(definer(type(d), "reparametrized_params"), sampler) and _covers(d)


def _is_numpyro(cls: type) -> bool:
    return cls.__module__.startswith("numpyro.distributions.")
