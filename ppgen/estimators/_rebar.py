"""REBAR: the score function with a control variate from a relaxation of the cost."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from ppgen.estimators import _concrete
from ppgen.estimators._base import AbstractEstimator, Points


class REBAR(AbstractEstimator):
    r"""The score function, corrected by the cost at relaxed values. *Unbiased*, to every order.

    For Bernoulli and one-hot variables. With the sample `b`, its relaxation :math:`\zeta` and the
    relaxation given the sample :math:`\tilde\zeta`, it differentiates

    .. math:: f(b) \, e^{\log p(b)} + \eta \, (f(\zeta) - f(\tilde\zeta) \, e^{\log p(b)})

    (the exponentials stand for factors of value one with the derivative of the score). The second
    term has mean zero to every order, and cancels variance of the first to the extent that the cost
    at relaxed values resembles the cost.

    The site's value becomes a float: 0 and 1 in one of the evaluations, numbers in between in the
    two others. So the cost must be defined there and, as for `Reparameterize`, continuous with a
    continuous derivative: an index, a comparison or an integer cast is refused. So must densities:
    at a relaxed value NumPyro's Bernoulli gives `-inf`, unless it is made with
    `validate_args=False`.

    The elements of a batch (a plate) whose cost terms mix them are relaxed together: three
    evaluations whatever their number. Successive choices multiply: a cost term that depends on `k`
    of them is evaluated `3 ** k` times; with `RELAX` it is evaluated once.

    Attributes:
        temperature: of the relaxation, positive, broadcastable to the batch shape.
        scale: the factor :math:`\eta`, broadcastable to the batch shape; at 0 it is
            `ScoreFunction(baseline=0.0)`. Where elements are relaxed together, their mean counts.

    Temperature and scale never change the mean. Both may be traced, so that they can be tuned by
    minimising the variance: `jax.grad(lambda scale: sum(jax.grad(g, 1)(key, theta, scale) ** 2))`
    is an unbiased estimate of its derivative.

    Raises:
        DiscontinuityError: on use, where the relaxed value reaches something discontinuous.

    References:
        Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, *REBAR: Low-Variance, Unbiased Gradient
        Estimates for Discrete Latent Variable Models*, NeurIPS 2017.
    """

    differentiable: ClassVar[bool] = True
    weighted: ClassVar[bool] = True
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False
    together: ClassVar[bool] = True
    relaxed: ClassVar[bool] = True

    temperature: ArrayLike = 0.5
    scale: ArrayLike = 1.0

    def misfit(self, dist: Distribution) -> str | None:
        """Only Bernoulli and one-hot variables."""
        return _concrete.misfit(dist)

    def __call__(self, key: Array, dist: Distribution) -> Points:
        """The sample, its relaxation, and its relaxation given the sample."""
        hard, score, soft, conditional = _concrete.relax(key, dist, self.temperature)
        scale = jnp.broadcast_to(jnp.asarray(self.scale, score.dtype), score.shape)
        return Points(
            jnp.stack([hard.astype(soft.dtype), soft, conditional]),
            weight=jnp.stack([jnp.ones_like(score), scale, -scale]),
            score=jnp.stack([score, jnp.zeros_like(score), score]),
        )
