"""The shape and type of a distribution's samples, without drawing any."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import Distribution

_KNOWN: dict[Any, jax.ShapeDtypeStruct | None] = {}
_PLAIN = (bool, int, float, str, type(None))


def sample_shape(dist: Distribution, leaves: list[Array]) -> jax.ShapeDtypeStruct | None:
    """Shape and dtype of `dist.sample(key)`, or `None` if `dist` has a density and no sampler.

    `leaves` are the arrays that `dist` holds.

    Asking JAX traces the sampler, which in a program of a thousand sites is most of the work. So
    the answer is cached if it can depend only on the class of the distribution, plain attributes
    and the types of its arrays.
    """
    key = _key(dist, leaves)
    if key is not None and key in _KNOWN:
        return _KNOWN[key]
    rng_key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        found = jax.eval_shape(dist.sample, rng_key)
    except NotImplementedError:
        found = None  # As of an improper uniform: its values are given.
    else:
        found = jax.ShapeDtypeStruct(found.shape, found.dtype)
    if key is not None:
        _KNOWN[key] = found
    return found


def _key(dist: Distribution, leaves: list[Array]) -> Any:
    if not type(dist).__module__.startswith("numpyro.distributions."):
        return None
    ours = {id(leaf) for leaf in leaves}
    fields = []
    for name, value in sorted(vars(dist).items()):
        if id(value) in ours or isinstance(value, np.ndarray | np.generic):
            aval = jax.typeof(value)
            fields.append((name, aval.shape, aval.dtype, aval.weak_type))
        elif isinstance(value, _PLAIN):
            # 1 == 1.0 == True, so the type is part of the cache key.
            fields.append((name, type(value), value))
        elif isinstance(value, tuple) and all(isinstance(v, int) for v in value):
            fields.append((name, value))
        else:
            return None
    return type(dist), jnp.result_type(float), tuple(fields)
