"""RELAX: the score function with a learned control variate of a relaxed sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from ppgen._derivatives import magic_box
from ppgen.estimators import _concrete
from ppgen.estimators._base import AbstractEstimator, Points
from ppgen.estimators._closure import with_arrays


class RELAX(AbstractEstimator):
    r"""The score function with a control function of relaxed values. *Unbiased*, to every order.

    For Bernoulli and one-hot variables. With the sample `b`, its relaxation :math:`\zeta`, the
    relaxation given the sample :math:`\tilde\zeta` and a function `c`, it differentiates

    .. math:: f(b) \, e^{\log p(b)} + c(\zeta) - c(\tilde\zeta) \, e^{\log p(b)}

    (the exponentials stand for factors of value one with the derivative of the score). The other
    terms have mean zero to every order for any `c`, and cancel variance of the first to the extent
    that `c` resembles the cost. Unlike `REBAR` it requires nothing of the cost, which is evaluated
    once, at the sample.

    Train `c` by minimising the variance: `jax.grad(lambda c: sum(jax.grad(g, 1)(key, theta, c) **
    2))` is an unbiased estimate of the derivative of the gradient's variance. It may be any
    callable: an `eqx.Module`, or a function with arrays in its closure.

    Attributes:
        control: a function from relaxed values to a scalar, twice differentiable: of one element
            (a scalar for Bernoulli, a vector for one-hot variables), or, with `joint`, of the
            elements along that many axes together.
        temperature: of the relaxation, positive, broadcastable to the batch shape.
        joint: how many trailing batch axes are given to `control` at once, because the cost mixes
            their elements. An event axis made by `to_event` is a batch axis here.

    Raises:
        ValueError: on use, where the control function does not give a scalar.

    References:
        Grathwohl, Choi, Wu, Roeder and Duvenaud, *Backpropagation through the Void: Optimizing
        Control Variates for Black-Box Gradient Estimation*, ICLR 2018.
    """

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    control: Callable[[Array], Array] = eqx.field(converter=with_arrays)
    temperature: ArrayLike = 0.5
    joint: int = eqx.field(default=0, static=True)

    @property
    def controlled(self) -> bool:
        """True: this estimator adds a control term."""
        return True

    def misfit(self, dist: Distribution) -> str | None:
        """Only Bernoulli and one-hot variables."""
        reason = _concrete.misfit(dist)
        if reason is None and not 0 <= self.joint <= len(dist.batch_shape):
            return f"joint={self.joint} for a batch of shape {dist.batch_shape}"
        return reason

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """One frozen sample, its log density, and the control term."""
        hard, score, soft, conditional = _concrete.relax(key, dist, self.temperature)
        axes = tuple(range(score.ndim - self.joint, score.ndim))
        # Mapped over the other axes, so that an element of it depends on its own choice only.
        control = self.control
        for _ in range(score.ndim - self.joint):
            control = jax.vmap(control)
        shape = score.shape[: score.ndim - self.joint]
        free, given = control(soft), control(conditional)
        if jnp.shape(free) != shape:
            raise ValueError(
                f"RELAX: the control function must give a scalar, its values have shape "
                f"{jnp.shape(free)[len(shape) :]}"
            )
        term = free - given * magic_box(jnp.sum(score, axis=axes))
        # A control shared by several elements is divided among them.
        term = jnp.broadcast_to(
            jnp.expand_dims(term, axes) / max(1, score.size // max(1, term.size)), score.shape
        )
        return Points(jax.lax.stop_gradient(hard), score=score, control=term)
