"""The report of `tune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ppgen._reports.table import wrapped
from ppgen._reports.variance_report import Candidate, leaders, plot, rows_and_reasons
from ppgen.estimators import AbstractEstimator


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The estimators that `tune` chose, and all that it measured; printing it shows the table.

    Attributes:
        estimators: by site, for `with_estimators`; sites that are not named keep their own.
        draws: the number of draws, for `expectation`.
        chosen: the label of the choice among the candidates.
        candidates: what was measured, and what was not, and why.
        seconds: how long it took.
        left_out: how many candidates were not tried, for lack of time.
    """

    estimators: Mapping[str, AbstractEstimator]
    draws: int
    chosen: str
    candidates: tuple[Candidate, ...]
    seconds: float
    left_out: int

    @property
    def best(self) -> Candidate:
        """The measurements of the choice."""
        return next(c for c in self.candidates if c.label == self.chosen)

    @property
    def ties(self) -> tuple[Candidate, ...]:
        """Those that noise does not tell from the smallest product of variance and time."""
        return tuple(leaders(self.candidates))

    def __str__(self) -> str:
        first = sorted(self.candidates, key=lambda c: c.label != self.chosen)
        lines = rows_and_reasons(first, rounds=True)
        lines += ["", *wrapped(self.chosen, first="chosen  ", rest="        ")]
        time = f"{self.seconds:.1f} s"
        if self.left_out:
            time += f", not enough for {self.left_out:,} more candidates"
        return "\n".join([*lines, f"time    {time}"])

    def plot(self, ax: Any = None) -> Any:
        """Variance against time with two standard errors each way, and lines of equal product.

        Args:
            ax: Matplotlib axes; by default new ones.

        Returns:
            The axes.
        """
        return plot(self.candidates, ax)
