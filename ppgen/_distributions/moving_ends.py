"""Moving supports, split into a choice with a fixed support and a map that moves it.

A score, or any estimator that freezes its values, misses the boundary term at an end of a support
that moves. Between fixed ends it misses nothing: so `x = low + (high - low) u` is drawn by its
`u`, frozen, whose density is differentiated with respect to all parameters, and `x` moves with the
ends.

References:
    Rubinstein, *Sensitivity Analysis of Discrete Event Systems by the "Push Out" Method*, Annals of
    Operations Research 39, 1992.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, final

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.typing import ArrayLike
from numpyro.distributions import (
    Delta,
    Distribution,
    MixtureGeneral,
    MixtureSameFamily,
    TransformedDistribution,
    constraints,
)

from ppgen._derivatives import with_derivative_of, without_second_derivative
from ppgen._distributions.edges import edges_move_with
from ppgen._distributions.families import family
from ppgen._distributions.noninvertible import split_transforms
from ppgen._distributions.rebuild import rebuilt
from ppgen._distributions.wrappers import plain, split_event, sum_last, unwrapped

Split = tuple[Distribution, Callable[[Array], Delta]]
"""A distribution, and the rest of another one given its value: a point and a log density."""


_MIXTURES = (MixtureGeneral, MixtureSameFamily)


def split_moving_ends(d: Distribution) -> Split | None:
    """Split `d` into a choice with a fixed support, and the map of its value.

    Args:
        d: a distribution without event dimensions that were reinterpreted, and without masks.

    Returns:
        `None` where the support of `d` does not move, or where no such choice is known.
    """
    if not edges_move_with(d):
        return None
    inner = plain(d)
    if isinstance(inner, TransformedDistribution):
        # A subclass may sample, or have a density, in a way of its own.
        own = type(inner)
        if own.log_prob is not TransformedDistribution.log_prob:
            return None
        if own.sample is not TransformedDistribution.sample:
            return None
        base, finish = split_transforms(inner, d.batch_shape)
        base, _ = split_event(base)
        if not edges_move_with(base):
            return base, finish
        before = split_moving_ends(base)
        return None if before is None else one_after_the_other(before, finish, d)
    if d.event_dim or _interval(d) is None:
        return None
    return Unmoved(d), lambda u: _moved(d, u)


def one_after_the_other(first: Split, then: Callable[[Array], Delta], d: Distribution) -> Split:
    """What is drawn by `first`, and mapped by it and then by the map to `d`."""

    def finish(u: Array) -> Delta:
        between: Any = first[1](u)
        point: Any = then(between.v)
        own = sum_last(between.log_density, jnp.ndim(between.log_density) - len(d.batch_shape))
        return Delta(point.v, log_density=point.log_density + own, event_dim=d.event_dim)

    return first[0], finish


class Interval(NamedTuple):
    """The support of a scalar distribution: its ends, which may be infinite."""

    low: ArrayLike
    high: ArrayLike


def _interval(d: Distribution) -> Interval | None:
    """The support of `d`, where it says that it is an interval of real numbers."""
    support: Any = d.support
    if support is None or support.is_discrete or isinstance(unwrapped(d), _MIXTURES):
        return None  # the ends of components lie inside of a mixture's
    low: Any = getattr(support, "lower_bound", None)
    high: Any = getattr(support, "upper_bound", None)
    if isinstance(support, type(constraints.interval(0.0, 1.0))):
        return Interval(low, high)
    if isinstance(support, type(constraints.greater_than(0.0))):
        return Interval(low, math.inf)
    if isinstance(support, type(constraints.less_than(0.0))):
        return Interval(-math.inf, high)
    return None


def _shift_and_scale(d: Distribution) -> tuple[Array, Array]:
    """The map from a fixed interval to the support of `d`, whose ends may be infinite."""
    interval = _interval(d)
    assert interval is not None
    low, high = (jnp.asarray(end, float) for end in interval)
    if any(family(part).kinked for part in _parts(d)):
        # The density has a kink that comes nearer to `u` as an end moves.
        low, high = (
            without_second_derivative(
                end,
                f"the score of {type(plain(d)).__name__} was differentiated twice with respect to "
                "a bound of its support: its log density has a kink, whose second derivative no "
                "sample meets",
                "Reparameterize() at this site, or first derivatives",
            )
            for end in (low, high)
        )
    above, below = jnp.isfinite(low), jnp.isfinite(high)
    # No derivative flows through what is infinite.
    low, high = jnp.where(above, low, 0.0), jnp.where(below, high, 0.0)
    return jnp.where(above, low, high), jnp.where(above & below, high - low, 1.0)


def _parts(d: Distribution) -> list[Distribution]:
    found: list[Distribution] = []

    def note(x: Any) -> Any:
        if isinstance(x, Distribution):
            found.append(x)
        return x

    rebuilt(d, note)
    return found


def _moved(d: Distribution, u: Array) -> Delta:
    """The point of the support of `d` at `u`, and the log density that the map adds."""
    shift, scale = _shift_and_scale(d)
    interval = _interval(d)
    assert interval is not None
    x = shift + scale * u
    # Rounding must not put it outside, where there is no density.
    inside = jnp.clip(*map(stop_gradient, (x, *interval)))
    return Delta(with_derivative_of(x, inside), log_density=-jnp.log(scale) + jnp.zeros_like(x))


@final
class Unmoved(Distribution):
    """A scalar distribution, mapped to fixed ends: 0 and 1, or 0 and infinity.

    Which of them may depend on values, so the support does not say.
    """

    support = constraints.real  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("base",)

    def __init__(self, base: Distribution) -> None:
        """`base` is scalar, and its support an interval."""
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """The relative position of a sample of `base` between the ends."""
        shift, scale = _shift_and_scale(self.base)
        return (jnp.asarray(self.base.sample(key, sample_shape)) - shift) / scale

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """Log density (in nats) of a relative position."""
        point: Any = _moved(self.base, jnp.asarray(value))
        return self.base.log_prob(point.v) - point.log_density
