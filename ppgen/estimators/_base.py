"""The interface that every gradient estimator implements."""

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
from jax import Array
from numpyro.distributions import Distribution


class Points(eqx.Module):
    """A finite, signed, weighted set of points that stands for a distribution.

    Batch elements are independent of each other: element `i` has its own points and weights.

    Attributes:
        value: the points, of shape `(*batch, *event)`, or `(S, *batch, *event)` where there are
            weights.
        weight: `(S, *batch)`, summing to one over `S` in value; `None` for a single point.
        score: `(*batch)`, the log density (in nats) of a single *frozen* point as a function of
            the parameters: its derivative is the score. `None` where the estimator uses none.
            With weights `(S, *batch)`: each weight is multiplied by a factor of value one with the
            derivative of its score.
        baseline: broadcastable to `(*batch)`, subtracted from the cost that the score multiplies.
        control: a number, or broadcastable to `(*batch)`, whose mean and whose derivatives' means
            are zero: it is added to the cost, to lower the variance.
    """

    value: Array
    weight: Array | None = None
    score: Array | None = None
    baseline: Array | None = None
    control: Array | None = None


class AbstractEstimator(eqx.Module):
    """How a random choice is made differentiable.

    An estimator replaces a distribution by a random, finite, signed, weighted set of points with
    `E_key[sum_s w_s(theta) f(x_s)] = E[f(x)]`, and likewise for the derivatives, for every `f`.

    Implementing an estimator:
        - `differentiable`: true where the points move with the parameters and JAX is to
          differentiate through them (pathwise). Otherwise they are frozen.
        - `weighted`: true where `__call__` returns weights (several points).
        - `biased`: true where the identity above does not hold; such an estimator is refused
          without `allow_biased=True`.
        - `first_order`: true where point 0 is the sample, with a weight of value one, and all
          other weights have value zero and only a first derivative. Such sets combine additively
          (k sites cost 1 + k evaluations, not 2^k), which is exact to first order only.
        - `together` (default false): where a cost mixes elements of a batch, their points are
          exchanged all at once (DisARM, REBAR), not one element at a time nor in all combinations.
          Where the set is not of first order it has a `score`: scores add up over the elements, and
          weights (which must be constants) are averaged.
        - `coupled` (default false): the points of one draw depend on those of the others, so that
          no other draw's cost is a baseline for it.
        - `pruned` (default false), for first-order sets: evaluate the cost at only one of the other
          points, picked at random, with its weight multiplied accordingly.
        - `fixed_points` (default false): the points do not depend on the parameters.
        - `enumerates` (default false): the points are all values of the distribution.
        - `relaxed` (default false): the points of a discrete distribution are floats, so that they
          may lie between its values.
        - `self_contained` (default false): the points are a function of the key, the distribution
          and the estimator's fields alone, so that choices that are alike are traced once.
        - `controlled` (default false): `control` or `baseline` comes with the points.
        - `misfit(dist)`: `None`, or the reason why the estimator cannot serve this distribution.
        - `__call__(key, dist)`: the points. `dist` has neither masks nor reinterpreted event
          dimensions; every batch element is an independent choice. In a plate it is an expanded
          distribution, and `ppgen.plain(dist)` has its parameters. Use `ppgen.densities.log_prob`
          for densities, freeze what must not be differentiated with `jax.lax.stop_gradient`.

    Array-valued fields are traced: an estimator may hold a baseline that is being trained.
    """

    differentiable: eqx.AbstractClassVar[bool]
    weighted: eqx.AbstractClassVar[bool]
    biased: eqx.AbstractClassVar[bool]
    first_order: eqx.AbstractClassVar[bool]
    together: ClassVar[bool] = False
    coupled: ClassVar[bool] = False
    fixed_points: ClassVar[bool] = False
    enumerates: ClassVar[bool] = False
    relaxed: ClassVar[bool] = False
    self_contained: ClassVar[bool] = False

    @property
    def pruned(self) -> bool:
        """Whether only one of the other points is evaluated, picked at random."""
        return False

    @property
    def controlled(self) -> bool:
        """Whether control terms come with the points."""
        return False

    @property
    def leave_one_out(self) -> bool:
        """Whether the mean cost of other draws may serve as a baseline."""
        return False

    @property
    def in_place(self) -> bool:
        """Whether the set is one point that JAX itself differentiates: no weight, no score."""
        return self.differentiable and not self.weighted

    @abstractmethod
    def misfit(self, dist: Distribution) -> str | None:
        """Why this estimator cannot serve `dist`, in words, or `None` where it can."""

    @abstractmethod
    def __call__(self, key: Array, dist: Distribution) -> Points:
        """The weighted points that stand for `dist` in this run."""
