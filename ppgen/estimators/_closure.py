"""Functions that a user gives to an estimator, as pytrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
from jax import Array

from ppgen._distributions.rebuild import rebuilt


class Closure(eqx.Module):
    """A function with the arrays of its closure as leaves.

    An estimator is taken apart when a choice is staged and put together when it is made: arrays
    that a function merely closed over would be stale by then.

    Attributes:
        arrays: what it closes over, through partials, methods and pytrees.
        function: the function; whatever arrays it holds itself are replaced.
    """

    arrays: list[Array]
    function: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, *args: Any) -> Any:
        """Call the function with the present arrays."""
        present = dict(zip(_arrays(self.function), self.arrays, strict=True))
        return rebuilt(self.function, lambda x: present.get(id(x), x))(*args)


def with_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a pytree; an `eqx.Module` is one already."""
    if isinstance(function, eqx.Module):
        return cast(Any, function)
    return Closure(list(_arrays(function).values()), function)


def _arrays(function: Callable[..., Any]) -> dict[int, Array]:
    """The arrays that a function closes over, by identity."""
    found: dict[int, Array] = {}

    def collect(x: Any) -> Any:
        if isinstance(x, jax.Array):
            found[id(x)] = x
        return x

    rebuilt(function, collect)
    return found
