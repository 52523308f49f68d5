"""Pathwise derivatives."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution

from ppgen._pathwise import has_pathwise_derivative
from ppgen.estimators._base import AbstractEstimator, Points


class Reparameterize(AbstractEstimator):
    """The pathwise estimator: differentiate the sample itself. *Unbiased*, to every order.

    Explicit where the sampler is a smooth function of noise and parameters (Normal, ...), implicit
    where JAX differentiates the sampler through its distribution function (Gamma and what is built
    on it: Beta, Dirichlet, Student-t). It needs an objective that is continuous in the sample.

    Attributes:
        assume_smooth: do not raise where the sample reaches a discontinuous operation. The
            gradient then misses what the jumps contribute; only sound where they contribute
            nothing.

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, ICLR 2014.
        Figurnov, Mohamed and Mnih, *Implicit Reparameterization Gradients*, NeurIPS 2018.
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
        return Points(jnp.asarray(dist.sample(key)))
