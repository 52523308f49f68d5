"""Checks of the arguments of `fit`, and its warning when an objective diverges."""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ppgen.claims import Claim, claim_of

_HUGE = 1e8  # times what the objective was at first


def check_arguments(
    *,
    steps: Any,
    chunk: Any,
    draws: Any,
    batch_size: Any,
    ema: Any,
    on_nonfinite: Any,
    compute_dtype: Any,
) -> None:
    """Refuse invalid arguments.

    Raises:
        ValueError: an argument is invalid. The message names it.
    """
    counts = {"steps": steps, "chunk": chunk, "draws": draws}
    if batch_size is not None:
        counts["batch_size"] = batch_size
    for name, count in counts.items():
        whole = isinstance(count, numbers.Integral) and not isinstance(count, bool)
        if not whole or count < 1:
            raise ValueError(f"{name} must be positive and whole, not {count!r}")
    if ema is not None and not (_is_real(ema) and 0 <= ema < 1):
        raise ValueError(f"ema is the decay of an average, from 0 to below 1, not {ema!r}")
    if on_nonfinite not in ("raise", "skip"):
        raise ValueError(f"on_nonfinite must be 'raise' or 'skip', not {on_nonfinite!r}")
    if compute_dtype is not None and not _is_floating(compute_dtype):
        raise ValueError(f"compute_dtype must be a floating-point type, not {compute_dtype!r}")


def _is_real(x: Any) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def _is_floating(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        return False


def check_direction(objective: Callable[..., Any], *, maximize: bool) -> None:
    """Refuse to minimise a lower bound, or to maximise an upper one.

    Raises:
        ValueError: the direction does not fit the claim of the objective.
    """
    claim = followed_claim(objective)
    if claim is None:
        return
    if claim.value == "lower bound" and not maximize:
        raise ValueError(
            f"the objective claims to be a lower bound of {claim.of}, which must not be minimised: "
            "pass maximize=True, or define its negative as a function"
        )
    if claim.value == "upper bound" and maximize:
        raise ValueError(
            f"the objective claims to be an upper bound of {claim.of}, which must not be "
            "maximised: leave out maximize=True"
        )


def followed_claim(function: Any) -> Claim | None:
    """The claim of a function, or of the function that it wraps.

    `functools.partial` and functions with `__wrapped__` (`jax.vmap`, `jax.jit`, `functools.wraps`)
    are followed. Lambdas are not, because they may negate what they call.
    """
    seen: set[int] = set()
    made = [x for inner in _unwrapped(function, seen) for x in (inner, _maker(inner))]
    found = [claim for x in made if (claim := claim_of(x)) is not None]
    # The mean over a batch is unbiased for what may be a bound.
    bounds = [claim for claim in found if claim.value in ("lower bound", "upper bound")]
    return next(iter(bounds + found), None)


def _maker(function: Any) -> Any:
    """The function of a module in which another one was defined: `elbo` of what it returns."""
    names = getattr(function, "__qualname__", "").split(".<locals>")
    made = len(names) > 1
    return getattr(function, "__globals__", {}).get(names[0]) if made else None


def _unwrapped(function: Any, seen: set[int]) -> Iterator[Any]:
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        inner = getattr(function, "func", None)  # of functools.partial
        function = inner if inner is not None else inspect.getattr_static(
            function, "__wrapped__", None
        )  # fmt: skip


def warn_of_flight(objective: Callable[..., Any], history: Float[np.ndarray, " steps"]) -> None:
    """Warn if an objective without a claim diverged: it may have no optimum."""
    finite = history[np.isfinite(history)]
    if len(finite) < 2 or followed_claim(objective) is not None:
        return
    first, last = abs(float(finite[0])), abs(float(finite[-1]))
    if last > _HUGE * max(1.0, first) and not math.isclose(first, last):
        warnings.warn(
            f"the objective went from {finite[0]:.3g} to {finite[-1]:.3g}: it may have no optimum "
            "in this direction. A bound is to be climbed, with maximize=True",
            UserWarning,
            stacklevel=3,
        )
