"""Control variates: functions of the value whose expectation is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution

from ppgen._derivatives import magic_box
from ppgen._distributions.wrappers import plain
from ppgen.estimators._base import AbstractEstimator, Points
from ppgen.estimators._closure import with_arrays

_WITHOUT_MEAN = (dist.CategoricalProbs, dist.CategoricalLogits, dist.Cauchy)


class ControlVariate(AbstractEstimator):
    r"""Any estimator, with a control variate. *Unbiased* to the order that the estimator is.

    It adds `E[c(x)]`, which is known, and subtracts the inner estimator's own estimate of it: a
    term whose value and derivatives have mean zero, and which cancels variance to the extent that
    `c` resembles the cost. The cost is evaluated as often as by the inner estimator.

    Attributes:
        estimator: the inner estimator.
        control: `(value, dist) -> (*batch)`, a function `c` of the site's value, elementwise over
            the batch: event axes are reduced, batch axes are not, and element `i` depends on
            element `i` only. Where the inner estimator is pathwise it needs a derivative.
        mean: `dist -> (*batch)`, its exact expectation under the distribution. The gradient is
            biased if it is not.

    Both may close over arrays, traced ones too, or be an `eqx.Module` that is being trained.

    Raises:
        ValueError: on use, where either does not give a number for each element of the batch.

    Example:
        >>> import jax, ppgen, numpyro.distributions as dist
        >>> from ppgen import ControlVariate, ScoreFunction
        >>> linear = ControlVariate(ScoreFunction(), lambda x, d: 3.0 * x, lambda d: 3.0 * d.mean)
        >>> def f(theta):
        ...     return 3.0 * ppgen.draw(dist.Normal(theta, 1.0), grad=linear) + 1.0
        >>> round(float(ppgen.expectation(f)(jax.random.key(0), 2.0)), 4)
        7.0

    References:
        Owen, *Monte Carlo theory, methods and examples*, 2013, chapter 8.
        Miller, Foti, D'Amour and Adams, *Reducing Reparameterization Gradient Variance*,
        NeurIPS 2017.
    """

    estimator: AbstractEstimator
    control: Callable[[Array, Distribution], Array] = eqx.field(converter=with_arrays)
    mean: Callable[[Distribution], Array] = eqx.field(converter=with_arrays)

    @classmethod
    def taylor(
        cls, estimator: AbstractEstimator, function: Callable[[Array], Array], order: int = 2
    ) -> ControlVariate:
        """With the expansion of a function, such as the cost, about the distribution's mean.

        Args:
            estimator: the inner estimator.
            function: from one element of the value, `(*event)`, to a scalar.
            order: 1, or 2 for the square terms too.
        """
        expansion = Taylor(function, order)
        make: Any = cls
        return make(estimator, expansion, expansion.mean)

    @property
    def differentiable(self) -> bool:
        """As the inner estimator."""
        return self.estimator.differentiable

    @property
    def weighted(self) -> bool:
        """As the inner estimator."""
        return self.estimator.weighted

    @property
    def biased(self) -> bool:
        """As the inner estimator."""
        return self.estimator.biased

    @property
    def first_order(self) -> bool:
        """As the inner estimator."""
        return self.estimator.first_order

    @property
    def together(self) -> bool:
        """As the inner estimator."""
        return self.estimator.together

    @property
    def fixed_points(self) -> bool:
        """As the inner estimator."""
        return self.estimator.fixed_points

    @property
    def relaxed(self) -> bool:
        """As the inner estimator."""
        return self.estimator.relaxed

    @property
    def pruned(self) -> bool:
        """As the inner estimator."""
        return self.estimator.pruned

    @property
    def leave_one_out(self) -> bool:
        """As the inner estimator."""
        return self.estimator.leave_one_out

    @property
    def baseline(self) -> Any:
        """As the inner estimator."""
        return getattr(self.estimator, "baseline", None)

    @property
    def assume_smooth(self) -> bool:
        """As the inner estimator."""
        return getattr(self.estimator, "assume_smooth", False)

    @property
    def controlled(self) -> bool:
        """True: this estimator adds a control term."""
        return True

    @property
    def in_place(self) -> bool:
        """False: a sample alone cannot carry the control term."""
        return False

    def misfit(self, dist: Distribution) -> str | None:
        """The reason of the inner estimator or of the expansion."""
        reason = self.estimator.misfit(dist)
        if reason is None and isinstance(self.control, Taylor):
            return self.control.misfit(dist)
        return reason

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """The inner estimator's points and their control term."""
        points = self.estimator(key, dist)
        value = points.value
        if not (self.differentiable or self.first_order):
            value = jax.lax.stop_gradient(value)
        if points.weight is None:
            estimate = self._at(value, dist)
        else:
            estimate = points.weight * jax.vmap(lambda x: self._at(x, dist))(value)
        if points.score is not None:
            estimate = estimate * magic_box(points.score).astype(estimate.dtype)
        if points.weight is not None:
            estimate = jnp.sum(estimate, axis=0)
        term = _shaped(self.mean(dist), dist, "mean") - estimate
        term = term if points.control is None else term + points.control
        return eqx.tree_at(lambda p: p.control, points, term, is_leaf=lambda x: x is None)

    def _at(self, value: Array, dist: Distribution) -> Array:
        return _shaped(self.control(value, dist), dist, "control")


def _shaped(x: Any, d: Distribution, what: str) -> Array:
    x = jnp.asarray(x, jnp.result_type(x, float))
    if x.shape != d.batch_shape:
        raise ValueError(
            f"ControlVariate: `{what}` must give a number for each element of the batch, of shape "
            f"{d.batch_shape}; it gave shape {x.shape}"
        )
    return x


class Taylor(eqx.Module):
    """The expansion of a function about a distribution's mean, as a control variate.

    The square terms are those of the diagonal of the Hessian, so that mean and variance are all
    that the expectation needs; of a function of a scalar it is the whole expansion. The point of
    expansion is frozen: the parameters move the distribution, not the control.

    Attributes:
        function: from one element of a value, `(*event)`, to a scalar; smooth at the mean, which
            need not be a possible value (of a Bernoulli variable, say).
        order: 1 or 2.

    References:
        Gu, Levine, Sutskever and Mnih, *MuProp: Unbiased Backpropagation for Stochastic Neural
        Networks*, ICLR 2016 (first order, with the score function).
        Paisley, Blei and Jordan, *Variational Bayesian Inference with Stochastic Search*, ICML
        2012 (second order).
    """

    function: Callable[[Array], Array] = eqx.field(converter=with_arrays)
    order: int = eqx.field(default=2, static=True)

    def __check_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order}")

    def misfit(self, d: Distribution) -> str | None:
        """Why there is nothing to expand about, or `None` where there is."""
        base = plain(d)
        try:
            missing = isinstance(base, _WITHOUT_MEAN) or jnp.shape(d.mean) != d.shape()
        except (NotImplementedError, AttributeError):
            missing = True
        return f"{type(base).__name__} has no mean to expand about" if missing else None

    def __call__(self, value: Array, dist: Distribution) -> Array:
        """The expansion at `value`, `(*batch)`."""
        off = jnp.asarray(value, float) - jax.lax.stop_gradient(_floating(dist.mean, dist))
        return self._polynomial(off, off**2, dist)

    def mean(self, dist: Distribution) -> Array:
        """Its expectation, `(*batch)`."""
        mean = _floating(dist.mean, dist)
        off = mean - jax.lax.stop_gradient(mean)
        square = off**2 + _floating(dist.variance, dist) if self.order == 2 else off
        return self._polynomial(off, square, dist)

    def _polynomial(self, off: Array, square: Array, dist: Distribution) -> Array:
        """The expansion as a function of the deviations and of their squares."""
        shape = dist.batch_shape

        def one(at: Array, off: Array, square: Array) -> Array:
            value, slope = jax.value_and_grad(self.function)(at)
            out = value + jnp.sum(slope * off)
            if self.order == 2:
                hessian = jax.hessian(self.function)(at).reshape(at.size, at.size)
                out = out + 0.5 * jnp.sum(jnp.diag(hessian) * square.ravel())
            return out

        for _ in shape:
            one = jax.vmap(one)
        return one(jax.lax.stop_gradient(_floating(dist.mean, dist)), off, square)


def _floating(x: Any, d: Distribution) -> Array:
    return jnp.broadcast_to(jnp.asarray(x, float), d.batch_shape + d.event_shape)
