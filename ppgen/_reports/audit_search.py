"""The procedure of an audit: choice of the steps, draws until they suffice, and the verdict."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import jax
import numpy as np
from jax import Array

from ppgen._reports.audit_report import AuditReport, Row, Verdict, compared, dominance
from ppgen._reports.slopes import Draws, Slopes

# A difference of the size `effect` is then found with this probability.
_POWER = 0.95
# A standard error to which one draw contributes more than this cannot be trusted.
_DOMINANT = 0.3
# Steps that are tried first (for each number of the arguments), and for how many draws.
_STEPS, _SOUGHT = 0.5 * 4.0 ** -np.arange(10), 4096
# Batches until the first look at them; changes of steps; how often a difference is confirmed.
_BATCHES, _RETRIES, _CONFIRMED = 8, 6, 2


class Search:
    """One audit: the choice of steps, draws until they suffice, the verdict."""

    def __init__(
        self, slopes: Slopes, error: float, effect: float, most: int, until: float, bar: Any
    ) -> None:
        self.slopes, self.error, self.effect = slopes, error, effect
        self.most, self.until, self.bar = most, until, bar
        self.steps = _STEPS * math.sqrt(slopes.size)
        self.made = self.looks = 0

    def __call__(self, key: Array) -> AuditReport:
        keys = _keys(key)
        steps, common = self._pilot(next(keys))
        batches: list[Draws] = []
        goal, retries, confirmed = _BATCHES, 0, 0
        while True:
            batches.append(self._batch(next(keys), steps, common))
            last = not self._going()
            if not batches[-1].finite():
                kept = Draws.joined(batches)
                inner = (kept.estimate, kept.estimated, kept.value, kept.gradient)
                if last or retries == _RETRIES or not all(np.isfinite(x).all() for x in inner):
                    return self._report(kept, steps)
                # Too large a step, for example to a negative scale: try a smaller one.
                steps = np.where(np.isfinite(kept.slope).all(0), steps, steps / 8)
                batches, retries = [], retries + 1
                continue
            if len(batches) < goal and not last:
                continue
            kept = Draws.joined(batches)
            self.looks += 1
            report = self._report(kept, steps)
            if report.verdict == "disagrees" and self._nearer(kept, steps, report, confirmed):
                if last:
                    reason = f"at these steps {report.reason}; no draws were left to confirm it"
                    return dataclasses.replace(report, verdict="no power", reason=reason)
                # A difference due to the size of the steps vanishes with smaller ones.
                steps, batches, goal, confirmed = steps / 4, [], _BATCHES, confirmed + 1
                continue
            if report.verdict != "no power" or last:
                return report
            better = self._better(kept, steps)
            if retries < _RETRIES and (better != steps).any():
                steps, batches, goal, retries = better, [], _BATCHES, retries + 1
            else:
                goal *= 2

    def _going(self) -> bool:
        return self.made < self.most and time.perf_counter() < self.until

    def _batch(self, key: Array, steps: np.ndarray, common: np.ndarray) -> Draws:
        out = self.slopes.draws(key, steps, common)
        self.made += len(out.value)
        self.bar.update(len(out.value))
        return out

    def _threshold(self) -> float:
        """The threshold in standard errors; all looks share the probability of error."""
        share = self.error / (max(self.looks, 1) * (max(self.looks, 1) + 1))
        return -NormalDist().inv_cdf(share / (2 * (self.slopes.count + 1)))

    def _pilot(self, key: Array) -> tuple[np.ndarray, np.ndarray]:
        """The step and the kind of randomness with the least error, by direction.

        All candidates have the same draws, so that they can be compared to smaller steps.
        """
        count = self.slopes.count
        found: list[tuple[float, bool, Draws]] = []
        usable = [h for h in self.steps if h >= self.slopes.resolved] or [self.slopes.resolved]
        for h, common in [(h, True) for h in usable] + [(h, False) for h in usable[:3]]:
            # A quarter of the draws and of the time are for the choice.
            if found and not (self.made < self.most / 4 and self._going()):
                break
            found.append((h, common, self._batch(key, np.full(count, h), np.full(count, common))))
        steps, shared = np.full(count, usable[-1]), np.full(count, True)
        for k in range(count):
            best = math.inf
            for h, common, draws in found:
                if not draws.finite():
                    continue
                noise = np.std(draws.estimate[:, k] - draws.slope[:, k]) / math.sqrt(_SOUGHT)
                apart = 0.0
                for smaller, same, others in found:
                    if smaller < h and common and same and others.finite():
                        gap = draws.slope[:, k] - others.slope[:, k]
                        sure = abs(gap.mean()) - 4 * gap.std() / math.sqrt(len(gap))
                        apart = max(apart, sure - self._rounding(others, smaller))
                total = self._threshold() * noise + apart + self._allowance(draws, h, k, _SOUGHT)
                if total < best:
                    best, steps[k], shared[k] = total, h, common
        return steps, shared

    def _rounding(self, draws: Draws, step: float) -> float:
        return 2 * self.slopes.eps * math.sqrt(np.mean(draws.value**2)) / step

    def _change(self, draws: Draws, k: int) -> float:
        """Remaining error from the size of the step; infinite where it is too large to expand.

        Halving it removes an error of a third of the change, and leaves one of a higher order.
        """
        change, n = draws.change, len(draws.value)
        mean = abs(change[:, k].mean())
        sure = mean - 2 * change[:, k].std() / math.sqrt(n)
        slope = math.sqrt(np.mean(draws.slope.mean(0) ** 2))
        return math.inf if sure > slope / 4 and sure > 1e-12 else mean / 3

    def _unseen(self, n: int) -> float:
        """An upper bound on the probability of an event that none of n draws has met."""
        return math.log(2 * (self.slopes.count + 1) / self.error) / n

    def _allowance(self, draws: Draws, step: float, k: int, n: int) -> float:
        """Systematic errors: the step's size, rounding, and jumps that no draw has met."""
        rare = float(np.std(draws.value)) * self._unseen(n) / step
        return self._change(draws, k) + self._rounding(draws, step) + rare

    def _better(self, draws: Draws, steps: np.ndarray) -> np.ndarray:
        """Smaller steps where their size limits the power, larger ones for less noise."""
        goal = self.effect * self._size(draws) / 4
        new = steps.copy()
        for k, h in enumerate(steps):
            spread = 2 * draws.change[:, k].std() / math.sqrt(len(draws.value)) / 3
            bias, rounding = self._change(draws, k) - spread, self._rounding(draws, h)
            if bias > goal and rounding < goal / 2 and h / 2 > self.slopes.resolved:
                new[k] = h / 2
            elif rounding > goal and bias < goal / 4:
                new[k] = 2 * h
            elif bias < goal / 8 and 4 * h <= self.steps[0]:
                # Jumps between the ends: their variance falls with the distance.
                noise = draws.slope[:, k].std()
                far = self._threshold() * noise / math.sqrt(len(draws.value)) > 8 * goal
                if far and noise > 2 * draws.estimate[:, k].std():
                    new[k] = 4 * h
        return new

    def _nearer(self, draws: Draws, steps: np.ndarray, report: AuditReport, confirmed: int) -> bool:
        """Whether smaller steps can and should confirm a difference."""
        if confirmed == _CONFIRMED or abs(report.rows[0].z) > self._threshold():
            return False
        goal = self.effect * self._size(draws) / 4
        return all(
            h / 4 > self.slopes.resolved and self._rounding(draws, h / 4) < goal for h in steps
        )

    def _size(self, draws: Draws) -> float:
        """Root mean square of the directional derivatives over all directions of unit length."""
        n = len(draws.value)
        mean = np.sum((draws.gradient / n) ** 2)
        # The mean of n gradients is longer than that of all.
        squared = mean - max(np.mean(draws.square) - mean, 0.0) / max(n - 1, 1)
        slopes = draws.slope.mean(0)
        noise = draws.slope.var(0) / n
        measured = float(np.mean(slopes**2 - noise))
        return math.sqrt(max(squared / self.slopes.size, measured, 0.0))

    def _report(self, draws: Draws, steps: np.ndarray) -> AuditReport:
        n, size = len(draws.value), self._size(draws) if draws.finite() else math.nan
        one = self.slopes.size == 1
        rows = [compared("value", draws.estimated, draws.value, self._value_allowance(draws), 0.0)]
        for k, h in enumerate(steps):
            name = self.slopes.names[0] if one else f"random {k + 1}"
            allowed = self._allowance(draws, h, k, n)
            rows.append(compared(name, draws.estimate[:, k], draws.slope[:, k], allowed, float(h)))
        far = self._threshold() + NormalDist().inv_cdf(_POWER)
        seen = max(far * r.error + r.allowance for r in rows[1:])
        reach = seen / size if size > 0 else (0.0 if seen == 0 else math.inf)
        dominated = max(
            dominance(draws.estimate[:, k] - draws.slope[:, k])
            * (far * rows[1 + k].error > self.effect * size / 10)
            for k in range(len(steps))
        )
        verdict, reason = self._verdict(rows, draws, size, reach, dominated)
        return AuditReport(tuple(rows), verdict, reason, size, self.effect, self.error, reach)

    def _value_allowance(self, draws: Draws) -> float:
        size = math.sqrt(np.mean(draws.value**2))
        rare = 2 * float(np.std(draws.value)) * self._unseen(len(draws.value))
        return 16 * self.slopes.eps * size + rare

    def _verdict(
        self, rows: list[Row], draws: Draws, size: float, reach: float, dominated: float
    ) -> tuple[Verdict, str]:
        n = len(draws.value)
        if not draws.finite():
            where = "gradient" if np.isfinite(draws.value).all() else "value"
            bad = draws.estimate.sum(1) if where == "gradient" else draws.value
            if where == "gradient" and np.isfinite(bad).all():
                where, bad = "value a step away", draws.slope.sum(1)
            count = n - np.isfinite(bad).sum()
            advice = "ppgen.first_nonfinite(f) says where that begins"
            return "disagrees", f"the {where} is not finite in {count:,} of {n:,} draws; {advice}"
        wrong = [r for r in rows if abs(r.z) > self._threshold()]
        if dominated > _DOMINANT:
            return "no power", (
                f"one of {n:,} draws makes {dominated:.0%} of the variance, so that no standard "
                "error can be trusted: more draws, or an estimator with lighter tails"
            )
        if wrong:
            worst = max(wrong, key=lambda r: abs(r.z))
            what = "the mean of the estimator is not that of runs of the program"
            if any(r.direction != "value" for r in wrong):
                what = "the mean gradient is not the slope of the value"
            return "disagrees", (
                f"{what} ({worst.estimate:.4g} against {worst.slope:.4g}, {worst.direction}); if "
                f"it were, this would be said with probability {self.error:g}"
            )
        if reach <= self.effect or size == 0 == reach:
            return "agrees", (
                f"a difference of {self.effect:.0%} of the gradient's size along a direction "
                f"({size:.3g}) would have been seen"
            )
        if size == 0 or reach > 1e3:
            return "no power", (
                "the gradient cannot be told from zero, so there is no scale: arguments at "
                "which it is larger, or more draws"
            )
        worst = max(rows[1:], key=lambda r: r.error + r.allowance)
        if worst.error > worst.allowance:
            needed = math.ceil(n * (reach / self.effect) ** 2)
            advice = f"max_draws={needed:,} and the seconds for it, an estimator of less variance"
        else:
            advice = "64-bit floats, more draws"
        return "no power", (
            f"only a difference of {reach:.0%} of the gradient's size along a direction "
            f"({size:.3g}) would have been seen: {advice}, or effect={1.1 * reach:.2g} if that "
            "will do"
        )


def _keys(key: Array) -> Iterator[Array]:
    while True:
        key, one = jax.random.split(key)
        yield one
