"""Mutable state of programs (NumPyro's `mutable`): read from an argument, returned as a result.

A program mutates its state in place while it is staged. The new state becomes an output of the
staged program, and `with_state` gathers the outputs of all programs that its function runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ppgen._settings import current, settings
from ppgen._user_lines import user_line
from ppgen.errors import SiteError


@contextlib.contextmanager
def collecting_state(flag: bool = True) -> Iterator[dict[str, Any]]:
    """A context in which new state is collected by site, or refused if not `flag`."""
    found: dict[str, Any] = {}
    with settings(state=found if flag else None):
        yield found


def is_state_kept() -> bool:
    """Whether the new state of programs is collected here."""
    return current().state is not None


def keep_state(states: dict[str, Any]) -> None:
    """Add new values of mutable sites to the collected state."""
    found = current().state
    if found is None:
        return
    for name, value in states.items():
        if name in found:
            raise SiteError(
                "two runs of programs update the same state, and one update would be lost",
                site=name,
                where=user_line(),
                instead="a separate name for the state of each program, and an objective that "
                "runs each program once (elbo, iwelbo)",
            )
        found[name] = value


def with_state(f: Callable[..., Any]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Make a function that runs programs with mutable state return their new state too.

    `mutable` sites, and the modules that use them for running statistics or keys, get their
    state from the `params` of `functional`: `params | state`, with `state` from `init_state`. An
    update is a result, never a side effect; outside of `with_state` it is an error. State has no
    derivative.

    Args:
        f: runs programs: an objective, or a program itself.

    Returns:
        A function of the same arguments that returns `(f(*args), state)`, with `state` a dict by
        site. Give it to `ppgen.expectation(..., has_aux=True)` or to `ppgen.seed`. With several
        particles, the new state is that of the first.

    Raises:
        SiteError: two runs update the same state.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> from numpyro.primitives import mutable
        >>> def model(x):
        ...     seen = mutable("seen", {"mean": jnp.zeros(())})
        ...     seen["mean"] = 0.9 * seen["mean"] + 0.1 * jnp.mean(x)
        ...     numpyro.sample("x", dist.Normal(seen["mean"], 1.0).expand([2]), obs=x)
        >>> x = jnp.array([1.0, 3.0])
        >>> state = ppgen.init_state(model)(jax.random.key(0), x)
        >>> f = ppgen.with_state(lambda s: ppgen.log_density(ppgen.functional(model))({}, s, x))
        >>> _, state = ppgen.expectation(f, has_aux=True)(jax.random.key(1), state)
        >>> round(float(state["seen"]["mean"]), 4)
        0.2
    """

    @functools.wraps(f)
    def run(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        with collecting_state() as found:
            out = f(*args, **kwargs)
        return out, found

    return run


def detached_state(state: Any) -> Any:
    """A copy of a state's containers, its leaves arrays without derivatives or weak types."""

    def leaf(x: Any) -> Any:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        return jax.lax.stop_gradient(jax.lax.convert_element_type(x, x.dtype))

    return jax.tree.map(leaf, state)
