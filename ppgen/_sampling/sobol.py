"""Sobol points in random order with a random scramble."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MAX_DIMENSIONS = 21_201
_BITS = 32


def scrambled_sobol(key: Array, index: Array | int, size: int, dimensions: int) -> Array:
    """One of `size` points of a Sobol net, `(dimensions,)`, as 32 bits each.

    Each point is uniform, whatever `index`. All of them together are a net that covers the unit
    cube evenly, best where `size` is a power of two. Each dimension is scrambled by a random
    lower-triangular matrix over the integers modulo 2 and a random shift, which keeps the net one
    (Matoušek's affine scramble). Their order is random, so that the nets of different keys, whose
    dimensions are the same, can be paired point by point (Latin supercube sampling).

    Args:
        key: randomness, the same for all points of a net.
        index: which of the points.
        size: how many points there are.
        dimensions: of the net, at most `MAX_DIMENSIONS`.

    References:
        Owen, *Latin Supercube Sampling for Very High-Dimensional Simulations*, ACM TOMACS 8, 1998.
        Matoušek, *On the L2-Discrepancy for Anchored Boxes*, Journal of Complexity 14, 1998.
    """
    order, matrix, shift = jax.random.split(key, 3)
    place = jax.random.permutation(order, size)[index].astype(jnp.uint32)
    columns = jnp.asarray(_direction_numbers(dimensions, max(1, (size - 1).bit_length())))
    columns = _multiplied(matrix, columns)
    chosen = (place >> jnp.arange(columns.shape[1], dtype=jnp.uint32)) & 1
    shifts = jax.random.bits(shift, (dimensions,), jnp.uint32)
    return shifts ^ jnp.bitwise_xor.reduce(jnp.where(chosen == 1, columns, jnp.uint32(0)), axis=1)


def _multiplied(key: Array, columns: Array) -> Array:
    """Direction numbers `(dimensions, columns)`, those of a dimension times one random matrix."""
    bit = jnp.arange(_BITS, dtype=jnp.uint32)[::-1]  # from the first digit on
    # Row i has a one on the diagonal, and random digits before it.
    diagonal = jnp.uint32(1) << bit
    before = ~((diagonal << 1) - 1)
    random = jax.random.bits(key, (columns.shape[0], 1, _BITS), jnp.uint32)
    rows = (random & before) | diagonal
    digits = jax.lax.population_count(rows & columns[..., None]) & 1
    return jnp.sum(digits << bit, axis=-1, dtype=jnp.uint32)


@functools.cache
def _direction_numbers(dimensions: int, columns: int) -> np.ndarray:
    """Those of Joe and Kuo, which SciPy has, as `(dimensions, columns)` integers of 32 bits."""
    # Takes a second to import, and few programs need it.
    from scipy.stats import qmc

    found = np.zeros((dimensions, columns), np.uint32)
    for j in range(columns):
        # Point 2^j, in SciPy's (Gray-code) order, is the sum of the last two direction numbers.
        net = qmc.Sobol(dimensions, scramble=False, bits=_BITS).fast_forward(1 << j)
        point = (net.random(1)[0] * 2.0**_BITS).astype(np.uint32)
        found[:, j] = point ^ found[:, j - 1] if j else point
    return found
