"""Relaxations of discrete choices: low variance, at the price of a bias."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from ppgen._derivatives import with_derivative_of
from ppgen._distributions.wrappers import plain
from ppgen.estimators._base import AbstractEstimator, Points

_BERNOULLI = (dist.BernoulliLogits, dist.BernoulliProbs)
_MULTINOMIAL = (dist.MultinomialLogits, dist.MultinomialProbs)


class StraightThrough(AbstractEstimator):
    """The straight-through estimator. *Biased*, except for costs linear in each choice.

    The value is an ordinary sample, zero-one or one-hot, as a float, and has the derivative of its
    mean (the probabilities). Only with `allow_biased=True`.

    Raises:
        BiasedEstimatorError: on use, without `allow_biased=True`.

    References:
        Bengio, Léonard and Courville, *Estimating or Propagating Gradients Through Stochastic
        Neurons for Conditional Computation*, 2013.
    """

    differentiable: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = True
    first_order: ClassVar[bool] = False
    relaxed: ClassVar[bool] = True

    def misfit(self, dist: Distribution) -> str | None:
        """Only zero-one variables and one-hot vectors."""
        return _misfit(dist)

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """A sample with the derivative of the probabilities."""
        probs = _floating(dist, plain(dist), "probs")
        return Points(with_derivative_of(probs, dist.sample(key).astype(probs.dtype)))


class GumbelSoftmax(AbstractEstimator):
    """The Gumbel-softmax, or Concrete, relaxation. *Biased*; less so at lower temperatures.

    The value is a point between zero and one, or in the simplex: the softmax of the logits plus
    Gumbel noise, divided by the temperature. At a temperature of zero it would be a sample, at
    higher ones its derivative has a lower variance. Value and derivatives are exactly those of
    `numpyro.distributions.RelaxedBernoulli` for Bernoulli. Only with `allow_biased=True`.

    Between zero and one, the site's density is the formula of the discrete one, which takes
    `validate_args=False`: validated, NumPyro's density there is zero (`-inf`). `hard=True` needs
    neither.

    Attributes:
        temperature: positive; an array may change from step to step.
        hard: let the value be the sample that the point is closest to (*straight-through*
            Gumbel-softmax): the value is then unbiased, the derivative is still that of the point.

    Raises:
        BiasedEstimatorError: on use, without `allow_biased=True`.

    References:
        Jang, Gu and Poole, *Categorical Reparameterization with Gumbel-Softmax*, ICLR 2017.
        Maddison, Mnih and Teh, *The Concrete Distribution: A Continuous Relaxation of Discrete
        Random Variables*, ICLR 2017.
    """

    differentiable: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = True
    first_order: ClassVar[bool] = False
    relaxed: ClassVar[bool] = True
    configurations: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"hard": True})

    temperature: ArrayLike = 0.5
    hard: bool = eqx.field(default=False, static=True)

    def misfit(self, dist: Distribution) -> str | None:
        """Only zero-one variables and one-hot vectors."""
        return _misfit(dist)

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """A soft sample, or the hard one with its derivative."""
        logits = _floating(dist, plain(dist), "logits")
        temperature = jnp.asarray(self.temperature, logits.dtype)
        if dist.event_shape:
            noise = jax.random.gumbel(key, logits.shape, logits.dtype)
            soft = jax.nn.softmax((logits + noise) / temperature, axis=-1)
            sample = jax.nn.one_hot(jnp.argmax(soft, -1), soft.shape[-1], dtype=soft.dtype)
        else:
            noise = jax.random.logistic(key, logits.shape, logits.dtype)
            soft = jax.nn.sigmoid((logits + noise) / temperature)
            sample = (logits + noise > 0).astype(soft.dtype)
        return Points(with_derivative_of(soft, sample) if self.hard else soft)


def _misfit(d: Distribution) -> str | None:
    base = plain(d)
    if type(base) in _BERNOULLI or _is_one_hot(base):
        return None
    name = type(base).__name__
    if name.startswith("Categorical"):
        return (
            f"an index cannot be relaxed, and {name} is over indices; write a one-hot "
            "distribution, numpyro.distributions.Multinomial(1, probs) or "
            "distrax.OneHotCategorical(probs=probs), and sums in place of indexing"
        )
    return f"{name} cannot be relaxed; Bernoulli, Multinomial(1, ...), OneHotCategorical can"


def _is_one_hot(d: Any) -> bool:
    if type(d) in _MULTINOMIAL:
        # A total count that is traced is not known to be one.
        return isinstance(d.total_count, int) and d.total_count == 1
    inner = getattr(d, "distribution", None)
    return inner is not None and _is_distrax_one_hot(type(inner))


def _is_distrax_one_hot(kind: type) -> bool:
    # Distrax takes seconds to import: by name. Its straight-through wrapper makes subclasses.
    return kind.__module__.startswith("distrax.") and kind.__name__ == "OneHotCategorical"


def _floating(d: Distribution, base: Any, name: str) -> Array:
    """The probabilities or logits, in the shape and type of the relaxed sample."""
    parameter = getattr(getattr(base, "distribution", base), name)
    shape = d.batch_shape + d.event_shape
    return jnp.broadcast_to(jnp.asarray(parameter, jnp.result_type(float)), shape)
