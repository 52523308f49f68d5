"""Transforms without an inverse: their density is known only where they were just applied.

A site with such a distribution becomes two: the choice before the transforms, auxiliary, and the
point that they map it to, with the Jacobian for a density. Nothing has to be inverted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Delta, Distribution, TransformedDistribution
from numpyro.distributions.util import sum_rightmost

from ppgen._distributions.wrappers import plain


def split_one_way(dist: Distribution) -> tuple[Distribution, Callable[[Array], Delta]] | None:
    """The distribution before the transforms, and the rest of the site given its value.

    Returns:
        `None` where every transform has an inverse.
    """
    batch_shape = dist.batch_shape
    dist = plain(dist)
    if not isinstance(dist, TransformedDistribution) or _invertible(dist):
        return None
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
            jacobian = transform.log_abs_det_jacobian(x, y, intermediates)
            inside = jnp.ndim(jacobian) - len(batch_shape)
            log_density = log_density - sum_rightmost(jacobian, inside)
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
    except Exception:  # whatever else goes wrong is the distribution's own to report
        return True
    return True
