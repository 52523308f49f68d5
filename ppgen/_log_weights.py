"""Sums of weights given by their logarithms, where some or all of the weights may be zero.

A weight of zero has a log weight of minus infinity. It contributes nothing to a sum of weights, nor
does its derivative, which is often not a number.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient


def log_sum_exp(x: Array, axis: int = 0) -> Array:
    """Log of the sum of exp(x) along `axis`; where it is infinite, its derivative is zero."""
    largest = stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    x = jnp.where(jnp.isinf(largest), largest, x)
    return jax.nn.logsumexp(x, axis=axis)


def log_mean_exp(x: Array, axis: int = 0) -> Array:
    """Log of the mean of exp(x) along `axis`, without overflow."""
    return log_sum_exp(x, axis) - math.log(x.shape[axis])


def self_normalized(log_weights: Array, axis: int = 0) -> Array:
    """Weights of sum one along `axis`; where all are zero, they stay so."""
    dead = stop_gradient(jnp.max(log_weights, axis=axis, keepdims=True)) == -jnp.inf
    weights = jax.nn.softmax(jnp.where(dead, 0.0, log_weights), axis=axis)
    return jnp.where(dead, 0.0, weights)


def weighted(weights: Array, x: Array) -> Array:
    """`weights * x`, with 0 * infinity = 0, in value and derivative."""
    none = stop_gradient(weights) == 0
    return jnp.where(none, 0.0, weights * jnp.where(none, 0.0, x))


def normalized(log_weights: Array) -> tuple[Array, Array]:
    """Normalised log weights, and the logarithm of their sum."""
    total = log_sum_exp(log_weights)
    dead = stop_gradient(total) == -jnp.inf
    equal = jnp.full_like(log_weights, -math.log(log_weights.shape[0]))
    # If all particles have weight zero, the estimate is zero for good, and any weights will do.
    return jnp.where(dead, equal, log_weights - jnp.where(dead, 0.0, total)), total
