"""The compiled part of a fit: what it carries from step to step, and a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

import ppgen
from ppgen.errors import PpgenError
from ppgen.inference.placement import Placement
from ppgen.inference.sources import AbstractSource


class Carry(eqx.Module):
    """All that goes from step to step; every leaf is an array.

    Attributes:
        step: the next step, so the number of steps taken, skipped ones included.
        skipped: steps that were skipped because something was not finite.
        stopped: whether the step was tried, and was not finite. Nothing was updated then.
        params: the inexact arrays of the parameters.
        optimizer: the optimiser's state.
        state: the model's mutable state, or ().
        average: optax's state of the moving average of the parameters, or ().
        source: what the source of the batches carries.
    """

    step: Int[Array, ""]
    skipped: Int[Array, ""]
    stopped: Bool[Array, ""]
    params: PyTree
    optimizer: PyTree
    state: PyTree
    average: PyTree
    source: PyTree


class Attempt(NamedTuple):
    """What a step computes.

    Attributes:
        objective: before the step.
        gradient: of what is minimised.
        carry: after it.
    """

    objective: Float[Array, ""]
    gradient: PyTree
    carry: Carry


class Given(eqx.Module):
    """What the loop reads and never writes.

    Attributes:
        key: the key of the fit.
        fixed: the arrays among the parameters that are not optimised.
        fed: what the source sent.
    """

    key: Key[Array, ""]
    fixed: PyTree
    fed: PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Optimization:
    """How to make a step.

    Attributes:
        objective: of the parameters, the state where there is one, and a batch where there is one.
        optimizer: from optax.
        source: where the batches come from.
        placement: where the arrays lie.
        static: what of the parameters is no array.
        has_state: whether the objective has mutable state.
        draws: draws of the objective to average.
        maximize: whether to climb.
        decay: of the moving average of the parameters, or None.
        compute_dtype: in which the objective is evaluated, or None.
        skip: whether a step that is not finite is skipped, or ends the loop.
        allow_biased: as for `ppgen.expectation`.
    """

    objective: Callable[..., Any]
    optimizer: optax.GradientTransformationExtraArgs
    source: AbstractSource
    placement: Placement
    static: PyTree
    has_state: bool
    draws: int
    maximize: bool
    decay: float | None
    compute_dtype: Any
    skip: bool
    allow_biased: bool

    def begin(self, params: PyTree, state: PyTree) -> Carry:
        """The carry before the first step."""
        # Copies, because the loop overwrites what it is given, and that must not be the user's.
        params, state = jax.tree.map(_own, (params, state))
        return Carry(
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            stopped=jnp.asarray(False),
            params=params,
            optimizer=self.optimizer.init(params),
            state=state,
            average=() if self.decay is None else _average(self.decay).init(params),
            source=self.source.carried(),
        )

    def loss(
        self, params: PyTree, carry: Carry, given: Given, batch: tuple[PyTree, ...]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], PyTree]]:
        """What a step minimises; and the objective, of which it is the negative for bounds."""
        key = jax.random.fold_in(_keys(given)[1], carry.step)
        # Fixed arrays too: a cast is to let all that the objective computes be of one precision.
        low = self._lowered(eqx.combine(params, given.fixed))
        args = (eqx.combine(low, self.static), *self._state_argument(carry), *self._lowered(batch))
        run = ppgen.expectation(
            self.objective,
            draws=self.draws,
            has_aux=self.has_state,
            allow_biased=self.allow_biased,
        )
        value, state = run(key, *args) if self.has_state else (run(key, *args), carry.state)
        if self.has_state:
            state = self._checked_state(state, carry.state)
        value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
        return -value if self.maximize else value, (value, state)

    def attempt(self, carry: Carry, given: Given) -> Attempt:
        """A step, finite or not."""
        source, batch = self.source.take(given.fed, carry.source, _keys(given)[0], carry.step)

        def loss(params: PyTree) -> Any:
            return self.loss(params, carry, given, batch)

        (value, (objective, state)), gradient = jax.value_and_grad(loss, has_aux=True)(carry.params)
        updates, optimizer = self.optimizer.update(
            gradient,
            carry.optimizer,
            carry.params,
            value=value,
            grad=gradient,
            value_fn=lambda params: loss(params)[0],
        )
        params = optax.apply_updates(carry.params, updates)
        average = carry.average
        if self.decay is not None:
            _, average = _average(self.decay).update(params, carry.average)
        new = Carry(
            step=carry.step + 1,
            skipped=carry.skipped,
            stopped=carry.stopped,
            params=params,
            optimizer=optimizer,
            state=state,
            average=average,
            source=source,
        )
        return Attempt(objective, gradient, new)

    def step(self, carry: Carry, given: Given) -> tuple[Carry, Float[Array, ""]]:
        """A step, whose update is left out if it is not finite; and the objective before it."""
        made = self.attempt(carry, given)
        old = eqx.tree_at(lambda c: c.source, carry, made.carry.source)
        if self.skip:
            counts = (carry.step + 1, carry.skipped + 1)
            old = eqx.tree_at(lambda c: (c.step, c.skipped), old, counts)
        else:
            old = eqx.tree_at(lambda c: c.stopped, old, jnp.asarray(True))
        good = all_finite((made.objective, made.gradient, made.carry.params, made.carry.state))
        carry = jax.tree.map(lambda new, old: jnp.where(good, new, old), made.carry, old)
        return carry, made.objective

    def run(
        self, carry: Carry, given: Given, count: Int[Array, ""], room: int
    ) -> tuple[Carry, Float[Array, " room"], Bool[Array, ""]]:
        """Takes `count` steps, fewer if one of them is not finite.

        Returns:
            The carry, the objective at the steps, and whether the last one was not finite.
        """

        # How many steps is an operand, so that a shorter last run compiles nothing new.
        def unfinished(loop: tuple) -> Bool[Array, ""]:
            i, carry, _ = loop
            return (i < count) & ~carry.stopped

        def body(loop: tuple) -> tuple:
            i, carry, values = loop
            carry, value = self.step(carry, given)
            return i + 1, carry, values.at[i].set(value)

        start = (jnp.int32(0), carry, jnp.zeros(room))
        _, carry, values = jax.lax.while_loop(unfinished, body, start)
        return carry, values, carry.stopped

    def parameters(self, params: PyTree, given: Given) -> PyTree:
        """The user's pytree with these inexact arrays in it."""
        return eqx.combine(params, given.fixed, self.static)

    def _lowered(self, tree: PyTree) -> PyTree:
        if self.compute_dtype is None:
            return tree

        def cast(x: Any) -> Any:
            floating = eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)
            return x.astype(self.compute_dtype) if floating else x

        return jax.tree.map(cast, tree)

    def _state_argument(self, carry: Carry) -> tuple[PyTree, ...]:
        return (carry.state,) if self.has_state else ()

    def _checked_state(self, new: PyTree, old: PyTree) -> PyTree:
        if self.draws > 1:
            # As of several particles, the first one leaves its state.
            new = jax.tree.map(lambda x: x[0], new)
        if jax.tree.structure(new) != jax.tree.structure(old):
            raise PpgenError(
                f"the objective returns a state of the structure {jax.tree.structure(new)}, and "
                f"was given {jax.tree.structure(old)}",
                instead="return value, new_state",
            )

        def like(new: Any, old: Array) -> Array:
            if jnp.shape(new) != old.shape:
                raise PpgenError(
                    f"an array of the model's state was of shape {old.shape} and becomes one of "
                    f"shape {jnp.shape(new)}"
                )
            return jnp.asarray(new, old.dtype)

        return jax.tree.map(like, new, old)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all inexact arrays of a pytree are."""
    found = jnp.asarray(True)
    for x in jax.tree.leaves(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            found &= jnp.isfinite(x).all()
    return found


def averaged(state: optax.EmaState, decay: float, params: PyTree) -> PyTree:
    """The moving average of the parameters, debiased; before the first step, themselves."""
    if not int(state.count):
        return params
    mean = optax.tree_utils.tree_bias_correction(state.ema, decay, state.count)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), mean, params)


def _average(decay: float) -> optax.GradientTransformation:
    return optax.ema(decay, accumulator_dtype=jnp.result_type(float))


def _own(x: Array) -> Array:
    """A copy, without a weak type, which would change in the loop."""
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return jnp.copy(x)
    return jnp.copy(jax.lax.convert_element_type(x, x.dtype))


def _keys(given: Given) -> Key[Array, " 2"]:
    """Of the order of the data, and of the draws."""
    return jax.random.split(given.key)
