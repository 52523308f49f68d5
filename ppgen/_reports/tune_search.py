"""The search of `tune`: successive halving, over the estimators of one group of sites at a time."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

import jax

from ppgen._reports import measure
from ppgen._reports.measure import Contender, in_turns, means_apart
from ppgen._reports.tune_arms import Arm, Arms, Choice
from ppgen._reports.tune_sites import alike, automatic_picks
from ppgen._reports.variance_report import Candidate, leaders
from ppgen.errors import EstimatorError, PpgenError
from ppgen.estimators import ScoreFunction

ROUNDS = (16, 64, 256)
"""Runs of a candidate by the end of each round."""
_FINAL = 1024  # runs of each finalist
_LEAST = 8  # runs of a candidate that is slow
_TURNS = 4  # of a round
_JOINTLY = 12  # combinations that are few enough to try all
_SEPARATE = 16  # sites that are few enough to be looked at one by one
_SWEEPS = 4  # over all coordinates, at most
_SEARCH = 0.8  # the part of the time that is for the search; the rest is for the finalists
_SHARE = 0.02  # the part of the time that a candidate may run in a round
_SLOW = 0.05  # the part of the time that one gradient may not take
_NEAR = 1.5  # times the smallest product: finalists
_VOTERS = 8  # combinations that the means of finalists are compared with, too
_APART = 5.0  # standard errors between means that ought to be equal

Coordinate = tuple[int, ...] | None
"""Sites that get one estimator together; `None` for the number of draws."""


@dataclasses.dataclass
class Search:
    """The state of a search.

    Attributes:
        arms: the combinations that were made.
        seconds: how long it may take.
        began: when it began.
        report: is told what is being done.
    """

    arms: Arms
    seconds: float
    began: float
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self.left_out: set[tuple[Choice, int]] = set()
        self._compiling: list[float] = []
        # The runs of all candidates have the same keys.
        self._keys = list(jax.random.split(self.arms.key, _FINAL))

    @property
    def rows(self) -> tuple[Candidate, ...]:
        """What was measured of all combinations."""
        return tuple(arm.row for arm in self.arms.all())

    @property
    def _own(self) -> tuple[Choice, int]:
        """The program as it is."""
        return (None,) * len(self.arms.sites), self.arms.draws[0]

    # --- the course of the search ---

    def __call__(self) -> Arm:
        """The best combination found.

        Raises:
            PpgenError: the error of the first one, if none was accepted.
        """
        best = self._halve(self._tried(self._starts())) or self._halve(self._tried(self._simple()))
        if best is None:
            own = self.arms.made.get(self._own) or self.arms.all()[0]
            raise own.error or EstimatorError(f"no candidate was accepted: {own.refused}")
        coordinates: list[Coordinate] = [*alike(self.arms.sites)]
        number = len(coordinates)
        joint = self._jointly(coordinates)
        if len(joint) <= _JOINTLY:
            best = self._halve([best, *self._tried(joint)]) or best
        else:
            best = self._descend(best, coordinates)
        if number < len(self.arms.sites) <= _SEPARATE:
            best = self._descend(best, [(i,) for i in range(len(self.arms.sites))])
        return self._run_off()

    def _starts(self) -> Iterable[tuple[Choice, int]]:
        """What "auto" picks for each number of draws, and the program as it is."""
        arms = self.arms
        # Most draws first: where there is time for one candidate only, they are baselines for each
        # other, and what a run does but once is shared by more of them.
        for draws in sorted(arms.draws, reverse=True):
            if not self._time_for_another():
                break
            self.report("asking for automatic picks")
            try:
                picks = automatic_picks(
                    arms.f, arms.args, draws=draws, allow_biased=arms.allow_biased
                )
            except PpgenError:
                continue  # It has no picks here; the other candidates do not need them.
            yield tuple(arms.position(picks.get(s.name)) for s in arms.sites), draws
        yield self._own

    def _simple(self) -> Iterable[tuple[Choice, int]]:
        """One estimator everywhere, where neither the program's own nor "auto" is accepted."""
        for estimator in (ScoreFunction(), *self.arms.estimators):
            for draws in self.arms.draws:
                yield self.arms.everywhere(estimator), draws

    def _jointly(self, coordinates: Sequence[Coordinate]) -> list[tuple[Choice, int]]:
        """All combinations, or the first of them."""
        found = []
        for draws in self.arms.draws:
            options = [(None, *self.arms.fits(c, draws)) for c in coordinates if c is not None]
            for combination in itertools.islice(itertools.product(*options), _JOINTLY + 1):
                choice: Choice = (None,) * len(self.arms.sites)
                for group, option in zip(coordinates, combination, strict=True):
                    choice = _changed(choice, group or (), option)
                found.append((choice, draws))
        return found

    def _descend(self, best: Arm, coordinates: Sequence[Coordinate]) -> Arm:
        """Improve one coordinate after the other, until none can be improved."""
        arms = self.arms
        if len(arms.draws) > 1:
            coordinates = [*coordinates, None]
        for group in coordinates:
            if group is not None:
                # What "auto" picks is often what the program says: then this is its shorter name.
                self._tried([(_changed(best.choice, group, None), best.draws)])
        unchanged = 0
        for group in itertools.chain.from_iterable(itertools.repeat(coordinates, _SWEEPS)):
            if group is None:
                rivals = [(best.choice, draws) for draws in arms.draws]
            else:
                options = (None, *arms.fits(group, best.draws))
                rivals = [(_changed(best.choice, group, o), best.draws) for o in options]
            winner = self._halve([best, *self._tried(rivals)]) or best
            unchanged = unchanged + 1 if winner is best else 1
            best = winner
            if unchanged == len(coordinates):
                break
        return best

    def _run_off(self) -> Arm:
        """Measure those that may be the best more closely; of those that tie, take the simplest."""
        end = self.began + self.seconds
        runs = ROUNDS[0]
        while len(finalists := self._finalists()) > 1 and runs < _FINAL and measure.clock() < end:
            runs *= 2
            self._sample(finalists, runs, end, share=math.inf)
            self._drop_wrong([*finalists, *self.arms.all()[:_VOTERS]])
        for arm in finalists:
            arm.rounds += 1
        return _simplest(finalists)

    def _finalists(self) -> list[Arm]:
        accepted = [a for a in self.arms.all() if a.accepted]
        first = _leaders(accepted)
        limit = _NEAR * min(a.row.product for a in first)
        return [a for a in accepted if a in first or a.row.product <= limit]

    # --- successive halving ---

    def _halve(self, arms: Iterable[Arm]) -> Arm | None:
        """The best of several combinations; of those that tie, the simplest."""
        everyone = arms = [a for a in dict.fromkeys(arms) if a.accepted]
        end = self.began + _SEARCH * self.seconds
        for runs in ROUNDS if len(arms) > 1 else ROUNDS[:1]:
            self._sample(arms, runs, end, share=_SHARE)
            self._drop_wrong(everyone)
            ranked = sorted((a for a in arms if a.accepted), key=lambda a: a.row.rank)
            kept = {*ranked[: (len(ranked) + 1) // 2], *_leaders(ranked)}
            arms = [a for a in arms if a in kept]
            for arm in arms:
                arm.rounds += 1
        return _simplest(arms) if arms else None

    def _sample(self, arms: Sequence[Arm], runs: int, end: float, *, share: float) -> None:
        """Let each have so many runs in all; fewer, if it is slow."""
        todo: list[tuple[Contender, list]] = []
        for contender in (a.contender for a in arms if a.contender is not None):
            target = runs
            if contender.times:
                affordable = min(runs, share * self.seconds / max(contender.seconds[0], 1e-9))
                # In steps, so that the number of runs hardly ever depends on a time.
                steps = [2**i for i in range(3, 1 + int(math.log2(_FINAL)))]
                target = max([_LEAST, *(s for s in steps if s <= affordable)])
            todo.append((contender, self._keys[contender.moments.count : target]))
        in_turns(
            todo,
            _TURNS,
            report=lambda _: self.report(f"measuring {len(todo)} candidates"),
            stop=lambda: measure.clock() >= end and all(c.moments.count > 1 for c, _ in todo),
        )

    def _drop_wrong(self, arms: Sequence[Arm]) -> None:
        """Refuse those that are not finite, or whose mean gradient is not that of the others.

        All estimators have the same mean. One that has not is biased; or its runs have not yet met
        what happens rarely, so that its variance is not to be trusted either. Of those that differ
        from others, the one that all of them together make most likely is taken to be right.
        """
        for arm in arms:
            if arm.contender is not None and arm.contender.moments.count > 1:
                if not math.isfinite(arm.contender.variance[0]):
                    arm.refused = "its gradient is not always finite: see ppgen.first_nonfinite"
        arms = [a for a in dict.fromkeys(arms) if a.accepted]
        if self.arms.allow_biased:
            return
        pairs = list(itertools.product(arms, arms))
        apart = {(a, b): _apart(a.contender, b.contender) for a, b in pairs}

        def unlikely(a: Arm) -> tuple[bool, float]:
            # A sum over all values misses nothing. With a limit, so that none outweighs the others.
            distances = (min(apart[a, b], _APART) ** 2 for b in arms)
            return not self.arms.enumerates(a), sum(distances)

        while differ := [a for a in arms if any(apart[a, b] > _APART for b in arms)]:
            right = min(differ, key=unlikely)
            for arm in differ:
                if apart[arm, right] > _APART:
                    arm.refused = (
                        f"its mean gradient is not that of {right.label}, which agrees better with "
                        "the others: it is biased, or its runs miss what is rare"
                    )
            arms = [a for a in arms if a.accepted]

    def _tried(self, combinations: Iterable[tuple[Choice, int]]) -> list[Arm]:
        """Those that are there, or for which there is time."""
        found = (self._arm(choice, draws) for choice, draws in combinations)
        return [arm for arm in found if arm is not None]

    def _time_for_another(self) -> bool:
        """Whether there is time to compile one more, if it takes as long as most; or none yet."""
        expected = statistics.median(self._compiling) if self._compiling else 0.0
        ends = measure.clock() + expected
        return not self._compiling or ends <= self.began + _SEARCH * self.seconds

    def _arm(self, choice: Choice, draws: int) -> Arm | None:
        if (choice, draws) in self.arms.made:
            return self.arms.made[choice, draws]
        if not self._time_for_another():
            self.left_out.add((choice, draws))
            return None
        now = measure.clock()
        self.report(f"compiling {self.arms.label(choice, draws)}")
        arm = self.arms.make(choice, draws)
        if self._compiling and arm.contender is not None and not arm.contender.times:
            arm.contender.take(self._keys[:1])
            if (once := arm.contender.times[0]) > _SLOW * self.seconds:
                arm.refused = f"a gradient takes {once:.2g} s, too long to measure its variance"
        self._compiling.append(measure.clock() - now)
        return arm


def _changed(choice: Choice, group: tuple[int, ...], option: int | None) -> Choice:
    """A choice with another estimator at the sites of a group."""
    return tuple(option if i in group else c for i, c in enumerate(choice))


def _leaders(arms: Sequence[Arm]) -> list[Arm]:
    """Those that noise does not tell from the best."""
    rows = {arm: arm.row for arm in arms}
    first = {id(row) for row in leaders(rows.values())} if rows else set()
    return [arm for arm, row in rows.items() if id(row) in first]


def _simplest(arms: Sequence[Arm]) -> Arm:
    return min(_leaders(arms), key=lambda a: a.simplicity)


def _apart(a: Contender | None, b: Contender | None) -> float:
    """Standard errors between two means; less of them where the errors are known from few runs."""
    assert a is not None and b is not None
    fewest = min(a.moments.count, b.moments.count)
    return means_apart(a, b) / (1 + 10 / fewest) if fewest > 1 else 0.0
