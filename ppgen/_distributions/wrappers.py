"""Wrappers of distributions (masks, expansions, event dimensions), and their removal.

`plain`, `split_mask`, `without_masks` and `split_event` remove one wrapper and keep its
information, `unwrapped` removes all of them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)

from ppgen._distributions.rebuild import rebuilt

T = TypeVar("T")


def plain(dist: Any) -> Any:
    """The distribution without expansions, whose parameters broadcast to the batch of `dist`.

    A plate expands a distribution to its size, which gives one of another class. An estimator that
    needs the class or the parameters of a distribution has to take them from this one.

    Example:
        >>> import numpyro.distributions as dist, ppgen
        >>> type(ppgen.plain(dist.Normal(0.0, 1.0).expand([3]))).__name__
        'Normal'
    """
    while isinstance(dist, ExpandedDistribution):
        dist = dist.base_dist
    return dist


def unwrapped(dist: Any, *, masks: bool = True) -> Any:
    """The distribution beneath expansions, event dimensions and, if `masks`, masks."""
    wrappers = (ExpandedDistribution, Independent, *((MaskedDistribution,) if masks else ()))
    while isinstance(dist, wrappers):
        dist = dist.base_dist
    return dist


def split_mask(dist: Distribution) -> tuple[Distribution, Any]:
    """Split `dist` in one without masks around it, and their conjunction or None.

    The mask is a bool or an array that broadcasts to the batch shape. A mask within `to_event`
    cannot be told per batch element and stays where it is (see `without_masks`).
    """
    if isinstance(dist, MaskedDistribution):
        base, mask = split_mask(dist.base_dist)
        return base, _both(mask, dist._mask)
    if isinstance(dist, ExpandedDistribution):
        base, mask = split_mask(dist.base_dist)
        return (dist, None) if mask is None else (base.expand(dist.batch_shape), mask)
    if isinstance(dist, Independent):
        base, mask = split_mask(dist.base_dist)
        if isinstance(mask, bool):
            return base.to_event(dist.reinterpreted_batch_ndims), mask
    return dist, None


def _both(a: Any, b: Any) -> Any:
    if a is None or a is True or b is False:
        return b
    return a if b is True or a is False else jnp.logical_and(a, b)


def is_masked(dist: Any) -> bool:
    """Whether there is a mask anywhere in it that may hide something: also within `to_event`."""
    found = []

    def note(x: Any) -> Any:
        found.append(isinstance(x, MaskedDistribution) and x._mask is not True)
        return x

    rebuilt(dist, note)
    return any(found)


def without_masks(dist: Distribution) -> Distribution:
    """The distribution that `dist` samples from: a mask changes its density only."""
    if isinstance(dist, MaskedDistribution):
        return without_masks(dist.base_dist)
    if isinstance(dist, ExpandedDistribution):
        base = without_masks(dist.base_dist)
        return dist if base is dist.base_dist else base.expand(dist.batch_shape)
    if isinstance(dist, Independent):
        base = without_masks(dist.base_dist)
        return dist if base is dist.base_dist else base.to_event(dist.reinterpreted_batch_ndims)
    return dist


def split_event(dist: Distribution) -> tuple[Distribution, int]:
    """Undo `to_event`: the elementwise distribution, and the number of added batch dimensions."""
    if isinstance(dist, Independent):
        base, n = split_event(dist.base_dist)
        return base, n + dist.reinterpreted_batch_ndims
    if isinstance(dist, ExpandedDistribution):
        base, n = split_event(dist.base_dist)
        if n:
            return base.expand(dist.batch_shape + dist.event_shape[:n]), n
    return dist, 0


def in_single_precision(dist: Distribution) -> Distribution:
    """`dist` with its parameters in single precision at least.

    A flip with probability .001, drawn in bfloat16, comes out eight times too often: uniform
    numbers have steps of 1/128 there. And a log density of -5220 nats is returned as -5248.
    """
    copies: dict[int, Any] = {}

    def promoted(x: Any) -> Any:
        single = as_single_precision(x)
        return x if single is x else copies.setdefault(id(x), single)

    return rebuilt(dist, promoted)


def as_single_precision(x: Any) -> Any:
    """Floating-point arrays of less than single precision, cast to it."""
    if not (isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)):
        return x
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def is_discrete(dist: Any) -> bool:
    """Whether the values of a distribution are counted, whichever type they have.

    NumPyro's geometric distribution, for one, gives whole numbers as floating-point ones.
    """
    try:
        support = dist.support
    except NotImplementedError:
        return False
    return support is not None and bool(getattr(support, "is_discrete", False))


def sum_last(x: Array, dims: int) -> Array:
    """The sum over the last `dims` axes, of which any may be of size zero."""
    return jnp.sum(x, axis=tuple(range(-dims, 0))) if dims else x


def stands_for_base(cls: type[T]) -> type[T]:
    """Give a distribution what its attribute `base` has, but for draws, densities and its own."""

    def attribute(name: str) -> property:
        return property(lambda self: getattr(self.base, name))

    # What every distribution has, and so is never missing.
    for name in (
        "support",
        "mean",
        "variance",
        "has_enumerate_support",
        "enumerate_support",
        "cdf",
        "icdf",
        "entropy",
    ):
        if name not in vars(cls):
            setattr(cls, name, attribute(name))

    def other(self: Any, name: str) -> Any:
        # Parameters, and methods of its own class.
        if name == "base" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.base, name)

    cls.__getattr__ = other  # pyright: ignore[reportAttributeAccessIssue]
    return cls
