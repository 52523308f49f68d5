"""Densities of transformed choices without inverting the transforms.

A site whose transforms have no inverse becomes two: an auxiliary choice before the transforms, and
the point to which they map it, with the Jacobian as its density. The same is done for transforms
that saturate, whose inverse has lost digits that the density needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Delta, Distribution, TransformedDistribution, transforms

from ppgen._distributions.wrappers import plain, sum_last

_INVERTED = (
    transforms.AffineTransform,
    transforms.ExpTransform,
    transforms.IdentityTransform,
    transforms.LowerCholeskyAffine,
    transforms.PermuteTransform,
    transforms.ReshapeTransform,
)


def split_one_way(dist: Distribution) -> tuple[Distribution, Callable[[Array], Delta]] | None:
    """The distribution before the transforms, and the rest of the site given its value.

    Returns:
        `None` where every transform has an inverse.
    """
    batch_shape = dist.batch_shape
    inner = plain(dist)
    if not isinstance(inner, TransformedDistribution) or _invertible(inner):
        return None
    return split_transforms(inner, batch_shape)


def loses_digits(dist: Distribution) -> bool:
    """Whether the point before the transforms cannot be recovered from the one after them.

    A sigmoid of 20 is 1 in single precision. Affine and exponential transforms, and permutations,
    can be inverted.
    """
    dist = plain(dist)
    return (
        isinstance(dist, TransformedDistribution)
        and not all(type(t) in _INVERTED for t in dist.transforms)
        # A subclass may have a density of its own.
        and type(dist).log_prob is TransformedDistribution.log_prob
        and _invertible(dist)
    )


def split_transforms(
    dist: TransformedDistribution, batch_shape: tuple[int, ...]
) -> tuple[Distribution, Callable[[Array], Delta]]:
    """The distribution before the transforms, and the rest given its value, as a point mass.

    Args:
        dist: the transformed distribution, not expanded.
        batch_shape: that of the expanded distribution.
    """
    if dist.batch_shape != batch_shape:
        kept = len(dist.base_dist.batch_shape) - len(dist.batch_shape)
        tail = dist.base_dist.batch_shape[len(dist.batch_shape) :] if kept > 0 else ()
        dist = TransformedDistribution(
            dist.base_dist.expand((*batch_shape, *tail)), dist.transforms
        )

    def finish(x: Any) -> Delta:
        log_density: Any = jnp.zeros(())
        for transform in dist.transforms:
            y, intermediates = transform.call_with_intermediates(x)
            jacobian: Any = transform.log_abs_det_jacobian(x, y, intermediates)
            inside = jnp.ndim(jacobian) - len(batch_shape)
            log_density = log_density - sum_last(jacobian, inside)
            x = y
        return Delta(x, log_density=log_density, event_dim=dist.event_dim)

    return dist.base_dist, finish


def _invertible(dist: TransformedDistribution) -> bool:
    def inverted() -> Any:
        y = jnp.zeros(dist.shape())
        for transform in reversed(dist.transforms):
            y = transform._inverse(y)
        return y

    try:
        jax.eval_shape(inverted)
    except NotImplementedError:
        return False
    except Exception:  # other errors are reported by the distribution itself
        return True
    return True
