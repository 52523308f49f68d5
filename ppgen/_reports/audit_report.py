"""The report of an audit, and the statistics of its comparisons."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from ppgen._reports.table import table, wrapped

Verdict = Literal["agrees", "disagrees", "no power"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        direction: `"value"`, an argument of one number, or the number of a random direction.
        estimate: mean derivative of the estimator along it, in units of the cost for each unit of
            the arguments; for `"value"` the mean of the estimator.
        estimate_error: its standard error.
        slope: slope of the value along it; for `"value"` the mean of runs of the program.
        slope_error: its standard error.
        error: the standard error of their difference; both have the same randomness.
        allowance: the part of the difference that may be due to the size of the steps, rounding,
            and jumps too rare for the draws.
        z: the difference beyond the allowance in standard errors, corrected for skewness.
        step: the distance from the arguments at which values were taken; 0 for `"value"`.
        draws: how many independent draws were made.
    """

    direction: str
    estimate: float
    estimate_error: float
    slope: float
    slope_error: float
    error: float
    allowance: float
    z: float
    step: float
    draws: int


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """The report of `ppgen.audit`; printing it shows a table.

    Attributes:
        rows: the comparisons: the value, and each direction.
        verdict: `"agrees"`, `"disagrees"`, or `"no power"` where the draws cannot tell.
        reason: the verdict in words.
        size: the size of the gradient along a direction (root mean square), the unit of `effect`.
        effect: the relative difference to be detected.
        error: the probability of a false alarm.
        reach: the smallest relative difference along a direction that would have been detected.
    """

    rows: tuple[Row, ...]
    verdict: Verdict
    reason: str
    size: float
    effect: float
    error: float
    reach: float

    def __bool__(self) -> bool:
        """Refuse, because a report has no truth value."""
        raise TypeError("a report is neither true nor false: compare report.verdict == 'agrees'")

    def __str__(self) -> str:
        cells = [
            [
                row.direction,
                f"{row.estimate:.4g} ± {row.estimate_error:.1g}",
                f"{row.slope:.4g} ± {row.slope_error:.1g}",
                f"{row.error:.1g} + {row.allowance:.1g}",
                f"{row.z:+.1f}",
                f"{row.step:.2g}" if row.step else "·",
                f"{row.draws:,}",
            ]
            for row in self.rows
        ]
        heads = ["along", "estimator", "runs of the program", "error", "z", "step", "draws"]
        lines = table(heads, cells, what="directions", right=range(1, len(heads)))
        text = f"{self.verdict}: {self.reason}"
        return "\n".join([*lines, "", *wrapped(text, first="verdict  ", rest="         ")])


def compared(
    name: str, estimate: np.ndarray, slope: np.ndarray, allowed: float, step: float
) -> Row:
    n = len(estimate)
    gap = estimate - slope
    mean, error = gap.mean(), gap.std() / math.sqrt(max(n - 1, 1))
    beyond = math.copysign(max(abs(mean) - allowed, 0.0), mean)
    if not np.isfinite([mean, error]).all():
        z = math.nan
    elif error == 0:
        z = math.copysign(math.inf, beyond) if beyond else 0.0
    else:
        z = _unskewed(beyond / error, float(np.mean((gap - mean) ** 3)) / gap.std() ** 3, n)
    return Row(
        name,
        float(estimate.mean()),
        float(estimate.std() / math.sqrt(n)),
        float(slope.mean()),
        float(slope.std() / math.sqrt(n)),
        float(error),
        float(allowed),
        float(z),
        step,
        n,
    )


def _unskewed(t: float, skewness: float, n: int) -> float:
    """Hall's transformation of a t statistic: monotone, and normal to one order more."""
    s = skewness / math.sqrt(n)
    return t + s * t**2 / 3 + s**2 * t**3 / 27 + s / 6


def dominance(x: np.ndarray) -> float:
    squares = (x - x.mean()) ** 2
    return float(squares.max() / squares.sum()) if squares.sum() > 0 else 0.0
