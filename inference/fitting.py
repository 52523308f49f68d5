"""Stochastic optimisation of any objective that `ppgen.expectation` takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

import ppgen
from ppgen.errors import PpgenError
from ppgen.inference.batches import Batches


class FitError(PpgenError, ArithmeticError):
    """An objective or a gradient that is not finite. The message names the step."""


class Fitted(NamedTuple):
    """What `fit` returns.

    Attributes:
        params: The optimised parameters, of the structure that `fit` was given.
        history: The estimate of the objective at each step, before the step was taken.
    """

    params: Any
    history: Float[np.ndarray, " steps"]


class Progress(NamedTuple):
    """What a callback of `fit` is told.

    Attributes:
        step: Steps taken so far.
        values: The objective at the steps since the last call.
        params: The parameters now.
        seconds: Time since `fit` began, compilation included.
    """

    step: int
    values: Float[np.ndarray, " new"]
    params: Any
    seconds: float


class _State(eqx.Module):
    """The carry of the loop: all of it is arrays."""

    params: PyTree
    optimizer: PyTree
    order: Int[Array, " rows"]
    values: Float[Array, " chunk"]
    bad_step: Int[Array, ""]
    bad_leaves: Bool[Array, " leaves"]


def fit(
    objective: Callable[..., Float[Array, ""]],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    steps: int,
    data: PyTree | None = None,
    batch_size: int | None = None,
    draws: int = 1,
    maximize: bool = False,
    callback: Callable[[Progress], bool | None] | None = None,
    chunk: int = 100,
) -> Fitted:
    """Minimises the expectation of an objective by stochastic gradient descent.

    The loop runs on the device, `chunk` steps at a time. The gradients are those of
    `ppgen.expectation(objective, draws=draws)`, so they are unbiased.

    Args:
        objective: A function of the parameters, and of a batch if there are data, that returns a
            scalar and may draw. On a batch it should be a mean over the rows, so that it
            estimates the same thing at any batch size.
        params: Any pytree, Equinox modules included. Its inexact arrays are optimised.
        optimizer: From optax.
        key: Everything random here follows from it.
        steps: Steps to take.
        data: A pytree of arrays with one leading axis in common, or None.
        batch_size: Rows in a batch; all of the data if None. Every epoch visits the rows in a new
            random order and leaves out the remainder that does not fill a batch.
        draws: Draws of the objective to average in each step.
        maximize: For bounds: climb rather than descend.
        callback: Called after every chunk. If it returns True, fitting ends there.
        chunk: Steps between two calls of `callback`.

    Returns:
        The parameters and the history of the objective.

    Raises:
        FitError: If the objective or its gradient is not finite at some step.
        ValueError: If an argument makes no sense.

    Examples:
        >>> import jax, numpyro, optax, ppgen
        >>> import numpyro.distributions as dist
        >>> from ppgen.inference import fit
        >>> def loss(location):
        ...     return (ppgen.draw(dist.Normal(location, 1)) - 3) ** 2
        >>> fitted = fit(loss, 0.0, optax.adam(0.05), key=jax.random.key(0), steps=500, draws=32)
        >>> print(f"{fitted.params:.0f}")
        3
    """
    if steps < 1 or chunk < 1:
        raise ValueError(f"steps and chunk must be positive, not {steps} and {chunk}")
    params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, params)
    varying, fixed = eqx.partition(params, eqx.is_inexact_array)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(varying)]
    if not names:
        raise ValueError("params hold no floating-point array, so there is nothing to optimise")
    batches = Batches(data, batch_size)
    shuffle_key, step_key = jax.random.split(key)
    value_and_grad = jax.value_and_grad(
        lambda varying, key, *batch: ppgen.expectation(objective, draws=draws)(
            key, eqx.combine(varying, fixed), *batch
        )
    )

    def one_step(data: PyTree, start: Int[Array, ""], i: Int[Array, ""], state: _State) -> _State:
        step = start + i
        order = batches.order(shuffle_key, step, state.order)
        batch = batches.take(data, step, order)
        value, gradient = value_and_grad(state.params, jax.random.fold_in(step_key, step), *batch)
        leaves = jnp.stack([~jnp.isfinite(g).all() for g in jax.tree.leaves(gradient)])
        first_bad = (state.bad_step < 0) & (leaves.any() | ~jnp.isfinite(value))
        if maximize:
            gradient = jax.tree.map(jnp.negative, gradient)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        return _State(
            params=optax.apply_updates(state.params, updates),
            optimizer=moments,
            order=order,
            values=state.values.at[i].set(value),
            bad_step=jnp.where(first_bad, step, state.bad_step),
            bad_leaves=jnp.where(first_bad, leaves, state.bad_leaves),
        )

    @jax.jit
    def run(state: _State, data: PyTree, start: Int[Array, ""], count: Int[Array, ""]) -> _State:
        # The trip count is an operand, so that a shorter last chunk compiles nothing new.
        return jax.lax.fori_loop(0, count, lambda i, s: one_step(data, start, i, s), state)

    state = _State(
        params=varying,
        optimizer=optimizer.init(varying),
        order=jnp.arange(batches.rows),
        values=jnp.zeros(min(chunk, steps)),
        bad_step=jnp.asarray(-1),
        bad_leaves=jnp.zeros(len(names), bool),
    )
    began = time.perf_counter()
    history: list[Float[np.ndarray, " chunk"]] = []
    for start in range(0, steps, chunk):
        count = min(chunk, steps - start)
        state = run(state, batches.data, jnp.asarray(start), jnp.asarray(count))
        values = np.asarray(state.values)[:count]
        if (bad_step := int(state.bad_step)) >= 0:
            value = float(values[bad_step - start])
            raise FitError(_blame(bad_step, value, np.asarray(state.bad_leaves), names))
        history.append(values)
        seconds = time.perf_counter() - began
        now = Progress(start + count, values, eqx.combine(state.params, fixed), seconds)
        if callback is not None and callback(now):
            break
    return Fitted(eqx.combine(state.params, fixed), np.concatenate(history))


def _blame(step: int, value: float, bad: Bool[np.ndarray, " leaves"], names: list[str]) -> str:
    if not np.isfinite(value):
        return f"the objective is {value} at step {step}"
    which = ", ".join(f"params{name}" for name, is_bad in zip(names, bad, strict=True) if is_bad)
    return f"the gradient of {which} is not finite at step {step}, where the objective is {value:g}"
