"""Measurements of a compiled gradient: its mean, its variance, its time, and their errors."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppgen._expectation import expectation
from ppgen.errors import DerivativeError

Clock = Callable[[], float]
"""Seconds, from any beginning."""

clock: Clock = time.perf_counter
"""What a budget of time is measured with."""

_ROUNDING = 30
"""Gradients that differ by so many units of rounding, relative to their size, are equal."""


def as_arrays(args: Any) -> Any:
    """The arguments with numbers as arrays, by which one can differentiate.

    Raises:
        DerivativeError: no argument is a floating-point number.
    """
    args = jax.tree.map(lambda x: jnp.asarray(x, float) if type(x) is float else x, args)
    if not jax.tree.leaves(eqx.filter(args, eqx.is_inexact_array)):
        raise DerivativeError(
            "no argument is a floating-point number, so there is no gradient to measure",
            instead="(key, params): arrays that the objective closes over are constants here",
        )
    return args


class Moments:
    """The running mean of vectors, and their variance, summed over the entries.

    It takes the memory of one vector. The terms of the sum of squares each have the variance as
    their expectation, and are uncorrelated for normal vectors; so their scatter is the error.

    References:
        Welford, *Note on a Method for Calculating Corrected Sums of Squares and Products*,
        Technometrics 4, 1962.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._terms: list[float] = []

    def add(self, vector: np.ndarray) -> None:
        """Count one more vector, in double precision."""
        self.count += 1
        if self.count == 1:
            self.mean = vector.copy()
            return
        with np.errstate(invalid="ignore", over="ignore"):  # It is seen in the results.
            off = vector - self.mean
            self._terms.append((self.count - 1) / self.count * float(off @ off))
            self.mean += off / self.count

    @property
    def variance(self) -> float:
        """The variance, summed over the entries."""
        return statistics.fmean(self._terms) if self._terms else math.nan

    @property
    def error(self) -> float:
        """The standard error of the variance."""
        if len(self._terms) < 2:
            return math.nan
        return float(np.std(self._terms) / math.sqrt(len(self._terms)))


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A gradient, traced and not yet compiled.

    Attributes:
        lowered: as JAX has it.
        moving: the arguments that are differentiated.
        precision: the unit of rounding of the gradient.
    """

    lowered: Any
    moving: Any
    precision: float

    @property
    def text(self) -> str:
        """The program: equal for gradients that are computed in the same way."""
        return self.lowered.as_text()

    @property
    def operations(self) -> float:
        """The floating-point operations of a run, before the compiler saves any."""
        return float((self.lowered.cost_analysis() or {}).get("flops", math.nan))

    def compile(self, key: Array, stopwatch: Clock) -> Contender:
        """Compile it, and run it once, so that no later run is a first one."""
        compiled = self.lowered.compile()
        jax.block_until_ready(compiled(key, self.moving))
        flops = float((compiled.cost_analysis() or {}).get("flops", math.nan))
        return Contender(lambda key: compiled(key, self.moving), flops, self.precision, stopwatch)


def lower(
    f: Callable[..., Any], args: Any, key: Array, *, draws: int, allow_biased: bool
) -> Lowered:
    """Trace the gradient of an objective by every real array in its arguments.

    Args:
        f: the objective.
        args: as from `as_arrays`.
        key: any key.
        draws: as `expectation` takes it.
        allow_biased: as `expectation` takes it.
    """
    g = expectation(f, draws=draws, allow_biased=allow_biased)
    moving, still = eqx.partition(args, eqx.is_inexact_array)

    def gradient(key: Array, moving: Any) -> Any:
        return jax.grad(lambda moving: g(key, *eqx.combine(moving, still)))(moving)

    precision = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(moving))
    return Lowered(jax.jit(gradient).lower(key, moving), moving, precision)


class Contender:
    """A compiled gradient, and what was measured of it so far.

    Each run gives a sample of the gradient and a sample of its time.
    """

    def __init__(
        self,
        run: Callable[[Array], Any],
        flops: float,
        precision: float,
        stopwatch: Clock = time.perf_counter,
    ) -> None:
        self._run, self.flops, self._precision = run, flops, precision
        self._stopwatch = stopwatch
        self.moments = Moments()
        self.times: list[float] = []

    def take(self, keys: Sequence[Array]) -> None:
        """Run it once with each key."""
        for key in keys:
            start = self._stopwatch()
            out = jax.block_until_ready(self._run(key))
            self.times.append(self._stopwatch() - start)
            leaves = [np.asarray(x).astype(np.float64).ravel() for x in jax.tree.leaves(out)]
            self.moments.add(np.concatenate(leaves))

    @property
    def variance(self) -> tuple[float, float]:
        """The variance of the gradient and its standard error; zero for rounding alone."""
        moments = self.moments
        with np.errstate(invalid="ignore", over="ignore"):
            size = float(moments.mean @ moments.mean)
        rounding = (_ROUNDING * self._precision) ** 2 * size
        if moments.variance <= rounding < math.inf:
            return 0.0, 0.0
        return moments.variance, moments.error

    @property
    def seconds(self) -> tuple[float, float]:
        """The median time of a run, and the error of the median, whatever the law of the times.

        Half the distance between the ranks `n / 2 ± sqrt(n) / 2`: the rank of the true median has
        a binomial law with that standard deviation.
        """
        times, n = sorted(self.times), len(self.times)
        half = math.sqrt(n) / 2
        low, high = math.floor((n - 1) / 2 - half), math.ceil((n - 1) / 2 + half)
        error = (times[min(high, n - 1)] - times[max(low, 0)]) / 2 if n > 1 else math.nan
        return statistics.median(times), error


def means_apart(a: Contender, b: Contender) -> float:
    """By how many standard errors the mean gradients of two contenders differ.

    A thousandth of their size is allowed for rounding, which is five of these errors.
    """
    spread = sum(c.variance[0] / c.moments.count for c in (a, b))
    size = max(float(np.linalg.norm(c.moments.mean)) for c in (a, b))
    error = math.hypot(math.sqrt(spread), 2e-4 * size)
    gap = float(np.linalg.norm(a.moments.mean - b.moments.mean))
    return gap / error if error else (0.0 if gap == 0 else math.inf)


def in_turns(
    runs: Sequence[tuple[Contender, Sequence[Array]]],
    turns: int,
    report: Callable[[int], Any] = lambda runs: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Let contenders run in turns, so that a slow moment of the machine meets all of them alike.

    Args:
        runs: contenders, each with the keys of its runs.
        turns: in how many turns.
        report: is told of the number of runs of each turn.
        stop: whether to end here.
    """
    for turn in range(turns):
        first = turn % max(1, len(runs))
        for contender, keys in [*runs[first:], *runs[:first]]:
            if stop():
                return
            block = keys[turn * len(keys) // turns : (turn + 1) * len(keys) // turns]
            contender.take(block)
            report(len(block))
