"""The coupling of the runs of `expectation(..., draws=K)`."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import Array

from ppgen._settings import current


class Coupling(NamedTuple):
    """The place of one run among the draws that are made together.

    Attributes:
        key: a key that all of them share.
        index: which of them this is.
        size: how many there are.
    """

    key: Array
    index: Array | int
    size: int


def coupling(key: Array) -> Coupling:
    """The coupling of the draws at a choice, from the choice's own key.

    The shared key is that of the first draw, so that no draw needs a second one. Outside of
    `draws=K` there is a single draw.
    """
    draws = current().draws
    if draws is None:
        return Coupling(key, 0, 1)
    axis, size = draws
    own = jax.random.key_data(key)
    first = jax.lax.all_gather(own, axis)[0]
    shared = jax.random.wrap_key_data(first, impl=jax.random.key_impl(key))
    return Coupling(shared, jax.lax.axis_index(axis), size)


def common_step(step: Array) -> Array:
    """The step of a `while_loop` that is common to the draws still in it.

    Draws leave the loop one by one, and the counter of one that left stands still. Randomness
    shared by the others must not be derived from that counter, or it would be the same in all later
    steps.
    """
    draws = current().draws
    return step if draws is None else jax.lax.pmax(step, draws[0])
