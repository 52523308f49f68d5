"""Grids of times for a sampler of few steps, found from the errors of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ppgen.inference.paths._errors import ScheduleError
from ppgen.inference.paths._pairs import solution


def local_errors(
    fields: Callable[[Array, Any], Any], times: Float[Array, " t"], x0s: Float[Array, " n *event"]
) -> Float[Array, "t t"]:
    r"""The errors of single Euler steps between any two times, along fine solutions.

    .. math:: c_{ij} = E\, \| x_i + (t_j - t_i)\, v(x_i, t_i) - x_j \|^2

    for j > i, and infinite elsewhere, for `optimal_times`. Solutions are Heun's at all `times`. Of
    few points it is an estimate, to which the best grid is fitted: judge it on fresh ones.

    Args:
        fields: as for `solve`, with a `.velocity`.
        times: a fine grid, monotone.
        x0s: the points where solutions begin.

    Returns:
        Means over points, of sums of squares over their elements.

    References:
        Nguyen et al. Bellman optimal stepsize straightening of flow-matching models. ICLR 2024.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import Fields, local_errors
        >>> errors = local_errors(lambda x, t: Fields(0 * x + 2 * t), jnp.arange(3.0), jnp.zeros(1))
        >>> print(errors[0], errors[1, 2])  # x = t²: a step from t errs by the square of its length
        [inf  1. 16.] 1.0
    """
    times = jnp.asarray(times)
    paths = jax.vmap(lambda x: solution(fields, times, x))(jnp.asarray(x0s))
    velocities = jax.vmap(jax.vmap(lambda x, t: fields(x, t).velocity), (0, None))(paths, times)
    paths, velocities = (a.reshape(*a.shape[:2], -1) for a in (paths, velocities))
    index = jnp.arange(len(times))

    def row(i: Array) -> Array:
        ends = paths[:, i, None] + (times - times[i])[:, None] * velocities[:, i, None]
        squares = jnp.mean(jnp.sum((ends - paths) ** 2, axis=2), axis=0)
        return jnp.where(index > i, squares, jnp.inf)

    return jax.lax.map(row, index)


def optimal_times(
    costs: Float[ArrayLike, "..."], times: Float[ArrayLike, " t"], steps: int
) -> Float[Array, " {steps}+1"]:
    r"""The times at which so many steps have the least total cost, by dynamic programming.

    *Exact* for that sum, :math:`\sum_k c_{i_{k-1} i_k}` from the first time to the last one: the
    sum of local errors, say, which is not the error at the end. On nearly straight paths, equal
    steps can end closer: compare both. It runs on the host, in float64.

    Args:
        costs: of a step from one time to another, such as `local_errors`, at least zero. Those of
            steps that do not go forwards are never looked at.
        times: the times that costs are of.
        steps: how many to take. (Where steps may cost more than what they replace, fewer of them
            may cost less in total.)

    Returns:
        `steps` + 1 of the times, both ends included.

    Raises:
        ScheduleError: there are not as many times; costs are negative, or NaN; or any such steps
            have an infinite cost.

    References:
        Watson, Ho, Norouzi, Chan. Learning to efficiently sample from diffusion probabilistic
        models. 2021. Nguyen et al. Bellman optimal stepsize straightening of flow-matching models.
        ICLR 2024.

    Example:
        A field that is large only early.

        >>> import jax.numpy as jnp
        >>> from ppgen.inference import Fields, local_errors, optimal_times
        >>> times = jnp.linspace(0.0, 1.0, 21)
        >>> early = lambda x, t: Fields(0 * x + jnp.exp(-5 * t))
        >>> grid = optimal_times(local_errors(early, times, jnp.zeros(1)), times, 3)
        >>> print(" ".join(f"{t:.2f}" for t in grid))
        0.00 0.15 0.40 1.00
    """
    times = jnp.asarray(times)
    table, count = np.asarray(costs, np.float64), len(times)
    if not 1 <= steps < count:
        raise ScheduleError(f"cannot take {steps} steps between {count} times: 1 to {count - 1}")
    forward = np.triu(np.ones((count, count), bool), 1)
    if table.shape != forward.shape or not (table[forward] >= 0).all():
        raise ScheduleError(f"costs are a ({count}, {count}) table of numbers of at least zero")
    table = np.where(forward, table, np.inf)
    total, choices = table[0], []
    for _ in range(steps - 1):
        through = total[:, None] + table
        choices.append(through.argmin(0))
        total = through.min(0)
    if not np.isfinite(total[-1]):
        raise ScheduleError(f"any {steps} steps have an infinite cost")
    index = [count - 1]
    for best in reversed(choices):
        index.append(int(best[index[-1]]))
    return times[jnp.asarray([0, *reversed(index)])]
