"""The host's side of a fit: it feeds the device, and waits for its results."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from ppgen.errors import PpgenError
from ppgen.inference.fitting._channels_last import channels_last
from ppgen.inference.fitting._optimization import Carry, Given, Optimization, Trained
from ppgen.inference.fitting._streams import DataError


class FitError(PpgenError, ArithmeticError):
    """A number that is not finite in a fit. The message names the step and the cause.

    Attributes:
        fitted: The result up to that step, a `Fitted` with the parameters before it.

    Example:
        The square root in this loss is NaN below zero.

        >>> import jax, jax.numpy as jnp, optax
        >>> from ppgen.inference import fit
        >>> def loss(x):
        ...     return x + jnp.sqrt(x)
        >>> _ = fit(loss, 1.0, optax.sgd(0.3), key=jax.random.key(0), steps=10)
        Traceback (most recent call last):
            ...
        ppgen.inference.FitError: the objective is nan at step 3: sqrt of values in ...
          See: ppgen.inference.FitError

        Optimise an unconstrained parameter:

        >>> in_logs, sgd = lambda y: loss(jnp.exp(y)), optax.sgd(0.3)
        >>> fitted = fit(in_logs, 0.0, sgd, key=jax.random.key(0), steps=10)
        >>> bool(jnp.exp(fitted.params) < 0.5)
        True
    """

    # The public module, for messages and pickling.
    __module__ = "ppgen.inference"

    fitted: Any = None


class Loop:
    """The state of a fit: the carry and the history of the objective.

    Two functions are compiled: the one that makes the first carry, and the one that takes steps.

    Attributes:
        optimization: how steps are made.
        step: steps taken.
        carry: what goes from step to step.
        begin: makes the first carry.
        like: its abstract value, with shardings where there is a mesh.
        given: what the steps read, but for the data.
        failed_at: the objective at the step that was not finite.
    """

    def __init__(
        self,
        optimization: Optimization,
        params: PyTree,
        fixed: PyTree,
        state: PyTree,
        key: Key[Array, ""],
        *,
        steps: int,
        chunk: int,
    ) -> None:
        placement = optimization.placement
        self.optimization = optimization
        self._steps, self._room = steps, chunk
        self.given = Given(*placement.replicate((key, fixed)), fed=())
        like = jax.eval_shape(optimization.begin, params, state)
        shardings = placement.of_state(like, lambda carry: carry.trained.params)
        self._start = (params, state)
        if shardings is not None:
            where = (shardings.trained.params, shardings.trained.state)
            self._start = placement.put(self._start, where)
        self.like = like if shardings is None else _placed(like, shardings)
        self._begin = jax.jit(optimization.begin, out_shardings=shardings)
        outs = None if shardings is None else (shardings, *[placement.everywhere()] * 3)
        run = functools.partial(optimization.run, room=self._room)
        self._run = jax.jit(
            channels_last(run) if placement.platform() == "cpu" else run,
            donate_argnums=0,
            out_shardings=outs,
        )
        self._carried = jax.jit(
            optimization.source.carried,
            out_shardings=None if shardings is None else shardings.source,
        )
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
        self.carry: Carry
        self.step = 0
        self._history = np.zeros(steps, np.asarray(jnp.zeros(0)).dtype)
        self._said: dict[str, Float[np.ndarray, " steps"]] = {}

    def begin(self) -> None:
        """Start anew."""
        self.carry = self._begin(*self._start)

    def go_on(
        self,
        *,
        step: Int[Array, ""],
        skipped: Int[Array, ""],
        trained: Trained,
        history: Float[np.ndarray, " steps"],
    ) -> None:
        """Go on from where another run was."""
        self.carry = Carry(step, skipped, trained, self._carried())
        self.step = int(step)
        taken = min(self.step, self._steps)
        self._history[:taken] = history[:taken]

    def advance(self, stop: int) -> Given | None:
        """Takes steps up to `stop`, perhaps fewer.

        Returns:
            None; or, if a step was not finite, what that step was given.

        Raises:
            DataError: the data have run out.
        """
        source = self.optimization.source
        fed, until = source.feed(self.step)
        if until <= self.step:
            raise DataError(
                f"the data ran out after {self.step} of {self._steps} steps: an iterator ends",
                instead="an iterable that can start again, such as a grain dataset, or fewer steps",
            )
        stop = min(stop, until, self.step + self._room)
        given = Given(self.given.key, self.given.fixed, fed)
        self.carry, values, failed, said = self._run(self.carry, given, np.int32(stop - self.step))
        if stop < self._steps:
            source.feed(stop)  # read while the device is busy
        values = np.asarray(values)
        if failed := bool(failed):
            stop = int(self.carry.step)
            self.failed_at = float(values[stop - self.step])
        self._history[self.step : stop] = values[: stop - self.step]
        for name, x in said.items():
            # Of steps before a checkpoint it is not known.
            kept = self._said.setdefault(name, np.full(self._steps, np.nan))
            kept[self.step : stop] = np.asarray(x)[: stop - self.step]
        self.step = stop
        return given if failed else None

    def check(self) -> None:
        """Refuse parameters that the optimiser made infinite or NaN.

        The check runs on the host, before they are saved or returned.

        Raises:
            FitError: they are not.
        """
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.carry.trained.params):
            if not all(np.isfinite(part.data).all() for part in leaf.addressable_shards):
                raise FitError(
                    f"params{jax.tree_util.keystr(path)} hold numbers that are not finite after "
                    f"{self.step} steps, all with finite gradients: the optimiser made them",
                    instead="a smaller learning rate",
                )

    def values(self, start: int = 0) -> Float[np.ndarray, " steps"]:
        """The objective at each step so far, from `start` on."""
        return self._history[start : self.step]

    def said(self, start: int) -> dict[str, Float[np.ndarray, " steps"]]:
        """What else the steps from `start` on said, by name; NaN where that is not known."""
        return {name: x[start : self.step] for name, x in self._said.items()}

    def kept(self, tree: PyTree) -> PyTree:
        """A copy of a part of the carry, which the next step will not overwrite."""
        return self._copy(tree)

    def parameters(self, params: PyTree) -> PyTree:
        """The user's pytree with these inexact arrays in it."""
        return self.optimization.parameters(params, self.given)


def _placed(like: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings
    )
