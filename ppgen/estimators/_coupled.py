"""Coupled draws, whose mean has less variance than that of independent draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution

from ppgen._sampling.frozen_density import log_density_for_score
from ppgen._sampling.joint_draws import Coupling, coupling
from ppgen._sampling.quantiles import from_uniforms, has_quantiles, uniform, uniforms_needed
from ppgen._sampling.sobol import MAX_DIMENSIONS, scrambled_sobol
from ppgen.errors import EstimatorError
from ppgen.estimators._base import AbstractEstimator, Points
from ppgen.estimators._reparameterize import Reparameterize
from ppgen.estimators._score_function import LeaveOneOut, MovingAverage, ScoreFunction


class Antithetic(AbstractEstimator):
    """Antithetic draws: pairs made from `u` and `1 - u`. *Unbiased* where the estimator is.

    Under `expectation(f, draws=K)`, with an even `K`, draws at this site come in pairs that lie
    opposite to each other in every dimension. This removes the variance of the odd part of the cost
    about the median: a cost that is linear in a symmetric variable has no variance left, an even
    cost has twice as much. With a single draw it is plain sampling. The sample is made by the
    inverse distribution function of every dimension.

    Attributes:
        estimator: `Reparameterize()`, or `ScoreFunction(...)` with any baseline but the other
            draws. (Where it has none, it does without.)

    Raises:
        EstimatorError: on use, where `draws` is odd and not one.

    References:
        Owen, *Monte Carlo Theory, Methods and Examples*, 2013, section 8.2.
        Wu, Goodman and Ermon, *Differentiable Antithetic Sampling for Variance Reduction in
        Stochastic Variational Inference*, AISTATS 2019.
    """

    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False
    # Not while the program is staged: only the run knows of the other draws.
    in_place: ClassVar[bool] = False
    coupled: ClassVar[bool] = True
    leave_one_out: ClassVar[bool] = False

    estimator: AbstractEstimator = Reparameterize()

    @property
    def differentiable(self) -> bool:
        """Whether the sample moves with the parameters."""
        return self.estimator.differentiable

    @property
    def controlled(self) -> bool:
        """Whether there is a baseline."""
        return self.estimator.controlled

    def misfit(self, dist: Distribution) -> str | None:
        """Only distributions with an inverse distribution function, which the estimator serves."""
        return _misfit(self, dist)

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """One sample: moving, or frozen and with its log density."""
        draws = coupling(key)
        return _sample(self.estimator, dist, key, lambda n: self.bits(draws, n))

    def bits(self, draws: Coupling, dimensions: int) -> Array:
        """Every second draw has the flipped bits of the one before."""
        if draws.size % 2 and draws.size > 1:
            raise EstimatorError(
                f"Antithetic() draws in pairs, but draws={draws.size} is odd",
                instead=f"ppgen.expectation(f, draws={draws.size + 1})",
            )
        key = jax.random.fold_in(draws.key, draws.index // 2)
        own = jax.random.bits(key, (dimensions,), jnp.uint32)
        return jnp.where(jnp.asarray(draws.index) % 2 == 0, own, ~own)


class QuasiMonteCarlo(AbstractEstimator):
    """Randomised quasi-Monte Carlo draws. *Unbiased* where the estimator is.

    Under `expectation(f, draws=K)` the draws at this site are a scrambled Sobol net with one
    dimension for each element of the site's batch and event. Each draw has the distribution of the
    site; together they are spread evenly, best where `K` is a power of two. For smooth costs of few
    dimensions the variance of the mean falls faster than `1 / K`. Different sites, the lanes of a
    `vmap` and the steps of a `scan` have their own nets in random order: each is evenly spread, and
    they are independent. With a single draw it is plain sampling. The sample is made by the inverse
    distribution function of every dimension.

    Attributes:
        estimator: `Reparameterize()`, or `ScoreFunction(...)` with any baseline but the other
            draws. (Where it has none, it does without.)

    References:
        Owen, *Scrambling Sobol' and Niederreiter-Xing Points*, Journal of Complexity 14, 1998.
        Buchholz, Wenzel and Mandt, *Quasi-Monte Carlo Variational Inference*, ICML 2018.
    """

    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False
    # Not while the program is staged: only the run knows of the other draws.
    in_place: ClassVar[bool] = False
    coupled: ClassVar[bool] = True
    leave_one_out: ClassVar[bool] = False

    estimator: AbstractEstimator = Reparameterize()

    @property
    def differentiable(self) -> bool:
        """Whether the sample moves with the parameters."""
        return self.estimator.differentiable

    @property
    def controlled(self) -> bool:
        """Whether there is a baseline."""
        return self.estimator.controlled

    def misfit(self, dist: Distribution) -> str | None:
        """As for `Antithetic`; and the number of dimensions is limited by the Sobol nets."""
        if (reason := _misfit(self, dist)) is not None:
            return reason
        if (needed := math.prod(uniforms_needed(dist))) > MAX_DIMENSIONS:
            return f"it has {needed:,} elements, and Sobol nets have up to {MAX_DIMENSIONS:,}"
        return None

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """One sample: moving, or frozen and with its log density."""
        draws = coupling(key)
        return _sample(self.estimator, dist, key, lambda n: self.bits(draws, n))

    def bits(self, draws: Coupling, dimensions: int) -> Array:
        """A point of the net."""
        return scrambled_sobol(draws.key, draws.index, draws.size, dimensions)


def _misfit(coupled: Antithetic | QuasiMonteCarlo, d: Distribution) -> str | None:
    """Only distributions with an inverse distribution function, which the estimator serves."""
    name, estimator = type(coupled).__name__, coupled.estimator
    if type(estimator) not in (Reparameterize, ScoreFunction):
        return f"{name} couples Reparameterize() or ScoreFunction(), not {estimator!r}"
    if isinstance(getattr(estimator, "baseline", None), LeaveOneOut):
        return f"the other draws of {name} depend on this one, so they are no baseline for it"
    if (reason := estimator.misfit(d)) is not None:
        return reason
    if not has_quantiles(d):
        return f"{type(d).__name__} has no inverse distribution function in closed form"
    return None


def _sample(
    estimator: AbstractEstimator, d: Distribution, key: Array, bits: Callable[[int], Array]
) -> Points:
    """One sample from random bits: moving, or frozen and with its log density.

    Args:
        estimator: what differentiates it.
        d: the distribution.
        key: a key, for the type of a sample only.
        bits: from the number of dimensions to bits, `(dimensions,)` of `uint32`, which are uniform,
            and coupled over the draws.
    """
    shape = uniforms_needed(d)
    sample = jax.eval_shape(d.sample, key)
    inexact = jnp.issubdtype(sample.dtype, jnp.inexact)
    dtype = sample.dtype if inexact else jnp.result_type(float)
    u = uniform(bits(math.prod(shape)).reshape(shape), dtype)
    value = jnp.broadcast_to(from_uniforms(d, u).astype(sample.dtype), sample.shape)
    if estimator.differentiable:
        # It has no score; zero stands for that wherever choices are made in the run.
        return Points(value, score=jnp.zeros(d.batch_shape, u.dtype))
    value, baseline = jax.lax.stop_gradient((value, _baseline(estimator)))
    return Points(value, score=log_density_for_score(d, value), baseline=baseline)


def _baseline(estimator: AbstractEstimator) -> Array | None:
    baseline = getattr(estimator, "baseline", None)
    if isinstance(baseline, MovingAverage):
        return baseline.value
    return None if baseline is None else jnp.asarray(baseline)
