"""Measure-valued (weak) derivatives."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.wrappers import plain
from ppgen.estimators._base import AbstractEstimator, Points
from ppgen.estimators._decompositions import decomposition


class MeasureValued(AbstractEstimator):
    r"""The measure-valued derivative: a difference of costs at other points. *Unbiased*.

    The derivative of a density is `c (p+ - p-)` with two densities `p+` and `p-`, so

    .. math:: \frac{d}{d\theta} E_p[f] = c \, (E_{p^+}[f] - E_{p^-}[f]).

    The cost may be discontinuous, and the variance stays low where the two points are close in
    cost. The price is further evaluations of the cost, all vectorised: `K - 1` more for a
    Categorical of `K` classes (which leaves no variance given the other choices), three for Normal
    (location and scale at once), one for all others. First derivatives only: a second one raises.

    For Bernoulli, Binomial, Categorical, Geometric and Poisson, for Normal and Exponential, for
    Gamma in its rate and Weibull in its scale (a derivative with respect to the concentration
    raises), and for constant transforms of these (LogNormal).

    The points are coupled with the sample wherever the decomposition allows it: the Binomial
    differs in one flip, Exponential, Gamma, Geometric and Weibull in one added variable, and for
    most one of the two densities is `p` itself.

    Attributes:
        prune: evaluate the cost at only one of the other points, picked at random for all
            elements at once: two evaluations whatever the number of points (which is that of the
            elements times that of the classes where a cost mixes elements). The same mean, and
            more variance.

    Raises:
        DerivativeError: a second derivative, or one with respect to a concentration or to the
            parameters of a transform.

    References:
        Mohamed, Rosca, Figurnov and Mnih, *Monte Carlo Gradient Estimation in Machine Learning*,
        JMLR 21, 2020, section 6 and table 1.
        Heidergott, Vázquez-Abad and Volk-Makarewicz, *Sensitivity Estimation for Gaussian
        Systems*, European Journal of Operational Research 187, 2008.
        Arya, Schauer, Schäfer and Rackauckas, *Automatic Differentiation of Programs with Discrete
        Randomness*, NeurIPS 2022, for the pruning.
    """

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = True

    prune: bool = eqx.field(default=False, static=True)

    @property
    def pruned(self) -> bool:
        """Whether only one of the other points is evaluated, picked at random."""
        return self.prune

    def misfit(self, dist: Distribution) -> str | None:
        """Only families with a known decomposition."""
        if decomposition(dist) is not None:
            return None
        return (
            f"{type(plain(dist)).__name__} has no measure-valued derivative here; Bernoulli, "
            "Binomial, Categorical, Exponential, Gamma, Geometric, Normal, Poisson and Weibull "
            "have, and constant transforms of them"
        )

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """The sample at point 0, and the points of the decomposition."""
        known = decomposition(dist)
        if known is None:
            raise TypeError(self.misfit(dist))
        return known(key, dist, plain(dist))
