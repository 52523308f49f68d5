"""Score-function derivatives, and the baselines that lower their variance."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from ppgen._sampling.frozen_density import log_density_for_score
from ppgen._sampling.truncated_draws import with_tails
from ppgen.estimators._base import AbstractEstimator, Points


class LeaveOneOut(eqx.Module):
    """The baseline that is the mean cost of the *other* draws of `expectation(..., draws=K)`.

    References:
        Kool, van Hoof and Welling, *Buy 4 REINFORCE Samples, Get a Baseline for Free!*, 2019.
    """


class MovingAverage(eqx.Module):
    """A baseline that follows the cost: a debiased exponential moving average.

    Gradients stay unbiased because the baseline of a step is fixed before the step is drawn. It is
    a pytree: pass `ScoreFunction(baseline=average)` and, after each step, replace it by
    `average.update(cost)`.

    Attributes:
        decay: the weight of the past, in [0, 1).
        total: the decayed sum of past costs.
        weight: the decayed sum of past weights.

    Example:
        >>> average = MovingAverage(decay=0.5).update(2.0).update(4.0)
        >>> round(float(average.value), 4)
        3.3333
    """

    decay: ArrayLike = 0.9
    total: Array = eqx.field(default=0.0, converter=jnp.asarray)
    weight: Array = eqx.field(default=0.0, converter=jnp.asarray)

    @property
    def value(self) -> Array:
        """The current average; zero before the first update."""
        return self.total / jnp.where(self.weight == 0, 1.0, self.weight)

    def update(self, cost: Array | float) -> MovingAverage:
        """The average including one more cost."""
        cost = jax.lax.stop_gradient(jnp.asarray(cost))
        return MovingAverage(
            self.decay,
            self.decay * self.total + (1 - self.decay) * cost,
            self.decay * self.weight + (1 - self.decay),
        )


class ScoreFunction(AbstractEstimator):
    """The score-function estimator (REINFORCE): `cost * d log p(x)`. *Unbiased*, to every order.

    It requires nothing of the cost, not even differentiability, but its variance is high. Two
    things lower it: the score multiplies only the additive cost terms that the choice influences
    (see `ppgen.check`), and a baseline is subtracted from them.

    Attributes:
        baseline: `None` (leave-one-out where `draws > 1`, else none), a number or array
            broadcastable to the batch shape (`0.0` for none at all), a `MovingAverage`, or
            `LeaveOneOut()`, which insists on `draws > 1`. It may depend on anything but the
            choice itself and what follows from it: the output of a network of the choice's inputs,
            which `ppgen.baseline_loss` trains.

    Where a bound of the support depends on parameters, the relative position between the bounds is
    frozen, and the value moves with the bounds; so the cost must be continuous in it.

    Raises:
        DerivativeError: on differentiation by a bound of the support of a component of a mixture,
            where the score misses a term; on a second one by the location of a Laplace variable,
            where the log density has a kink.

    References:
        Williams, *Simple Statistical Gradient-Following Algorithms*, Machine Learning 8, 1992.
        Schulman et al., *Gradient Estimation Using Stochastic Computation Graphs*, NeurIPS 2015.
    """

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False
    self_contained: ClassVar[bool] = True

    baseline: ArrayLike | LeaveOneOut | MovingAverage | None = None

    @property
    def leave_one_out(self) -> bool:
        """Whether the other draws are its baseline, where there are any."""
        return self.baseline is None or isinstance(self.baseline, LeaveOneOut)

    @property
    def controlled(self) -> bool:
        """Whether it has a baseline of its own."""
        return not self.leave_one_out

    def misfit(self, dist: Distribution) -> str | None:
        """Every distribution with a density has a score."""
        return None

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """One frozen sample and its log density."""
        value = jax.lax.stop_gradient(jnp.asarray(with_tails(dist).sample(key)))
        baseline = self.baseline
        if isinstance(baseline, MovingAverage):
            baseline = baseline.value
        if baseline is None or isinstance(baseline, LeaveOneOut):
            return Points(value, score=log_density_for_score(dist, value))
        return Points(
            value, score=log_density_for_score(dist, value), baseline=jnp.asarray(baseline)
        )
