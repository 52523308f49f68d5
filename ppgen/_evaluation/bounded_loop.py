"""A loop of unknown but bounded length, differentiable in both modes.

It keeps one state for each of about `sqrt(n)` blocks of steps and computes each block anew in
reverse, so that its memory grows as the square root of the bound `n`. Blocks and steps that nothing
needs any more are skipped.

Reference: Griewank and Walther, *Evaluating Derivatives*, 2008, chapter 12 (checkpointing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from ppgen import _jax

State = list[Any]  # of arrays


def bounded_loop(
    going: Callable[[State], Array],
    step: Callable[[State, State], State],
    consts: Sequence[ArrayLike],
    state: State,
    bound: int,
) -> State:
    """`state` after `step(consts, state)` was repeated while `going(state)`.

    Args:
        going: whether there is another step to take.
        step: the next state.
        consts: arrays that every step reads, the same in all of them.
        state: the first state.
        bound: the number of steps after which `going` is false at the latest.
    """
    width = max(1, math.isqrt(bound))

    def taken(state: State) -> State:
        now = going(state)
        # Where lanes are mapped, those that have stopped run along: neither their values nor what
        # is not finite in their derivatives may reach anything.
        here, arrays = ([_only_if(now, x) for x in xs] for xs in (state, consts))
        after = step(arrays, here)
        return [jnp.where(now, new, old) for new, old in zip(after, state, strict=True)]

    def skippable(run: Callable[[State], State]) -> Callable[[State, None], tuple[State, None]]:
        def one(state: State, _: None) -> tuple[State, None]:
            return lax.cond(_jax.in_any_lane(going(state)), run, lambda s: s, state), None

        return one

    def block(state: State) -> State:
        return lax.scan(skippable(taken), state, None, length=width)[0]

    blocks = -(-bound // width)
    remade = jax.checkpoint(block, prevent_cse=False)
    return lax.scan(skippable(remade), state, None, length=blocks)[0]


def _only_if(now: Array, x: ArrayLike) -> ArrayLike:
    """`x`, whose derivative is zero unless `now`."""
    if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact):
        return x
    return jnp.where(now, x, lax.stop_gradient(x))
