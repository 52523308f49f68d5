"""The logarithm of a mean of exponentials."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def log_mean_exp(x: Array, axis: int = 0) -> Array:
    """Log of the mean of exp(x) along `axis`, without overflow."""
    return jax.nn.logsumexp(x, axis=axis) - jnp.log(x.shape[axis])
