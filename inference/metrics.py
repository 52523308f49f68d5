"""Figures of a fitted model, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree, Shaped

import ppgen
from ppgen._tracebacks import boundary
from ppgen.inference.fitting._batches import leading_axis


class Estimate(NamedTuple):
    """A mean over data and its standard error, both in nats for a log density."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.standard_error:.2f}"


def mean_over_data(values: Float[np.ndarray, " n"]) -> Estimate:
    """Mean of one value for each datum, as an estimate of the mean over the population.

    The standard error is that of n independent data, so it covers both the choice of the data and
    the Monte-Carlo noise in each value.

    Args:
        values: Two values or more.

    Returns:
        Mean and standard error.
    """
    values = np.asarray(values, np.float64)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def bits_per_dimension(nats: Estimate, dimensions: int) -> Estimate:
    """Turns a log density in nats into a code length in bits per dimension: lower is better."""
    scale = dimensions * math.log(2)
    return Estimate(-nats.mean / scale, nats.standard_error / scale)


@boundary
def per_datum(
    objective: Callable[..., Float[Array, ""]],
    params: Any,
    data: PyTree[Shaped[Array | np.ndarray, "..."]],
    *,
    key: Key[Array, ""],
    draws: int = 1,
    batch_size: int = 16,
) -> Float[np.ndarray, " n"]:
    """Estimates an objective at every datum.

    Args:
        objective: A function of parameters and one datum that `ppgen.expectation` takes.
        params: The parameters.
        data: An array, or any pytree of arrays with one leading axis in common.
        key: Every datum gets a key of its own from it.
        draws: Independent draws to average at each datum.
        batch_size: Data computed at the same time: memory grows with it and with `draws`.

    Returns:
        One estimate for each datum.

    Raises:
        ValueError: The arrays do not share a leading axis, or there are none; or draws or
            batch_size are below one.
    """
    if draws < 1 or batch_size < 1:
        raise ValueError(f"draws and batch_size must be positive, not {draws} and {batch_size}")
    rows = leading_axis(data)
    estimate = ppgen.expectation(objective, draws=draws)
    keys = jax.random.split(key, rows)

    @eqx.filter_jit
    def all_data(params: Any, keys: Key[Array, " n"], data: Any) -> Array:
        return jax.lax.map(
            lambda pair: estimate(pair[0], params, pair[1]), (keys, data), batch_size=batch_size
        )

    return np.asarray(all_data(params, keys, jax.tree.map(jnp.asarray, data)))
