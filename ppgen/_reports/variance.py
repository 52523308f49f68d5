"""Measured variance of gradient estimators on the user's objective."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ppgen._expectation import expectation
from ppgen._keys import first_key
from ppgen._programs.with_estimators import with_estimators
from ppgen._reports.table import table, wrapped
from ppgen._tracebacks import boundary
from ppgen.errors import EstimatorError, PpgenError, SiteError
from ppgen.estimators import AbstractEstimator

Choice = Any
"""An estimator for all sites, estimators by site, `"auto"`, or `None` for the program's own."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """The measurements of one choice of estimators.

    Attributes:
        label: its name.
        variance: the variance of the gradient, summed over its entries; `nan` if it was refused.
        error: the standard error of the variance.
        seconds: median time of one gradient, compiled, in a loop with the other candidates.
        flops: compiled floating-point operations of one gradient; XLA counts the body of a loop
            once, however often it runs.
        refused: why the program does not accept these estimators, or "".
    """

    label: str
    variance: float
    error: float
    seconds: float
    flops: float
    refused: str = ""

    @property
    def product(self) -> float:
        """Variance times seconds: the time that a given accuracy takes, up to a constant."""
        return self.variance * self.seconds


@dataclasses.dataclass(frozen=True)
class VarianceReport:
    """The report of `variance`; printing it shows a table, the best product first.

    Attributes:
        candidates: in the order in which they were given.
    """

    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The candidate with the smallest product of variance and time."""
        accepted = [c for c in self.candidates if not c.refused]
        if not accepted:
            raise EstimatorError("no candidate was accepted: " + self.candidates[0].refused)
        return min(accepted, key=lambda c: c.product)

    def __str__(self) -> str:
        best = self.best.product
        rows = []
        for c in sorted(self.candidates, key=lambda c: (bool(c.refused), c.product)):
            if c.refused:
                rows.append([c.label, "refused", "", "", "", ""])
                continue
            ratio = c.product / best if best > 0 else (1.0 if c.product == 0 else float("inf"))
            rows.append(
                [
                    c.label,
                    f"{c.variance:.3g} ± {c.error:.1g}",
                    f"{1e3 * c.seconds:.3g} ms",
                    f"{c.flops:.3g}",
                    f"{c.product:.3g}",
                    f"{ratio:.3g} x",
                ]
            )
        heads = ["estimators", "gradient variance", "time", "FLOPs", "product", "to the best"]
        lines = table(heads, rows, what="candidates", right=range(1, len(heads)))
        for c in self.candidates:
            if c.refused:
                text = f"{c.label}: {c.refused.splitlines()[0]}"
                lines += wrapped(text, first="  refused  ", rest="           ")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Variance against time, with lines of equal product.

        Args:
            ax: Matplotlib axes; by default new ones.

        Returns:
            The axes.
        """
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots(layout="constrained")[1]
        shown = [c for c in self.candidates if not c.refused]
        # Exact estimators have no place on a logarithmic axis: they lie on the lower edge.
        positive = [c.variance for c in shown if c.variance > 0]
        floor = 0.1 * min(positive) if positive else 1.0
        for c, marker in zip(shown, itertools.cycle("osD^vPX*"), strict=False):
            exact = " (exact)" if c.variance < floor else ""
            height = max(c.variance, floor)
            ax.plot(1e3 * c.seconds, height, marker, ms=8, alpha=0.8, label=c.label + exact)
        ax.set(xscale="log", yscale="log", xlabel="time of a gradient [ms]")
        ax.set_ylabel("variance of the gradient")
        ax.margins(x=0.3, y=0.2)
        if self.best.product > 0:
            low, high = ax.get_xlim()
            bottom, top = ax.get_ylim()
            for factor in (1, 10, 100, 1000):
                level = 1e3 * factor * self.best.product
                ax.plot([low, high], [level / low, level / high], ":", color="0.7", zorder=0)
            ax.set(xlim=(low, high), ylim=(bottom, top))
        ax.legend(fontsize="small")
        return ax


def variance(
    f: Callable[..., Any],
    estimators: Sequence[Choice] | Mapping[str, Choice],
    *,
    draws: int = 1,
    samples: int = 1000,
    repetitions: int = 30,
    allow_biased: bool = False,
) -> Callable[..., VarianceReport]:
    """Measure the variance and the time of candidate estimators on an objective.

    Args:
        f: the objective, as `ppgen.expectation` takes it.
        estimators: the candidates: each an estimator (for all sites), a mapping as
            `with_estimators` takes it, `"auto"`, or `None` for the program's own estimators. A
            mapping of candidates gives them labels.
        draws: as `ppgen.expectation` takes it.
        samples: how many gradients the variance is estimated from.
        repetitions: how many times a gradient is timed.
        allow_biased: as `ppgen.expectation` takes it. The variance does not show a bias.

    Raises:
        SiteError: a name or glob of a candidate that matches no site of the objective.

    Returns:
        `(key, *args) -> VarianceReport`: the variance of the gradient by every real array in
        `args`, the time and the operations that a gradient takes, and variance times time.

    Example:
        >>> import jax, ppgen, numpyro.distributions as dist
        >>> def f(p):
        ...     return (ppgen.draw(dist.Bernoulli(p)) - 0.499) ** 2
        >>> candidates = [ppgen.ScoreFunction(), ppgen.Enumerate()]
        >>> report = ppgen.variance(f, candidates)(jax.random.key(0), 0.3)
        >>> report.best.label
        'Enumerate()'
    """
    if not isinstance(estimators, Mapping):
        estimators = {_label(choice): choice for choice in estimators}

    @boundary
    def measure(key: Array, *args: Any) -> VarianceReport:
        key = first_key(key, args, name="ppgen.variance(f, estimators)")
        args = jax.tree.map(lambda x: jnp.asarray(x, float) if type(x) is float else x, args)
        moving, still = eqx.partition(args, eqx.is_inexact_array)
        found: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for label, choice in estimators.items():
            program = f if choice is None else with_estimators(f, _by_site(choice))
            g = expectation(program, draws=draws, allow_biased=allow_biased)
            gradient = _gradient(g, still)
            try:
                found[label] = jax.jit(gradient).lower(key, moving).compile()
            except PpgenError as error:
                if isinstance(choice, Mapping) and error.site in choice:
                    if isinstance(error, SiteError):
                        raise  # A misspelt name is a mistake of the caller.
                refused[label] = str(error)
                continue
            spread = jax.jit(
                lambda keys, moving, gradient=gradient: _spread(gradient, keys, moving)
            )
            found[label] = (found[label], spread(jax.random.split(key, samples), moving))
        seconds = _times(
            {label: each[0] for label, each in found.items()}, key, moving, repetitions
        )
        candidates = []
        for label in estimators:
            if label in refused:
                nan = float("nan")
                candidates.append(Candidate(label, nan, nan, nan, nan, refused[label]))
                continue
            compiled, (total, error) = found[label]
            flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
            candidates.append(
                Candidate(label, float(total), float(error), seconds[label], float(flops))
            )
        return VarianceReport(tuple(candidates))

    return measure


def _label(choice: Choice) -> str:
    if choice is None:
        return "as the program says"
    if isinstance(choice, AbstractEstimator):
        return _short(choice)
    if isinstance(choice, Mapping):
        return ", ".join(f"{site}: {_label(each)}" for site, each in choice.items())
    return str(choice)


def _short(estimator: Any) -> str:
    """The estimator in short: its class and the options that differ from their defaults."""
    given = []
    for field in dataclasses.fields(estimator):
        value = getattr(estimator, field.name)
        default = field.default
        if default is dataclasses.MISSING or not (value is default or _same(value, default)):
            shown = _short(value) if dataclasses.is_dataclass(value) else value
            given.append(f"{field.name}={shown}")
    return f"{type(estimator).__name__}({', '.join(given)})"


def _same(a: Any, b: Any) -> bool:
    return bool(eqx.tree_equal(a, b))


def _by_site(choice: Choice) -> Any:
    return {"*": choice} if isinstance(choice, AbstractEstimator) else choice


def _gradient(g: Callable[..., Array], still: Any) -> Callable[[Array, Any], Any]:
    def gradient(key: Array, moving: Any) -> Any:
        return jax.grad(lambda moving: g(key, *eqx.combine(moving, still)))(moving)

    return gradient


def _spread(gradient: Callable, keys: Array, moving: Any) -> tuple[Array, Array]:
    """The summed variance of the entries of a gradient, and its standard error."""

    def flat(key: Array) -> Array:
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(gradient(key, moving))])

    gradients = jax.lax.map(flat, keys, batch_size=min(100, len(keys)))
    # Relative to one of them, so that what never varies has no rounding error of its mean.
    gradients = gradients - gradients[0]
    squares = jnp.sum((gradients - jnp.mean(gradients, axis=0)) ** 2, axis=1)
    n = len(keys)
    return jnp.sum(squares) / (n - 1), jnp.std(squares) / jnp.sqrt(n)


def _times(compiled: dict[str, Any], key: Array, moving: Any, repetitions: int) -> dict[str, float]:
    """Median seconds of each, interleaved, so that a slow moment of the machine meets all."""
    times: dict[str, list[float]] = {label: [] for label in compiled}
    for run in compiled.values():
        jax.block_until_ready(run(key, moving))
    for _ in range(repetitions):
        for label, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(key, moving))
            times[label].append(time.perf_counter() - start)
    return {label: statistics.median(each) for label, each in times.items()}
