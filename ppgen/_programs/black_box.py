"""Functions without a derivative, which must not pass for functions of derivative zero."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from ppgen._derivatives import without_derivative
from ppgen._user_lines import user_line

_INSTEAD = (
    "ScoreFunction() at the sites that its arguments depend on, or jax.lax.stop_gradient around "
    "parameters that reach it directly"
)


def black_box(f: Callable[..., Any]) -> Callable[..., Any]:
    """A function that may be evaluated but not differentiated: a simulator, a rater, a metric.

    Estimators that need no derivative of the cost, such as the score function or enumeration, work
    as usual. Where a derivative with respect to its arguments *is* needed, because a
    reparameterised choice or a parameter reaches them, it would be missing, and an error is raised.
    Values are those of `f`.

    `jax.pure_callback` is recognised without this wrapper; for derivatives with respect to
    parameters that reach it, JAX raises its own error.

    Args:
        f: a function of arrays in JAX.

    Returns:
        The same function. Arrays that `f` closes over are differentiated as usual.

    Raises:
        DiscontinuityError: a reparameterised choice reaches it in an expectation.
        DerivativeError: a derivative is taken through it.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> rater = ppgen.black_box(lambda x: jnp.round(3 * x))
        >>> def f(m):
        ...     return rater(ppgen.draw(dist.Normal(m, 1.0), grad=ppgen.ScoreFunction()))
        >>> g = jax.grad(ppgen.expectation(f, draws=20_000), argnums=1)
        >>> bool(abs(g(jax.random.key(0), 0.3) - 3.0) < 0.1)
        True
    """
    message = f"a derivative was taken through the black box {getattr(f, '__name__', f)!r}"

    @functools.wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        where = user_line()

        def sealed(x: Any) -> Any:
            return without_derivative(x, message, _INSTEAD, where) if isinstance(x, Array) else x

        return f(*jax.tree.map(sealed, args), **jax.tree.map(sealed, kwargs))

    return run
