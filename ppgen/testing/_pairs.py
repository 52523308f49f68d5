"""Pairs of a family of distributions and an estimator: their order, and a test objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.moving_ends import split_moving_ends
from ppgen._staging.draw import draw
from ppgen.errors import DerivativeError
from ppgen.estimators import AbstractEstimator
from ppgen.testing._families import DISTRIBUTIONS, KINDS

# Of the elements of an event: not alike, since the elements of a simplex have a constant sum.
_WEIGHTS = np.array([1.0, -0.7, 0.4])
# The oracle sums over the product of what the elements can be.
_SHAPES = {"MultivariateNormal": {"reals": (2,), "positives": (2,)}}

Theta = Mapping[str, np.ndarray]
"""Unconstrained numbers by the name of the parameter that they are mapped to."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A family of distributions and an estimator for one choice of it.

    Attributes:
        family: a name of `ppgen.testing.DISTRIBUTIONS`.
        estimator: for the choice.
        theta: unconstrained numbers by the name of the parameter that they are mapped to: those
            parameters that the estimator differentiates in.
        fixed: the parameters that it does not.
        order: the highest derivative that it has; zero where it does not serve the family.
        reason: the estimator's reason for not serving it, or not to a higher order; empty if there
            is none.
    """

    family: str
    estimator: AbstractEstimator
    theta: Theta
    fixed: Theta
    order: int
    reason: str

    def distribution(self, theta: Mapping[str, Any]) -> Distribution:
        """The distribution at these unconstrained numbers."""
        return _distribution(self.family, {**self.fixed, **theta})

    def __call__(self, theta: Mapping[str, Any]) -> Array:
        """An objective to test the pair with: a scalar.

        One choice and a cost that is bounded (heavy tails leave it a variance), smooth (so that
        every estimator serves it, those that look between the values of a discrete choice too) and
        neither odd nor even.
        """
        x = draw(self.distribution(theta), name="x", grad=self.estimator)
        cost = jnp.tanh(x - 0.3) + 0.6 * jnp.exp(-0.5 * (x - 1.4) ** 2)
        return jnp.sum(_WEIGHTS[: x.shape[-1]] * cost) if jnp.ndim(x) else cost


def pair(family: str, estimator: AbstractEstimator) -> Pair:
    """A family of `ppgen.testing.DISTRIBUTIONS` and an estimator, which may be your own.

    If they do not fit, it has order zero and the reason. Nothing is sampled: missing derivatives
    are found by tracing.

    Example:
        >>> from ppgen import ARM
        >>> from ppgen.testing import assert_unbiased, pair
        >>> flips = pair("BernoulliProbs", ARM())
        >>> _ = assert_unbiased(flips, flips.theta, order=flips.order, samples=100_000)
        >>> pair("Poisson", ARM()).reason
        'ARM() is for Bernoulli, not for Poisson'
    """
    theta = _example(family)
    if (misfit := estimator.misfit(_distribution(family, theta))) is not None:
        return Pair(family, estimator, {}, theta, 0, misfit)
    moving, reason = theta, _obstacle(family, estimator, theta, {}, order=1)
    if reason:
        # Not in all parameters at once, but perhaps in some.
        moving = {
            name: x
            for name, x in theta.items()
            if not _obstacle(family, estimator, {name: x}, theta, order=1)
        }
    fixed = {name: x for name, x in theta.items() if name not in moving}
    if not moving:
        return Pair(family, estimator, moving, fixed, 0, reason)
    if estimator.first_order:
        second = "first derivatives only"
    else:
        second = _obstacle(family, estimator, moving, fixed, order=2)
    return Pair(family, estimator, moving, fixed, 1 if second else 2, reason or second)


def _example(family: str) -> Theta:
    """Numbers without symmetry: if all are equal, a derivative is easily right by accident."""
    _, parameters = DISTRIBUTIONS[family]
    shapes = {"simplex": (2,)} | dict.fromkeys(("logits", "reals", "positives"), (3,))
    shapes |= _SHAPES.get(family, {})
    numbers = {(): 0.3, (2,): [0.3, -0.8], (3,): [0.3, -0.8, 0.6]}
    return {
        name: np.asarray(np.subtract(numbers[shapes.get(kind, ())], 0.7 * i), np.float32)
        for i, (name, kind) in enumerate(parameters.items())
    }


def _distribution(family: str, theta: Mapping[str, Any]) -> Distribution:
    make, parameters = DISTRIBUTIONS[family]
    return make(
        **{name: KINDS[kind](jnp.asarray(theta[name])) for name, kind in parameters.items()}
    )


def _obstacle(
    family: str, estimator: AbstractEstimator, moving: Theta, fixed: Theta, order: int
) -> str:
    """Why the points have no derivative of this order by these numbers; empty where they have."""

    def points(moving: Mapping[str, Array]) -> list[Array]:
        d = _distribution(family, {**fixed, **moving})
        split = None if estimator.differentiable else split_moving_ends(d)
        if split is None or estimator.misfit(split[0]) is not None:
            split = d, lambda x: x
        base, finish = split
        made = estimator(jax.random.key(0), base)
        made = made, finish(made.value)
        return [x for x in jax.tree.leaves(made) if jnp.issubdtype(x.dtype, jnp.inexact)]

    derivative = points
    for _ in range(order):
        derivative = jax.jacfwd(derivative)
    try:
        jax.eval_shape(derivative, dict(moving))
    except DerivativeError as error:
        return str(error)
    except NotImplementedError:
        return f"JAX has no derivative of order {order}"
    return ""
