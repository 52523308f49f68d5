"""Pathwise derivatives."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.pathwise import has_pathwise_derivative
from ppgen._sampling.implicit import differentiable_sample
from ppgen._sampling.truncated_draws import with_tails
from ppgen.estimators._base import AbstractEstimator, Points


class Reparameterize(AbstractEstimator):
    """The pathwise estimator: differentiate the sample itself. *Unbiased*, to every order.

    Explicit where the sampler is a smooth function of noise and parameters (Normal, ...), implicit
    where a sample follows its distribution function: JAX's own samplers (Gamma and what is built on
    it: Beta, Dirichlet, Student-t), von Mises, and mixtures of scalar components whose distribution
    functions are known. It needs an objective that is continuous in the sample.

    An angle (von Mises) lies in [-pi, pi], and a cost need not be the same at both ends. So samples
    never move across the ends, which is unbiased for every continuous cost; but if the ends are
    likely, the variance is large: that of the location derivative grows as `exp(-2 concentration
    cos(loc))`. If the cost is continuous on the *circle* (a function of the cosine and sine),
    `assume_smooth=True` moves angles around it instead, with a low variance everywhere.

    Attributes:
        assume_smooth: do not raise where the sample reaches a discontinuous operation, and let
            angles cross from pi to -pi. The gradient then misses what the jumps contribute; only
            sound where they contribute nothing.

    Raises:
        DiscontinuityError: on use, where the sample reaches something discontinuous.

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, ICLR 2014.
        Figurnov, Mohamed and Mnih, *Implicit Reparameterization Gradients*, NeurIPS 2018.
        Graves, *Stochastic Backpropagation through Mixture Density Distributions*, 2016.
    """

    differentiable: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    assume_smooth: bool = eqx.field(default=False, static=True)

    def misfit(self, dist: Distribution) -> str | None:
        """Only distributions whose sampler has a derivative in every parameter."""
        if has_pathwise_derivative(dist):
            return None
        return f"{type(dist).__name__} has no pathwise derivative"

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """One differentiable sample."""
        return Points(differentiable_sample(key, with_tails(dist), around=self.assume_smooth))
