"""The reports of measured candidates: tables and pictures in which noise decides nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ppgen._reports.measure import Contender
from ppgen._reports.table import table, wrapped
from ppgen.errors import EstimatorError

TIE = 2.0
"""Candidates that differ by fewer standard errors are not ranked."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """The measurements of one choice of estimators.

    Attributes:
        label: its name.
        variance: the variance of the gradient, summed over its entries; `nan` if it was refused.
        error: the standard error of the variance.
        seconds: median time of one gradient, compiled, in turns with the other candidates.
        seconds_error: the standard error of the median.
        flops: compiled floating-point operations of one gradient; XLA counts the body of a loop
            once, however often it runs.
        samples: how many gradients were run.
        refused: why the program does not accept these estimators, or "".
        rounds: how many rounds of `tune` it survived.
        choice: the estimators, as `with_estimators` takes them; `None` for the program's own, and
            in the table of `tune`, which has them as `Tuned.estimators`.
    """

    label: str
    variance: float = math.nan
    error: float = math.nan
    seconds: float = math.nan
    seconds_error: float = math.nan
    flops: float = math.nan
    samples: int = 0
    refused: str = ""
    rounds: int = 0
    choice: Any = None

    @property
    def product(self) -> float:
        """Variance times seconds: the time that a given accuracy takes, up to a constant."""
        return self.variance * self.seconds

    @property
    def rank(self) -> tuple[bool, float, float]:
        """What candidates are sorted by: the product; time among those without variance."""
        return (math.isnan(self.product), self.product, self.seconds)

    def ties_with(self, other: Candidate) -> bool:
        """Whether noise explains the difference between their products (or times, if exact)."""
        if self is other:
            return True
        if (self.variance == 0) != (other.variance == 0):
            return False
        mine, its = self.product or self.seconds, other.product or other.seconds
        if not (0 < mine < math.inf and 0 < its < math.inf):
            return False
        noise = math.hypot(self._relative_error, other._relative_error)
        return abs(math.log(mine / its)) <= TIE * noise

    @property
    def _relative_error(self) -> float:
        """Of the product, or of the time of an exact one."""
        of_time = self.seconds_error / self.seconds
        found = math.hypot(of_time, self.error / self.variance if self.variance else 0.0)
        return found if math.isfinite(found) else 1.0


def candidate(label: str, contender: Contender, rounds: int = 0, choice: Any = None) -> Candidate:
    """What was measured of a contender."""
    return Candidate(
        label,
        *contender.variance,
        *contender.seconds,
        contender.flops,
        contender.moments.count,
        rounds=rounds,
        choice=choice,
    )


def leaders(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates that noise does not tell from the best one, in the given order.

    Raises:
        EstimatorError: none was accepted.
    """
    candidates = list(candidates)
    accepted = [c for c in candidates if not c.refused]
    if not accepted:
        raise EstimatorError(
            "no candidate was accepted" + "".join(f": {c.refused}" for c in candidates[:1])
        )
    first = min(accepted, key=lambda c: c.rank)
    return [c for c in accepted if c.ties_with(first)]


def rows_and_reasons(candidates: Sequence[Candidate], *, rounds: bool = False) -> list[str]:
    """A table of candidates, and why some were refused.

    Args:
        candidates: all of them; those that tie with the best come first, in the given order.
        rounds: whether to show their runs, and the rounds that they survived.
    """
    best = leaders(candidates)
    others = sorted((c for c in candidates if c not in best), key=lambda c: c.rank)
    shown = [*best, *(c for c in others if not c.refused)]
    tie = " tie" if len(best) > 1 else ""
    columns = {
        "gradient variance": [f"{c.variance:.3g} ± {c.error:.1g}" for c in shown],
        "time": [f"{1e3 * c.seconds:.3g} ± {1e3 * c.seconds_error:.1g} ms" for c in shown],
        "FLOPs": [f"{c.flops:.3g}" for c in shown],
        "product": [f"{c.product:.3g}" for c in shown],
        "to the best": [f"{_ratio(c, best[0]):.3g} x{tie if c in best else ''}" for c in shown],
    }
    names = {"estimators": [c.label for c in shown]}
    if rounds:
        # Combinations have long names, and the last column is the one that is wrapped.
        del columns["FLOPs"]
        columns |= {"runs": [str(c.samples) for c in shown]}
        columns |= {"rounds": [str(c.rounds) for c in shown]} | names
        right = range(len(columns) - 1)
    else:
        columns = names | columns
        right = range(1, len(columns))
    rows = list(zip(*columns.values(), strict=True))
    lines = table([*columns], rows, what="candidates", right=right)
    if tie:
        lines += wrapped(
            f"tie: within {TIE:.0f} standard errors of the smallest product", first="  ", rest="  "
        )
    for c in others:
        if c.refused:
            text = f"{c.label}: {c.refused.splitlines()[0]}"
            lines += wrapped(text, first="  refused  ", rest="           ")
    return lines


def _ratio(c: Candidate, best: Candidate) -> float:
    """To the product of the best; to its time, among those without variance."""
    if best.variance > 0:
        return c.product / best.product
    return c.seconds / best.seconds if c.variance == 0 else math.inf


def plot(candidates: Sequence[Candidate], ax: Any = None) -> Any:
    """Variance against time with two standard errors each way, and lines of equal product.

    Args:
        candidates: refused ones are left out.
        ax: Matplotlib axes; by default new ones.

    Returns:
        The axes.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(layout="constrained", figsize=(8.0, 4.5))[1]
    best = leaders(candidates)
    shown = sorted((c for c in candidates if not c.refused), key=lambda c: c.rank)
    # Exact estimators have no place on a logarithmic axis: they lie on the lower edge.
    positive = [c.variance for c in shown if c.variance > 0]
    floor = 0.1 * min(positive) if positive else 1.0
    colours = itertools.cycle(f"C{i}" for i in range(10))
    for c, marker, colour in zip(shown, itertools.cycle("osD^vPX*<>p"), colours, strict=False):
        label = c.label + (" (exact)" if c.variance < floor else "")
        label += " (tie)" if c in best and len(best) > 1 else ""
        height = max(c.variance, floor)
        ax.errorbar(
            1e3 * c.seconds,
            height,
            xerr=_bar(1e3 * c.seconds, 1e3 * c.seconds_error),
            yerr=_bar(height, c.error) if c.variance >= floor else None,
            fmt=marker,
            color=colour,
            ms=8,
            capsize=2,
            alpha=0.8,
            label=label,
        )
    ax.set(xscale="log", yscale="log", xlabel="time of a gradient [ms]")
    ax.set_ylabel("variance of the gradient")
    ax.margins(x=0.3, y=0.2)
    _few_ticks(ax)
    if best[0].product > 0:
        low, high = ax.get_xlim()
        bottom, top = ax.get_ylim()
        for factor in (1, 10, 100, 1000):
            level = 1e3 * factor * best[0].product
            ax.plot([low, high], [level / low, level / high], ":", color="0.7", zorder=0)
            # Where the line leaves the picture, on its left or at its top.
            x, y = (low, level / low) if level / low < top else (level / top, top)
            if x < high and bottom < y:
                text = "best product" if factor == 1 else f"× {factor:,}"
                ax.annotate(
                    text,
                    (x, y),
                    (3, -3),
                    textcoords="offset points",
                    va="top",
                    fontsize="x-small",
                    color="0.4",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                    zorder=1,
                )
        ax.set(xlim=(low, high), ylim=(bottom, top))
    # Beside the picture: points lie anywhere in it.
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)
    return ax


def _few_ticks(ax: Any) -> None:
    """Plain numbers on the axis of time, few enough to be read, also where times are close."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = ax.get_xlim()
    widen = max(1.0, (4.0 * low / high) ** 0.5)
    ax.set_xlim(low / widen, high * widen)
    between = (1.0, 2.0, 5.0) if high / low * widen**2 < 50 else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(subs=between))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def _bar(value: float, error: float) -> list[list[float]] | None:
    """Two standard errors below and above, which stay on a logarithmic axis."""
    if not error > 0:
        return None
    return [[min(2 * error, 0.9 * value)], [2 * error]]


@dataclasses.dataclass(frozen=True)
class VarianceReport:
    """The report of `variance`; printing it shows a table, the best product first.

    Attributes:
        candidates: in the order in which they were given.
    """

    candidates: tuple[Candidate, ...]

    @property
    def ties(self) -> tuple[Candidate, ...]:
        """Those that noise does not tell from the smallest product of variance and time."""
        return tuple(leaders(self.candidates))

    @property
    def best(self) -> Candidate:
        """The smallest product of variance and time; among ties, the one that was given first."""
        return self.ties[0]

    def __str__(self) -> str:
        return "\n".join(rows_and_reasons(self.candidates))

    def plot(self, ax: Any = None) -> Any:
        """Variance against time with two standard errors each way, and lines of equal product.

        Args:
            ax: Matplotlib axes; by default new ones.

        Returns:
            The axes.
        """
        return plot(self.candidates, ax)
