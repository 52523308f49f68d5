"""Rows of weights that matrices carry from step to step: `row @ m[0] @ ... @ m[t]` for every t."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array


def rows_of_products(start: Array, matrices: Array, length: int, *, parallel: bool) -> Array:
    """The rows after every step.

    Args:
        start: the first row, `(S, *batch)`.
        matrices: `(T, S, S, *batch)`, or without the axis of time where they are all the same;
            `(T, 1, S, *batch)` where the rows of a matrix are.
        length: the number of steps `T`.
        parallel: multiply the matrices in pairs, in `O(log T)` rounds and `O(T S^3)` time, instead
            of the row with one after the other, in `T` rounds and `O(T S^2)` time.

    References:
        Blelloch, *Prefix Sums and Their Applications*, Technical Report CMU-CS-90-190, 1990.
        Särkkä and García-Fernández, *Temporal Parallelization of Bayesian Smoothers*, IEEE
        Transactions on Automatic Control 66, 2021.
    """
    each = matrices.ndim == start.ndim + 2
    if not parallel:

        def step(row: Array, matrix: Array) -> tuple[Array, Array]:
            row = jnp.sum(row[:, None] * (matrix if each else matrices), axis=0)
            return row, row

        return jax.lax.scan(step, start, matrices if each else None, length=length)[1]
    matrices = matrices if each else jnp.broadcast_to(matrices, (length, *matrices.shape))
    size = start.shape[0]
    matrices = jnp.broadcast_to(matrices, (length, size, size, *start.shape[1:]))
    multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    products = jax.lax.associative_scan(multiply, jnp.moveaxis(matrices, (1, 2), (-2, -1)))
    return jnp.sum(start[:, None] * jnp.moveaxis(products, (-2, -1), (1, 2)), axis=1)
