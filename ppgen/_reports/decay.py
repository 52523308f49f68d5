"""How fast the differences of a debiased objective fall, by measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from ppgen._expectation import expectation
from ppgen._programs.debias import Debiased
from ppgen._reports.table import table
from ppgen.errors import EstimatorError


@dataclasses.dataclass(frozen=True)
class Decay:
    """The report of `decay`; printing it shows a table.

    Attributes:
        particles: of each level, from level zero.
        mean: the mean of each level's difference; of level zero, of the estimate itself.
        value: the mean square of each difference.
        gradient: the mean square norm of its gradient by the arguments that are floats; NaN if
            there are none.
        exponent: the mean squares, of value or gradient, whichever fall more slowly, fall as
            `2 ** -(exponent * level)`.
        error: the standard error of the exponent.
        rate: the rate of the objective.
    """

    particles: tuple[int, ...]
    mean: tuple[float, ...]
    value: tuple[float, ...]
    gradient: tuple[float, ...]
    exponent: float
    error: float
    rate: float

    @property
    def advised(self) -> float:
        """The rate that balances variance and cost: halfway between one and the exponent."""
        return (1.0 + min(self.exponent, 3.0)) / 2

    def __str__(self) -> str:
        """The table."""
        rows = [
            [f"{n:,}", f"{m:.3g}", f"{v:.3g}", "" if np.isnan(g) else f"{g:.3g}"]
            for n, m, v, g in zip(self.particles, self.mean, self.value, self.gradient, strict=True)
        ]
        header = ["particles", "mean", "mean square", "of the gradient"]
        lines = table(header, rows, what="levels", right=range(4))
        return "\n".join(
            [
                *lines,
                f"Mean squares fall as 2^(-{self.exponent:.2f} level), ± {self.error:.2f}. "
                f"Rate: {self.rate:g}; halfway between 1 and the exponent: {self.advised:.2f}.",
            ]
        )

    __repr__ = __str__


def decay(
    objective: Debiased, *, draws: int = 2000, levels: int | None = None
) -> Callable[..., Decay]:
    """Measure how fast the differences between the levels of a debiased objective fall.

    The variance of the estimate is finite, however many levels there are, if their mean squares
    fall faster than `2 ** -(rate * level)`, and its expected cost if the rate is above one.

    Args:
        objective: what `ppgen.debias` returns.
        draws: how many runs of each level.
        levels: how many levels to measure, at least three; by default all, at most seven.

    Returns:
        A function of a key and the arguments of the objective, to a report. It differentiates by
        all arrays of floats among the arguments.

    Raises:
        EstimatorError: the differences fall too slowly for the rate, or for any rate: by two
            standard errors.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> def family(n):
        ...     return lambda theta: jnp.log(
        ...         jnp.mean(ppgen.draw(dist.Gamma(jnp.full(n, 3.0), 3.0 / theta), name="x"))
        ...     )
        >>> found = ppgen.decay(ppgen.debias(family), levels=5)(jax.random.key(0), 2.0)
        >>> found.exponent > 1.6
        True
    """
    levels = min(objective.levels, 7) if levels is None else levels
    if not 3 <= levels <= objective.levels:
        raise ValueError(f"levels must be from 3 to {objective.levels}, not {levels}")

    def measure(key: Array, *args: Any) -> Decay:
        moving, still = eqx.partition(args, eqx.is_inexact_array_like)
        flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, moving))

        def of_level(k: int) -> tuple[np.ndarray, np.ndarray]:
            g = expectation(objective.difference(k))

            def at(key: Array, flat: Array) -> Array:
                return g(key, *eqx.combine(unravel(flat), still))

            run = jax.jit(jax.vmap(jax.value_and_grad(at, argnums=1), (0, None)))
            value, gradient = run(jax.random.split(jax.random.fold_in(key, k), draws), flat)
            return np.asarray(value, float), np.sum(np.asarray(gradient, float) ** 2, axis=-1)

        found = [of_level(k) for k in range(1 + levels)]
        mean = tuple(float(v.mean()) for v, _ in found)
        value = tuple(float(np.mean(v**2)) for v, _ in found)
        gradient = tuple(float(g.mean()) if flat.size else float("nan") for _, g in found)
        # Beside the estimate itself, what is less than this is rounding.
        seen = [x for x in (value, gradient) if min(x[1:]) > 1e-10 * x[0]]
        fits = [_slope(x[1:]) for x in seen]
        if not fits:
            raise EstimatorError(
                "the differences between levels are all zero, or not finite",
                instead="a family that depends on its number of particles",
            )
        exponent, error = min(fits)
        sizes = tuple(objective.base * 2**k for k in range(1 + levels))
        report = Decay(sizes, mean, value, gradient, exponent, error, objective.rate)
        if exponent + 2 * error <= objective.rate:
            possible = exponent > 1.0
            raise EstimatorError(
                f"the mean squares of the differences fall as 2^(-{exponent:.2f} level), ± "
                f"{error:.2f}, and levels become rare as 2^(-{objective.rate:g} level): the "
                "variance grows without bound with the number of levels",
                instead=f"rate={report.advised:.2f}"
                if possible
                else "another estimate: no rate makes both variance and cost finite",
            )
        return report

    return measure


def _slope(squares: tuple[float, ...]) -> tuple[float, float]:
    """The exponent of two by which mean squares fall, and its standard error."""
    y = np.log2(np.array(squares))
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float(np.sum(x * y) / np.sum(x**2))
    rest = y - y.mean() - slope * x
    return -slope, float(np.sqrt(np.sum(rest**2) / max(len(y) - 2, 1) / np.sum(x**2)))
