"""Stochastic optimisation of any objective that `ppgen.expectation` takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree, UInt32

import ppgen
from ppgen._keys import first_key
from ppgen._tracebacks import boundary
from ppgen.inference.fitting._arguments import check_arguments, check_direction, warn_of_flight
from ppgen.inference.fitting._bar import Bar
from ppgen.inference.fitting._checkpoint_store import Checkpoints, Store
from ppgen.inference.fitting._early_stopping import EarlyStopping, Validation
from ppgen.inference.fitting._loggers import AbstractLogger, finite
from ppgen.inference.fitting._loop import FitError, Loop
from ppgen.inference.fitting._metric_log import MetricLog, mean_of_finite
from ppgen.inference.fitting._optimization import Given, Optimization, averaged
from ppgen.inference.fitting._placement import Placement, Shardings
from ppgen.inference.fitting._recovery import Recovery
from ppgen.inference.fitting._sources import source_of


class Fitted(NamedTuple):
    """What `fit` returns.

    Attributes:
        params: The optimised parameters, of the structure that `fit` was given; with early
            stopping, the best ones.
        history: The estimate of the objective at each step, before the step was taken.
        state: The model's mutable state that goes with `params`, if `fit` was given one.
        ema: The moving average of the parameters, of their structure, if there is one.
        skipped: How many steps were skipped because a number in them was not finite.
        stopped: Why it ended: "steps", "callback" or "early stopping".
    """

    params: Any
    history: Float[np.ndarray, " steps"]
    state: Any = None
    ema: Any = None
    skipped: int = 0
    stopped: Literal["steps", "callback", "early stopping"] = "steps"


class Progress(NamedTuple):
    """The state of a fit that a callback receives.

    Attributes:
        step: Steps taken so far.
        values: The objective at the steps since the last call.
        params: The parameters now.
        seconds: Time since `fit` began, compilation included.
        held_out: The last value on held-out data since the last call, if there was one.
        skipped: Steps skipped so far.
    """

    step: int
    values: Float[np.ndarray, " new"]
    params: Any
    seconds: float
    held_out: float | None = None
    skipped: int = 0


@boundary
def fit(
    objective: Callable[..., Any],
    params: PyTree,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    *,
    key: Key[Array, ""] | UInt32[Array, " 2"],
    steps: int,
    data: Any = None,
    batch_size: int | None = None,
    draws: int = 1,
    maximize: bool = False,
    state: PyTree = None,
    ema: float | None = None,
    compute_dtype: Any = None,
    on_nonfinite: Literal["raise", "skip"] = "raise",
    allow_biased: bool = False,
    mesh: Mesh | None = None,
    shardings: Shardings | None = None,
    checkpoints: Checkpoints | None = None,
    early_stopping: EarlyStopping | None = None,
    metrics: str | Path | None = None,
    loggers: Sequence[AbstractLogger] = (),
    has_aux: bool = False,
    callback: Callable[[Progress], bool | None] | Sequence[Callable] | None = None,
    progress: bool = False,
    chunk: int = 100,
) -> Fitted:
    """Minimises the expectation of an objective by stochastic gradient descent.

    The loop runs on the device, `chunk` steps at a time, and is compiled once. The gradients are
    those of `ppgen.expectation(objective, draws=draws)`, so they are *unbiased*; so is each entry
    of the history, at the parameters of its step.

    Args:
        objective: A function of the parameters, of the model's state if there is one, and of a
            batch if there are data, that returns a scalar and may draw. On a batch it should be a
            mean over the rows, so that it estimates the same thing at any batch size.
        params: Any pytree, Equinox modules included. Its inexact arrays are optimised.
        optimizer: Any optax optimiser: schedules, `optax.partition` for several optimisers by
            label, `optax.MultiSteps` to accumulate gradients over several steps. Its update also
            receives `value=`, `grad=` and `value_fn=` for the same draws, which
            `optax.contrib.reduce_on_plateau` and line searches need.
        key: Everything random here follows from it.
        steps: The total number of steps, including those before the checkpoint of a resumed fit.
        data: One of

            - a pytree of arrays with one leading axis in common, kept on the device. Every epoch
              visits the rows in a new random order and drops the remainder that does not fill a
              batch;
            - an iterable of batches, each a pytree of arrays with one leading axis in common: a
              grain `DataLoader` or `IterDataset`, a generator, or any other iterable. The host
              reads it in order while the device works. Rows that do not fill a batch at the end of
              an epoch are joined by the first ones of the next. An iterator that ends before the
              last step is an error. (A list of arrays is a pytree of arrays.) With a mesh over
              several processes, each process reads the rows of its own devices;
            - a program, a function without arguments that draws a batch. Each step has a fresh one;
            - None.
        batch_size: Rows in a batch (in each process, where it reads its own). By default all rows
            of arrays, and as many as an iterable gives first.
        draws: Draws of the objective to average in each step.
        maximize: Maximise the objective instead of minimising it. An objective that is declared a
            lower bound is not minimised, nor an upper bound maximised: that is an error.
        state: Mutable state of the model, as of batch normalisation: a pytree of arrays. The
            objective gets it after the parameters and returns `(value, new_state)`, as
            `ppgen.with_state(bound)(params | state, batch)` does. With several draws, the new state
            is that of the first.
        ema: The decay of a moving average of the parameters, `.999` say; it is *debiased*: a
            weighted mean of the parameters after each step, without the initial ones.
        compute_dtype: `jnp.bfloat16`, say: the inexact arrays of the parameters and of the batch
            are cast to it for the objective. The parameters themselves, their gradients, updates
            and averages stay as they are. The gradient is unbiased for this rounded objective,
            which differs from the exact one within the resolution of the type (.4% for bfloat16).
            Random choices are made, and log densities are computed and summed, in float32.
            Computations that depend on a choice are in float32 as well, unless the objective casts
            them.
        on_nonfinite: What to do at a step at which the objective, its gradient or the new state is
            not finite: "raise" a FitError, or "skip" the update and count it.
        allow_biased: Accept estimators that are biased by design.
        mesh: Devices to work on together, for example `jax.make_mesh((8,), ("data",))`. The rows
            of a batch are divided along the first axis, and draws along the next one, if there is
            one. All devices run one program, so the results equal those of one device up to the
            order of sums.
        shardings: Where the parameters lie on the mesh: `PartitionSpec`s as a prefix of `params`,
            or a function `(path, array) -> PartitionSpec`. By default each device has all.
        checkpoints: Where and when to save. If the folder holds checkpoints of this fit, it resumes
            from the last one, and ends with the same result, to the last bit, as a fit that was
            never interrupted. The data must be the same: a grain iterable is moved to its position
            at once, any other is read again from its beginning.
        early_stopping: When to stop by an objective on held-out data; the parameters returned are
            then the best ones.
        metrics: A file for metrics, one JSON object a line: step, mean objective since the last
            line (of the finite ones), held-out objective, skipped steps, seconds. An existing file
            is overwritten, except for the lines up to the checkpoint from which the fit resumes.
        loggers: More places for metrics, at the same steps: `CSVLogger`, `TensorBoardLogger`,
            `WandbLogger`, or one of your own. They get means over the steps since the last time:
            of the objective, of the norm of its gradient, of the metrics that it names; the
            learning rate, if `optax.inject_hyperparams` keeps it or the optimizer has an attribute
            `learning_rate`; the held-out objective.
        has_aux: Whether the objective returns `(value, metrics)`, the latter a dict of scalars, or
            any pytree of them: for loggers, without derivatives. With `state` it returns
            `(value, (new_state, metrics))`.
        callback: A function, or several, called after every chunk. If one returns True, fitting
            ends there. After an interruption it may be called again for the same steps.
        progress: Whether to show a progress bar.
        chunk: Steps between two calls of `callback`, of loggers, and lines of `metrics`.

    Returns:
        The parameters, the history of the objective, and the other results of the fit.

    Raises:
        FitError: If the objective or its gradient is not finite at some step.
        DataError: If the data ran out, or a batch is unlike the first.
        CheckpointError: If a checkpoint cannot be written, or those there are of another fit, or of
            more steps.
        ValueError: If an argument is invalid, or a bound is optimised in the wrong direction.

    Warns:
        UserWarning: If the objective diverged, as an unbounded one does.

    References:
        Kingma and Ba, *Adam*, ICLR 2015, for the debiased moving average. Micikevicius et al.,
        *Mixed Precision Training*, ICLR 2018.

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
    check_arguments(
        steps=steps, chunk=chunk, draws=draws, batch_size=batch_size, ema=ema,
        on_nonfinite=on_nonfinite, compute_dtype=compute_dtype,
    )  # fmt: skip
    check_direction(objective, maximize=maximize)
    began = time.perf_counter()
    key = first_key(key, name="fit(..., key=...)")
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    varying, fixed, static = _split(params)
    placement = Placement(mesh, shardings)
    optimization = Optimization(
        objective=objective,
        optimizer=optax.with_extra_args_support(optimizer),
        source=source_of(
            data,
            batch_size,
            steps=steps,
            block=chunk,
            placement=placement,
            positions=checkpoints is not None,
        ),
        placement=placement,
        static=static,
        has_state=state is not None,
        has_aux=has_aux,
        watched=bool(loggers),
        draws=draws,
        maximize=maximize,
        decay=ema,
        compute_dtype=compute_dtype,
        skip=on_nonfinite == "skip",
        allow_biased=allow_biased,
    )
    loop = Loop(
        optimization, varying, fixed, () if state is None else state, key, steps=steps, chunk=chunk
    )
    calls = [callback] if callable(callback) else list(callback or ())
    with contextlib.ExitStack() as stack:
        validation = recovery = log = notes = None
        boundaries = [chunk]
        if early_stopping is not None:
            validation = Validation(early_stopping, loop)
            boundaries.append(validation.every)
        if checkpoints is not None:
            store = stack.enter_context(Store(checkpoints, maximize=maximize))
            recovery = Recovery(store, loop, optimization.source, validation, key)
            boundaries.append(recovery.every)
            notes = recovery.restore(steps=steps, batch_size=batch_size)
        if notes is None:
            loop.begin()
            optimization.source.start(0, None)
            if validation is not None:
                validation.begin()
            notes = {"reported": 0, "seconds": 0.0, "stopped": "", "held_out": None}
        first = jax.process_index() == 0
        if metrics is not None and first:
            log = stack.enter_context(MetricLog(metrics, loop.step))
        for logger in loggers if first else ():
            logger.begin(loop.step)
            stack.callback(logger.end)
        bar = stack.enter_context(Bar(total=steps, initial=loop.step, shown=progress and first))
        began -= notes["seconds"]
        # A fit that a callback ended can be resumed; one that early stopping ended is complete.
        stopped = "early stopping" if notes["stopped"] == "early stopping" else ""
        while loop.step < steps and not stopped:
            stop = min((loop.step // every + 1) * every for every in boundaries)
            failed = loop.advance(min(stop, steps))
            if validation is not None and failed is None and loop.step % validation.every == 0:
                notes["held_out"], enough = validation()
                stopped = "early stopping" if enough else ""
            end = loop.step == steps or failed is not None or bool(stopped)
            values = loop.values(notes["reported"])
            notes["seconds"] = time.perf_counter() - began
            if len(values) and (end or loop.step % chunk == 0):
                skipped = int(loop.carry.skipped)
                if log is not None:
                    log.write(_record(loop.step, values, notes, skipped))
                if loggers and first:
                    numbers = finite(_numbers(values, loop.said(notes["reported"]), notes, skipped))
                    for logger in loggers:
                        logger.log(loop.step, numbers)
                mean = mean_of_finite(values)
                bar.update(len(values), "" if mean is None else f"objective {mean:.4g}")
                if calls:
                    now = loop.parameters(loop.kept(loop.carry.trained.params))
                    now = Progress(
                        loop.step, values, now, notes["seconds"], notes["held_out"], skipped
                    )
                    if any([call(now) for call in calls]):
                        stopped, end = stopped or "callback", True
                notes |= {"reported": loop.step, "held_out": None}
            if recovery is not None and (end or loop.step % recovery.every == 0):
                loop.check()
                if log is not None:
                    log.sync()
                recovery.save(notes | {"stopped": stopped})
            if failed is not None:
                error = _failure(loop, failed)
                error.fitted = _fitted(loop, validation, "failure")
                raise error
    loop.check()
    warn_of_flight(objective, loop.values())
    return _fitted(loop, validation, stopped or "steps")


def _fitted(loop: Loop, validation: Validation | None, stopped: Any) -> Fitted:
    carry, optimization = loop.carry, loop.optimization
    params, state = carry.trained.params, carry.trained.state
    if validation is not None:
        params, state = validation.best
    average = None
    if optimization.decay is not None:
        average = loop.parameters(averaged(carry.trained, optimization.decay))
    return Fitted(
        loop.parameters(params),
        loop.values(),
        state if optimization.has_state else None,
        average,
        int(carry.skipped),
        stopped,
    )


def _record(
    step: int, values: Float[np.ndarray, " n"], notes: dict[str, Any], skipped: int
) -> dict[str, Any]:
    record: dict[str, Any] = {"step": step, "objective": mean_of_finite(values)}
    if notes["held_out"] is not None:
        record["held_out"] = mean_of_finite(np.array([notes["held_out"]]))
    if skipped:
        record["skipped"] = skipped
    return record | {"seconds": round(notes["seconds"], 3)}


def _numbers(
    values: Float[np.ndarray, " n"],
    said: dict[str, Float[np.ndarray, " n"]],
    notes: dict[str, Any],
    skipped: int,
) -> dict[str, float | None]:
    """What loggers are told; None for what is not known."""
    found = {"objective": mean_of_finite(values)} | {k: mean_of_finite(x) for k, x in said.items()}
    if "learning_rate" in said:
        found["learning_rate"] = said["learning_rate"][-1]
    return found | {
        "held_out": notes["held_out"],
        "skipped": skipped or None,
        "seconds": round(notes["seconds"], 3),
    }


def _failure(loop: Loop, given: Given) -> FitError:
    """The error for a step that is not finite, which is repeated operation by operation."""
    found = ppgen.first_nonfinite(loop.optimization.evaluate)(loop.carry, given)
    at = f"at step {loop.step}"
    objective = f"the objective is {loop.failed_at:g}"
    outputs = () if found is None else found.outputs
    if np.isfinite(loop.failed_at):
        gradients = [x.removeprefix(".gradient") for x in outputs if x.startswith(".gradient")]
        which = ", ".join(f"params{x}" for x in gradients)
        which = f"the gradient of {which}" if gradients else "the new state of the model"
        objective = f"{which} is not finite {at}, where {objective}"
    else:
        objective = f"{objective} {at}"
    if found is None:
        return FitError(f"{objective}; operation by operation, it is finite")
    if found.operation == "argument":
        name = found.where.removeprefix("[0].trained.")
        name = name.replace("[1].fed.rows", "data").replace("[1].fed", "data")
        return FitError(f"{objective}: {name} held {found.result} before it")
    return FitError(f"{objective}: {found}", site=found.site, where=found.where or None)


def _split(params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """The optimised arrays, the other arrays, and the leaves that are not arrays."""
    params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, params)
    varying, rest = eqx.partition(params, eqx.is_inexact_array)
    if not jax.tree.leaves(varying):
        raise ValueError("params hold no floating-point array, so there is nothing to optimise")
    return varying, *eqx.partition(rest, eqx.is_array)
