"""Programs with their arguments held fixed under differentiation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax


def detached(program: Callable[..., Any]) -> Callable[..., Any]:
    """The same program, without derivatives with respect to its arguments.

    Args:
        program: Any function. Arrays that it closes over keep their derivatives, so parameters have
            to be arguments.

    Returns:
        A function of the same arguments, equal in value.
    """

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        arrays, rest = eqx.partition((args, kwargs), eqx.is_array)
        args, kwargs = eqx.combine(jax.tree.map(jax.lax.stop_gradient, arrays), rest)
        return program(*args, **kwargs)

    return run
