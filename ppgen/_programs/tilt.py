"""Programs reweighted by an energy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro
from jax import Array

from ppgen._user_lines import user_line
from ppgen.annotations import Program
from ppgen.errors import CostError


def tilt(program: Program, energy: Callable[[Any], Array], *, name: str = "energy") -> Program:
    r"""The unnormalised program p(x) exp(−energy(x)), where x is what the program returns.

    It draws as `program` does; the energy is a factor of its density, *exactly*. To draw from the
    tilted law, `normalize` it, or train a guide against it. A tilt of a tilt has the sum of both
    energies.

    Args:
        program: any program.
        energy: of what the program returns, to a real scalar (in a plate or under `jax.vmap`, one
            for each element), in nats. Values of low energy become more likely.
        name: the name of the factor. The default `"energy"` gets a number if the name is taken.

    Returns:
        A program of the same arguments and return value, with one factor more.

    Raises:
        CostError: the energy is not real, or the program returns nothing.

    Example:
        >>> import numpyro, numpyro.distributions as dist, ppgen
        >>> def program():
        ...     return numpyro.sample("x", dist.Normal(0.0, 1.0))
        >>> tilted = ppgen.tilt(program, lambda x: x**2)
        >>> round(float(ppgen.log_density(tilted)({"x": 1.0})), 4)  # -1.4189 - 1
        -2.4189
    """
    depth = getattr(program, "ppgen_tilts", 0)
    factor = name if depth == 0 or name != "energy" else f"{name}_{depth}"

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        value = program(*args, **kwargs)
        if value is None:
            raise CostError(
                "a program that returns nothing has no energy",
                site=factor,
                where=user_line(),
                instead="return what the energy is a function of",
            )
        found = jnp.asarray(energy(value))
        if not jnp.issubdtype(found.dtype, jnp.floating) and found.dtype != bool:
            found = found.astype(float)
        numpyro.factor(factor, -found)
        return value

    run.ppgen_tilts = depth + 1  # pyright: ignore[reportFunctionMemberAccess]
    return run
