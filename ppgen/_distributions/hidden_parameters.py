"""What a mask hides of the parameters of a distribution.

A parameter that is not a number, computed from data that are missing, has no density to contribute
where the mask hides it. A `where` around the density takes out the value; what flows back through
the density is 0 · NaN, which only parameters that are numbers take out.
"""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    TransformedDistribution,
    transforms,
)

from ppgen._distributions.rebuild import changed


def without_hidden_parameters(d: Distribution, mask: Any) -> Distribution:
    """`d`, whose parameters that count for hidden elements only are some within their bounds.

    Args:
        d: a distribution.
        mask: a bool, or an array that broadcasts to the batch shape: true where elements are shown.
    """
    return _shown(d, jnp.asarray(mask, bool))


def _shown(d: Distribution, mask: Array) -> Distribution:
    if isinstance(d, ExpandedDistribution | MaskedDistribution):
        return changed(d, base_dist=_shown(d.base_dist, mask))
    if isinstance(d, Independent):
        inner = mask[(..., *(None,) * d.reinterpreted_batch_ndims)]
        return changed(d, base_dist=_shown(d.base_dist, inner))
    new: dict[str, Any] = {}
    if isinstance(d, TransformedDistribution):
        base: Distribution = d.base_dist
        more = len(base.batch_shape) - len(d.batch_shape)
        new["base_dist"] = _shown(base, mask[(..., *(None,) * max(more, 0))])
        inner = mask[(..., *(None,) * d.event_dim)]
        new["transforms"] = [_shown_transform(t, inner) for t in d.transforms]
    for name, constraint in d.arg_constraints.items():
        value = vars(d).get(name)
        if not (isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)):
            continue
        point = _feasible(constraint, value)
        if point is not None:
            own = mask[(..., *(None,) * constraint.event_dim)]
            new[name] = jnp.where(_to_shape(own, value), value, point)
    return changed(d, **new) if new else d


def _shown_transform(t: Any, mask: Array) -> Any:
    if type(t) is not transforms.AffineTransform:
        return t
    new = {
        name: jnp.where(_to_shape(mask, value), value, point)
        for name, point in (("loc", 0.0), ("scale", 1.0))
        if isinstance(value := getattr(t, name), jax.Array)
    }
    return changed(t, **new) if new else t


def _feasible(constraint: Any, value: Array) -> Any:
    try:
        return jax.lax.stop_gradient(cast(Any, constraint).feasible_like(jnp.zeros_like(value)))
    except (NotImplementedError, AttributeError, TypeError):  # a constraint that does not say
        return None


def _to_shape(mask: Array, value: Array) -> Array:
    """Whether an element of a parameter counts for any element that is shown."""
    lead = mask.ndim - value.ndim
    mask = jnp.any(mask, axis=tuple(range(max(lead, 0))))
    start = value.ndim - mask.ndim
    wide = [k for k in range(mask.ndim) if value.shape[start + k] == 1 and mask.shape[k] != 1]
    return jnp.any(mask, axis=tuple(wide), keepdims=True)
