"""`seed`: programs as functions of a key, without NumPyro's effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array

from ppgen import _jax
from ppgen._evaluation.evaluate import Run, plain
from ppgen._evaluation.values import Value, at_first_point
from ppgen._keys import first_key
from ppgen._lowering.lower import lower, needs_lowering
from ppgen._staging.stage import stage
from ppgen._tracebacks import boundary


def seed(f: Callable[..., Any]) -> Callable[..., Any]:
    """Turn anything that draws (a program, an objective, a sampler) into a function of a key.

    Args:
        f: a function that uses NumPyro effects or `ppgen.draw`; it may return any pytree.

    Returns:
        `(key, *args, **kwargs) -> f(*args, **kwargs)`, a plain JAX function. Derivatives flow
        through reparameterised choices only; for the others see `expectation`.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def program(n):
        ...     with numpyro.plate("N", n):
        ...         return numpyro.sample("x", dist.Poisson(3.0))
        >>> ppgen.seed(program)(jax.random.key(0), 5).shape
        (5,)
    """

    @boundary
    def run(key: Array, *args: Any, **kwargs: Any) -> Any:
        key = first_key(key, args, kwargs, name="ppgen.seed(f)")
        return seeded(lambda: f(*args, **kwargs), key)

    return run


def seeded(thunk: Callable[[], Any], key: Array, params: str = "error") -> Any:
    """Run `thunk()` with a key."""
    key = _jax.typed_key(key)
    with _jax.varying_like(key):
        staged = stage(thunk, params=params)
        jaxpr = lower(staged.jaxpr, sampling=True) if needs_lowering(staged.jaxpr) else staged.jaxpr
    outs: list[Value] = Run(key, plain)(jaxpr, [])
    # A branch with choices that would stand for several points has an axis for its only one.
    return staged.unflatten([at_first_point(o) for o in outs])
