"""The sites whose estimators can be chosen from outside, and what fits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from numpyro.distributions import Distribution

from ppgen._distributions.wrappers import plain
from ppgen._expectation import prepare
from ppgen._programs.with_estimators import with_estimators
from ppgen._settings import settings
from ppgen._staging.stage import stage
from ppgen.estimators import AbstractEstimator
from ppgen.estimators._automatic import Automatic


@dataclasses.dataclass(frozen=True)
class Site:
    """A site of an objective.

    Attributes:
        name: its name.
        family: the class of its distribution.
        fits: the positions of the estimators that serve its distribution.
    """

    name: str
    family: str
    fits: tuple[int, ...]


class _Survey:
    """Notes the sites that ask for an automatic estimator; each gets one that will do for now."""

    def __init__(self, estimators: Sequence[AbstractEstimator]) -> None:
        self.sites: dict[str, Site] = {}
        self._estimators = estimators
        self._automatic = Automatic()

    def estimator(self, name: str, d: Distribution) -> AbstractEstimator:
        """Called for each choice. Where choices share a name, they share an estimator."""
        fits = [i for i, e in enumerate(self._estimators) if e.misfit(d) is None]
        if (known := self.sites.get(name)) is not None:
            fits = [i for i in known.fits if i in fits]
        self.sites[name] = Site(name, type(plain(d)).__name__, tuple(fits))
        return self._automatic.estimator(name, d)


def survey(
    f: Callable[..., Any], args: Any, estimators: Sequence[AbstractEstimator]
) -> tuple[Site, ...]:
    """The sites of `f(*args)`, in the order in which they are drawn."""
    found = _Survey(estimators)
    program = with_estimators(f, "auto")

    def staged(moving: Any, still: Any) -> None:
        with settings(automatic=found):
            stage(lambda: program(*eqx.combine(moving, still)))

    _abstractly(staged, args)
    return tuple(found.sites.values())


def automatic_picks(
    f: Callable[..., Any], args: Any, *, draws: int, allow_biased: bool
) -> dict[str, AbstractEstimator]:
    """What `"auto"` picks for each site.

    Raises:
        PpgenError: the objective is not accepted with any of its picks.
    """
    program = with_estimators(f, "auto")
    picks: dict[str, AbstractEstimator] = {}

    def prepared(moving: Any, still: Any) -> None:
        found = prepare(
            lambda: program(*eqx.combine(moving, still)), draws=draws, allow_biased=allow_biased
        )
        picks.update({name: p.estimator for name, p in found.automatic.picks.items()})

    _abstractly(prepared, args)
    return picks


def _abstractly(trace: Callable[[Any, Any], None], args: Any) -> None:
    """Call it with abstract values for what is differentiated, as a gradient does."""
    moving, still = eqx.partition(args, eqx.is_inexact_array)
    jax.eval_shape(lambda moving: trace(moving, still), moving)


def alike(sites: Sequence[Site]) -> list[tuple[int, ...]]:
    """Positions of sites in groups: of one family, which the same estimators fit."""
    groups: dict[Any, list[int]] = {}
    for i, site in enumerate(sites):
        groups.setdefault((site.family, site.fits), []).append(i)
    return [tuple(group) for group in groups.values()]
