"""Combinations of estimators of an objective's sites, each compiled once."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jax import Array

from ppgen._programs.with_estimators import with_estimators
from ppgen._reports.labels import written
from ppgen._reports.measure import Clock, Contender, lower
from ppgen._reports.table import joined
from ppgen._reports.tune_sites import Site
from ppgen._reports.variance_report import Candidate, candidate
from ppgen.errors import PpgenError
from ppgen.estimators import AbstractEstimator, Enumerate

_LARGE = 1000.0  # times the operations of the first combination
_SMALL = 1e6  # operations that are never too many

Choice = tuple[int | None, ...]
"""For each site the position of an estimator, or `None` for the program's own."""


@dataclasses.dataclass(eq=False)
class Arm:
    """A combination of estimators.

    Attributes:
        choice: the estimator of each site.
        draws: the number of draws.
        label: its name.
        order: how many were made before it.
        contender: what was measured; `None` if it was refused before.
        refused: why it is not a choice, or "".
        rounds: how many rounds it survived.
        error: the error by which ppgen refused it.
    """

    choice: Choice
    draws: int
    label: str
    order: int
    contender: Contender | None = None
    refused: str = ""
    rounds: int = 0
    error: PpgenError | None = None

    @property
    def accepted(self) -> bool:
        """Whether it may be chosen."""
        return self.contender is not None and not self.refused

    @property
    def row(self) -> Candidate:
        """What was measured."""
        if self.contender is None or self.refused:
            return Candidate(self.label, refused=self.refused, rounds=self.rounds)
        return candidate(self.label, self.contender, self.rounds)

    @property
    def simplicity(self) -> tuple[int, int, int]:
        """Less where more is left as the program has it: what decides among ties."""
        return sum(i is not None for i in self.choice), self.draws, self.order


@dataclasses.dataclass
class Arms:
    """All combinations that were made of an objective.

    Attributes:
        f: the objective.
        args: its arguments.
        key: any key.
        estimators: from which is chosen.
        sites: those of the objective.
        draws: from which is chosen.
        allow_biased: as `expectation` takes it.
        clock: times their runs.
    """

    f: Callable[..., Any]
    args: Any
    key: Array
    estimators: list[AbstractEstimator]
    sites: tuple[Site, ...]
    draws: tuple[int, ...]
    allow_biased: bool
    clock: Clock

    def __post_init__(self) -> None:
        self.made: dict[tuple[Choice, int], Arm] = {}
        self._same: dict[str, Arm] = {}
        self._operations = math.nan

    def all(self) -> list[Arm]:
        """Each once, in the order in which they were made."""
        return list(dict.fromkeys(self.made.values()))

    def make(self, choice: Choice, draws: int) -> Arm:
        """Compile a combination, or say why not; if it computes what another does, that one."""
        arm = Arm(choice, draws, self.label(choice, draws), len(self.made))
        self.made[choice, draws] = arm
        try:
            return self._compiled(arm)
        except PpgenError as error:
            arm.refused, arm.error = str(error), error
        except Exception as error:
            # A value or a type that the user's function does not expect. If it fails as it is, no
            # choice of estimators would mend it.
            if all(i is None for i in choice):
                raise
            arm.refused = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return arm

    def _compiled(self, arm: Arm) -> Arm:
        program = with_estimators(self.f, self.mapping(arm.choice))
        lowered = lower(
            program, self.args, self.key, draws=arm.draws, allow_biased=self.allow_biased
        )
        same = self._same.setdefault(lowered.text, arm)
        if same is not arm:
            self.made[arm.choice, arm.draws] = same
            if arm.simplicity < same.simplicity:
                same.choice, same.draws, same.label = arm.choice, arm.draws, arm.label
            return same
        operations = lowered.operations
        if math.isnan(self._operations):
            self._operations = operations
        if operations > max(_LARGE * self._operations, _SMALL):
            # It may take hours to compile, or all of the memory to run.
            arm.refused = (
                f"a gradient takes {operations:.2g} operations, one of the first candidate "
                f"{self._operations:.2g}"
            )
        else:
            arm.contender = lowered.compile(self.key, self.clock)
        return arm

    def fits(self, group: tuple[int, ...], draws: int) -> tuple[int, ...]:
        """The estimators that fit all sites of a group; they are alike."""
        fits = self.sites[group[0]].fits
        alone = tuple(i for i in fits if not self.estimators[i].coupled)
        # With a single draw there is nothing to be coupled.
        return alone if draws == 1 else (*alone, *(i for i in fits if i not in alone))

    def everywhere(self, estimator: AbstractEstimator) -> Choice:
        """One estimator at all sites that it fits."""
        i = self.position(estimator)
        return tuple(i if i in site.fits else None for site in self.sites)

    def position(self, estimator: AbstractEstimator | None) -> int | None:
        """Where an estimator is among all; it is added if it is not there."""
        if estimator is None:
            return None
        for i, known in enumerate(self.estimators):
            if type(known) is type(estimator) and bool(eqx.tree_equal(known, estimator)):
                return i
        self.estimators.append(estimator)
        return len(self.estimators) - 1

    def enumerates(self, arm: Arm) -> bool:
        """Whether it is a sum over all values of all sites, which misses nothing."""
        chosen = [self.estimators[i] for i in arm.choice if i is not None]
        return len(chosen) == len(arm.choice) > 0 and all(type(e) is Enumerate for e in chosen)

    def mapping(self, choice: Choice) -> dict[str, AbstractEstimator]:
        """A choice as `with_estimators` takes it: names are globs there."""
        return {
            glob.escape(site.name): self.estimators[i]
            for site, i in zip(self.sites, choice, strict=True)
            if i is not None
        }

    def label(self, choice: Choice, draws: int) -> str:
        """A combination in short."""
        by_estimator: dict[int, list[str]] = {}
        for site, i in zip(self.sites, choice, strict=True):
            if i is not None:
                by_estimator.setdefault(i, []).append(site.name)
        if len(by_estimator) == 1 and None not in choice:
            parts = [written(self.estimators[i]) for i in by_estimator]
        else:
            parts = [
                f"{joined(names, limit=3)}: {written(self.estimators[i])}"
                for i, names in by_estimator.items()
            ]
        label = ", ".join(parts) or written(None)
        return label + (f", {draws} draw{'s' * (draws > 1)}" if len(self.draws) > 1 else "")
