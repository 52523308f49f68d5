"""The compiled part of a fit: what it carries from step to step, and a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

import ppgen
from ppgen.errors import CostError
from ppgen.inference.fitting._placement import Placement
from ppgen.inference.fitting._sources import AbstractSource


class Trained(eqx.Module):
    """What an update changes.

    Attributes:
        params: the inexact arrays of the parameters.
        optimizer: the optimiser's state.
        state: the model's mutable state, or ().
        average: optax's state of the moving average of the parameters, or ().
    """

    params: PyTree
    optimizer: PyTree
    state: PyTree
    average: PyTree


class Carry(eqx.Module):
    """The loop's carry; every leaf is an array.

    Attributes:
        step: the next step, so the number of steps taken, skipped ones included.
        skipped: steps that were skipped because something was not finite.
        trained: what an update changes.
        source: the carry of the source of the batches, which any run can recompute.
    """

    step: Int[Array, ""]
    skipped: Int[Array, ""]
    trained: Trained
    source: PyTree


class Evaluated(eqx.Module):
    """The results of a step before the update.

    Attributes:
        objective: at the parameters before the step.
        gradient: of the loss, which is the objective or its negative.
        state: the model's new state.
    """

    objective: Float[Array, ""]
    gradient: PyTree
    state: PyTree


class Given(eqx.Module):
    """Inputs of the loop that do not change.

    Attributes:
        key: the key of the fit.
        fixed: the arrays among the parameters that are not optimised.
        fed: the arrays that the source sent.
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
        static: the leaves of the parameters that are not arrays.
        has_state: whether the objective has mutable state.
        has_aux: whether it returns named metrics too.
        watched: whether each step is to say more than its objective.
        draws: draws of the objective to average.
        maximize: whether to maximise.
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
    has_aux: bool
    watched: bool
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
            trained=Trained(
                params=params,
                optimizer=self.optimizer.init(params),
                state=state,
                average=() if self.decay is None else _average(self.decay).init(params),
            ),
            source=self.source.carried(),
        )

    def evaluate(self, carry: Carry, given: Given) -> Evaluated:
        """The results of a step before the update."""
        _, batch = self._batch(carry, given)
        return _evaluated(self._loss(carry, given, batch), carry)[1]

    def step(
        self, carry: Carry, given: Given
    ) -> tuple[Carry, Float[Array, ""], Bool[Array, ""], dict[str, Float[Array, ""]]]:
        """A step, whose update is left out if it is not finite.

        Returns:
            The carry, the objective before the step, whether all was finite, and what else is to be
            said of the step, by name.
        """
        source, batch = self._batch(carry, given)
        loss = self._loss(carry, given, batch)
        value, made, metrics = _evaluated(loss, carry)

        def update(old: Trained) -> Trained:
            updates, optimizer = self.optimizer.update(
                made.gradient,
                old.optimizer,
                old.params,
                value=value,
                grad=made.gradient,
                value_fn=lambda params: loss(params)[0],
            )
            params = optax.apply_updates(old.params, updates)
            average = old.average
            if self.decay is not None:
                _, average = _average(self.decay).update(params, average)
            return Trained(params, optimizer, made.state, average)

        zero = jnp.minimum(carry.step, 0).astype(jnp.float32)
        good = _all_finite(made, zero)
        # Not `jnp.where`, with which XLA would not overwrite the old values but copy them.
        trained = jax.lax.cond(good, update, lambda old: old, carry.trained)
        taken = carry.step - carry.skipped
        carry = Carry(carry.step + 1, carry.skipped + ~good, trained, source)
        return carry, made.objective, good, self._said(made, trained, metrics, taken)

    def _said(
        self, made: Evaluated, trained: Trained, metrics: PyTree, taken: Int[Array, ""]
    ) -> dict[str, Float[Array, ""]]:
        """Of a step, by name: metrics, the norm of the gradient, the learning rate if it is known.

        A learning rate is known where `optax.inject_hyperparams` keeps it, or the optimizer has an
        attribute `learning_rate`, a number or a schedule.
        """
        if not self.watched:
            return {}
        rates = optax.tree_utils.tree_get_all_with_path(trained.optimizer, "learning_rate")
        said: dict[str, Any] = {"gradient_norm": optax.tree_utils.tree_norm(made.gradient)}
        if rates and jnp.ndim(rates[0][1]) == 0:
            said["learning_rate"] = rates[0][1]
        elif (rate := getattr(self.optimizer, "learning_rate", None)) is not None:
            said["learning_rate"] = rate(taken) if callable(rate) else rate
        return {name: jnp.asarray(x, float) for name, x in (said | _by_name(metrics)).items()}

    def run(
        self, carry: Carry, given: Given, count: Int[Array, ""], room: int
    ) -> tuple[Carry, Float[Array, " room"], Bool[Array, ""], dict[str, Float[Array, " room"]]]:
        """Takes `count` steps, fewer if one of them is not finite and that is an error.

        Returns:
            The carry, the objective at the steps, whether the loop ended before a step that was not
            finite, and what else is said of the steps, by name.
        """

        # How many steps is an operand, so that a shorter last run compiles nothing new.
        def unfinished(loop: tuple) -> Bool[Array, ""]:
            i, _, _, failed, _ = loop
            return (i < count) & ~failed

        def body(loop: tuple) -> tuple:
            i, carry, values, _, said = loop
            carry, value, good, new = self.step(carry, given)
            failed = jnp.asarray(False) if self.skip else ~good
            said = {name: said[name].at[i].set(x) for name, x in new.items()}
            return i + 1, carry, values.at[i].set(value), failed, said

        said = jax.eval_shape(self.step, carry, given)[3] if self.watched else {}
        said = {name: jnp.zeros(room, x.dtype) for name, x in said.items()}
        start = (jnp.int32(0), carry, jnp.zeros(room), jnp.asarray(False), said)
        _, carry, values, failed, said = jax.lax.while_loop(unfinished, body, start)
        # The step that failed was not taken.
        back = failed.astype(jnp.int32)
        carry = Carry(carry.step - back, carry.skipped - back, carry.trained, carry.source)
        return carry, values, failed, said

    def parameters(self, params: PyTree, given: Given) -> PyTree:
        """The user's pytree with these inexact arrays in it."""
        return eqx.combine(params, given.fixed, self.static)

    def _batch(self, carry: Carry, given: Given) -> tuple[PyTree, tuple[PyTree, ...]]:
        return self.source.take(given.fed, carry.source, _keys(given)[0], carry.step)

    def _loss(self, carry: Carry, given: Given, batch: tuple[PyTree, ...]) -> _Loss:
        """What a step minimises, of the parameters; with objective, new state and metrics."""
        key = jax.random.fold_in(_keys(given)[1], carry.step)
        old = carry.trained.state
        batch = self._lowered(batch)
        run = ppgen.expectation(
            self.objective,
            draws=self.draws,
            has_aux=self.has_state or self.has_aux,
            allow_biased=self.allow_biased,
            sharding=self.placement.of_draws(batched=bool(batch)) if self.draws > 1 else None,
        )

        def loss(params: PyTree) -> tuple[Float[Array, ""], tuple[Any, PyTree, PyTree]]:
            # Fixed arrays are cast as well, or what is computed with them would not be lower.
            params = eqx.combine(*self._lowered((params, given.fixed)), self.static)
            state, metrics = old, {}
            args = (params, old, *batch) if self.has_state else (params, *batch)
            value = run(key, *args)
            if self.has_state or self.has_aux:
                value, aux = value
                new, metrics = aux if self.has_state and self.has_aux else (aux, aux)
                state = self._checked_state(new, old) if self.has_state else old
                metrics = self._checked_metrics(metrics) if self.has_aux else {}
            return -value if self.maximize else value, (value, state, metrics)

        return loss

    def _lowered(self, tree: PyTree) -> PyTree:
        if self.compute_dtype is None:
            return tree

        def cast(x: Any) -> Any:
            floating = eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)
            return x.astype(self.compute_dtype) if floating else x

        return jax.tree.map(cast, tree)

    def _checked_metrics(self, metrics: PyTree) -> PyTree:
        """Means over the draws, without derivatives."""
        if self.draws > 1:
            metrics = jax.tree.map(lambda x: jnp.mean(x, 0), metrics)
        for name, x in _by_name(metrics).items():
            if jnp.ndim(x):
                raise CostError(
                    f"the metric {name!r} is of shape {jnp.shape(x)}, and must be one number",
                    instead="its mean over the rows of the batch",
                )
        return jax.lax.stop_gradient(metrics)

    def _checked_state(self, new: PyTree, old: PyTree) -> PyTree:
        if self.draws > 1:
            # As for several particles, the new state is that of the first draw.
            new = jax.tree.map(lambda x: x[0], new)
        if jax.tree.structure(new) != jax.tree.structure(old):
            raise CostError(
                f"the objective returns a state of the structure {jax.tree.structure(new)}, and "
                f"was given {jax.tree.structure(old)}",
                instead="return value, new_state",
            )

        def like(new: Any, old: Array) -> Array:
            if jnp.shape(new) != old.shape:
                raise CostError(
                    f"an array of the model's state was of shape {old.shape} and becomes one of "
                    f"shape {jnp.shape(new)}"
                )
            return jnp.asarray(new, old.dtype)

        return jax.tree.map(like, new, old)


_Loss = Callable[[PyTree], tuple[Float[Array, ""], tuple[Any, PyTree, PyTree]]]


def _evaluated(loss: _Loss, carry: Carry) -> tuple[Float[Array, ""], Evaluated, PyTree]:
    """The loss, what is made of it, and metrics, which need not be finite."""
    (value, (objective, state, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(
        carry.trained.params
    )
    return value, Evaluated(objective, gradient, state), metrics


def _by_name(metrics: PyTree) -> dict[str, Any]:
    """The leaves, by their path: `a`, `a.b`."""
    leaves = jax.tree_util.tree_leaves_with_path(metrics)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def _all_finite(tree: PyTree, zero: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether all inexact arrays of a pytree are.

    A product with zeros is finite if and only if its operands are, and is computed several times
    faster than `jnp.isfinite(x).all()` on a CPU. XLA may not know that they are zeros, nor that
    they are converted truth values, products with which it turns into choices.
    """
    total = zero
    for x in jax.tree.leaves(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            x = jnp.sum(x @ jnp.full(x.shape[-1], zero, x.dtype) if x.ndim else x * zero)
            total += (x.real + x.imag).astype(zero.dtype)
    return jnp.isfinite(total)


def averaged(trained: Trained, decay: float) -> PyTree:
    """The moving average of the parameters, debiased; before the first step, themselves."""
    params, average = trained.params, trained.average
    if not int(average.count):
        return params
    mean = optax.tree_utils.tree_bias_correction(average.ema, decay, average.count)
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
