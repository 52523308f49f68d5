"""Advice for objectives of one datum that were given a whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import ppgen
from ppgen.errors import PpgenError
from ppgen.inference.objectives._per_batch import per_batch

_ADVICE: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "per_batch(objective), for an objective of one row of the data": per_batch,
    "lambda params, batch: per_batch(objective)(params, *batch), for an objective of one row, "
    "whose parts are arguments of their own": lambda objective: _parts(per_batch(objective)),
    "lambda params, batch: objective(params, *batch), for an objective of a batch, whose parts "
    "are arguments of their own": lambda objective: _parts(objective),
}
"""What to write instead of the objective, and what that makes of it."""


def _parts(objective: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, batch: objective(params, *batch)


@contextlib.contextmanager
def advising(objective: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[None]:
    """Errors of an objective say how to map it, where that is what it lacks.

    Nothing is guessed from the error: advice is given if the objective can be staged once it is
    mapped.

    Args:
        objective: a user's.
        args: the parameters and the batch with which it is called.
    """
    try:
        yield
    except Exception as error:
        two = _ADVICE.items() if len(args) == 2 else ()  # not three: a model's state has no rows
        advice = next((text for text, mapped in two if _runs(mapped(objective), args)), None)
        if isinstance(error, PpgenError):
            error.instead = advice or error.instead
        elif advice is not None:
            error.add_note(f"  Write instead: {advice}")
        raise


def _runs(objective: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether it can be staged with such arguments, and returns a number, or one and more."""

    def once(arrays: list[Any]) -> Any:
        leaves = iter(arrays)
        given = [next(leaves) if _is_array(x) else x for x in flat]
        return ppgen.seed(objective)(jax.random.key(0), *jax.tree.unflatten(structure, given))

    flat, structure = jax.tree.flatten(args)
    like = [jax.ShapeDtypeStruct(jnp.shape(x), x.dtype) for x in flat if _is_array(x)]
    try:
        found = jax.eval_shape(once, like)
    except Exception:
        return False  # whatever it is, mapping does not help
    value = found[0] if isinstance(found, tuple) else found
    return getattr(value, "shape", None) == ()


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array)
