"""Choosing gradient estimators by rule: `with_estimators(program, "auto")`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from numpyro.distributions import Distribution

from ppgen._distributions.pathwise import has_pathwise_derivative
from ppgen._settings import current
from ppgen.estimators import (
    AbstractEstimator,
    DisARM,
    Enumerate,
    MeasureValued,
    Reparameterize,
    ScoreFunction,
)

JOINT_VALUES = 1024
"""Largest number of joint values of one choice's elements that is still enumerated."""
EVALUATIONS = 64
"""Largest number of evaluations of a cost for one choice, or of the program for all choices."""


@dataclasses.dataclass(frozen=True)
class Pick:
    """The estimator of a site, and why.

    Attributes:
        estimator: what was picked.
        reason: why, in words.
    """

    estimator: AbstractEstimator
    reason: str


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What is known of a site's distribution: how many values it has, and which estimators fit.

    Attributes:
        pathwise: whether it has a pathwise derivative.
        values: the number of its values, where that is finite and known.
        disarm: whether it is a flip.
        phantoms: further points of its measure-valued derivative, where it has one.
    """

    pathwise: bool
    values: int | None
    disarm: bool
    phantoms: int | None


ENOUGH_DRAWS = 4
"""Number of draws from which leave-one-out baselines are better than an antithetic pair."""


class Automatic:
    """The sites of one program whose estimators are to be picked.

    Attributes:
        facts: of each site that asked.
        picks: what they get.
    """

    def __init__(self) -> None:
        self.facts: dict[str, _Facts] = {}
        self.picks: dict[str, Pick] = {}

    def estimator(self, name: str, d: Distribution) -> AbstractEstimator:
        """The pick for a site; before there is one, an estimator for the analysis to begin with.

        Where sites share a name, they share an estimator, which has to fit all of them.
        """
        facts = _facts(d)
        known = self.facts.get(name)
        self.facts[name] = facts if known is None else _both(known, facts)
        if name in self.picks and self.picks[name].estimator.misfit(d) is None:
            return self.picks[name].estimator
        return Reparameterize() if facts.pathwise else ScoreFunction()

    def pick(self, prepared: Any, draws: int) -> None:
        """Pick by the results of the analysis; prefer estimators without variance where cheap."""
        analysis, joint = prepared.analysis, prepared.joint
        jumps = {site.name for jump in analysis.discontinuities for site in jump.sites}
        elements: dict[str, int] = {}
        steps: dict[str, int] = {}
        for i, choice in enumerate(analysis.choices):
            number = math.prod(choice.shape[a] for a in joint[i])
            looped = math.prod(choice.shape[a] for a in joint[i] if a < choice.looped)
            for spec in choice.specs:
                elements[spec.name] = max(elements.get(spec.name, 1), number // looped)
                steps[spec.name] = max(steps.get(spec.name, 1), looped)
                if choice.together:
                    # A branch or loop is one choice, of which nothing more is known.
                    elements[spec.name] = max(elements[spec.name], math.prod(spec.batch))
        for name, facts in self.facts.items():
            self.picks[name] = _pick(
                facts, name in jumps, elements.get(name, 1), steps.get(name, 1), draws
            )

    def demote(self, draws: int) -> bool:
        """Replace the enumerated site with the most values; false where none is left."""
        found = [n for n, p in self.picks.items() if isinstance(p.estimator, Enumerate)]
        if not found:
            return False
        name = max(found, key=lambda n: self.facts[n].values or 0)
        facts = dataclasses.replace(self.facts[name], values=None)
        pick = _pick(facts, False, 1, 1, draws)
        reason = f"enumerating it with the others is too large; {pick.reason}"
        self.picks[name] = Pick(pick.estimator, reason)
        return True


def _both(a: _Facts, b: _Facts) -> _Facts:
    values = None if a.values is None or b.values is None else max(a.values, b.values)
    return _Facts(
        a.pathwise and b.pathwise,
        values,
        a.disarm and b.disarm,
        None if a.phantoms is None or b.phantoms is None else max(a.phantoms, b.phantoms),
    )


def _facts(d: Distribution) -> _Facts:
    values = None
    if getattr(d, "has_enumerate_support", False):
        try:
            values = jax.eval_shape(lambda: d.enumerate_support(expand=False)).shape[0]
        except (NotImplementedError, TypeError, jax.errors.JAXTypeError):
            values = None  # the support is known when the program runs, not before
    return _Facts(
        has_pathwise_derivative(d),
        values,
        DisARM().misfit(d) is None,
        _phantoms(d) if MeasureValued().misfit(d) is None else None,
    )


def _phantoms(d: Distribution) -> int:
    points = jax.eval_shape(lambda: MeasureValued()(jax.random.key(0), d))
    return points.weight.shape[0] - 1


def _pick(facts: _Facts, jumps: bool, elements: int, steps: int, draws: int) -> Pick:
    if facts.pathwise and not jumps:
        return Pick(Reparameterize(), "it has a pathwise derivative, and meets no discontinuity")
    why = "it meets a discontinuity; " if facts.pathwise else ""
    if facts.values is not None and elements * math.log(facts.values) <= math.log(JOINT_VALUES):
        of = f"{facts.values} values" + (f" of each of {elements} elements" * (elements > 1))
        return Pick(Enumerate(), f"{why}{of} can be summed over, which leaves no variance")
    if facts.values is not None:
        why += f"{facts.values}^{elements} joint values are too many; "
    if facts.disarm and draws >= ENOUGH_DRAWS:
        return Pick(ScoreFunction(), f"{why}{draws} draws are good baselines for each other")
    if facts.disarm and steps <= EVALUATIONS:
        return Pick(DisARM(), f"{why}an antithetic pair of all its elements at once")
    more = None if facts.phantoms is None else elements * steps * facts.phantoms
    if more is not None and more <= EVALUATIONS:
        return Pick(MeasureValued(), f"{why}it takes {more} more evaluations of its costs")
    with_ = "the other draws as baseline" if draws > 1 else "no baseline: use draws=2 or more"
    return Pick(ScoreFunction(), f"{why}the score function, with {with_}")


def automatic_estimator(name: str, d: Distribution) -> AbstractEstimator:
    """The estimator of a site that asked for an automatic one."""
    automatic = current().automatic
    if automatic is None:  # a program that is run, not differentiated
        automatic = Automatic()
    return automatic.estimator(name, d)
