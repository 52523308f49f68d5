"""The registry of programs times estimators, over which the laws are tested."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppgen._programs.with_estimators import with_estimators
from ppgen.estimators import AbstractEstimator
from ppgen.testing import _cases as cases
from ppgen.testing._strategies import ESTIMATORS

_PATHWISE = ("Reparameterize", "ScoreFunction")
_NORMAL = (*_PATHWISE, "MeasureValued")
_FINITE = ("ScoreFunction", "Enumerate")
_CATEGORICAL = (*_FINITE, "MeasureValued")
_PRUNED = "MeasureValued, pruned"
_BASELINES = (
    *_CATEGORICAL,
    "ScoreFunction, constant baseline",
    "ScoreFunction, moving average",
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A case with an estimator for each of its choices.

    Attributes:
        function: the objective.
        args: where to test it.
        order: the highest derivative that is unbiased.
        kwargs: for `ppgen.expectation`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    order: int
    kwargs: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A small objective with all estimators that are sound for its choices.

    Attributes:
        function: the objective.
        theta: where to test it.
        sites: for each choice (or glob), names of `ppgen.testing.ESTIMATORS`.
        order: the highest derivative that JAX has for it.
        exact: its expectation, where the oracle has none.
        samples: the number of estimates that show a bias of 20%.
        kwargs: for `ppgen.expectation`.
    """

    function: Callable[..., Any]
    theta: tuple[float, ...]
    sites: Mapping[str, tuple[str, ...]]
    order: int = 2
    exact: Callable[..., Any] | None = None
    samples: int = 20_000
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def args(self) -> tuple[np.ndarray]:
        """The arguments of the objective."""
        return (np.array(self.theta, np.float32),)

    def variants(self) -> dict[str, Variant]:
        """Variants in which every estimator of every choice occurs at least once."""
        number = max(len(names) for names in self.sites.values())
        chosen = [
            {
                site: names[(i + j) % len(names)]
                for j, (site, names) in enumerate(self.sites.items())
            }
            for i in range(number)
        ]
        return {
            ", ".join(f"{site}={name}" for site, name in names.items()): self.with_estimators(
                {site: ESTIMATORS[name] for site, name in names.items()}
            )
            for names in chosen
        }

    def with_estimators(self, estimators: Mapping[str, AbstractEstimator]) -> Variant:
        """The case with these estimators."""
        first_order = any(e.first_order for e in estimators.values())
        return Variant(
            with_estimators(self.function, estimators),
            self.args,
            min(self.order, 1) if first_order else self.order,
            self.kwargs,
        )


def _case(
    function: Callable,
    theta: tuple[float, ...],
    sites: Mapping[str, tuple[str, ...]] | tuple[str, ...],
    **options: Any,
) -> Case:
    """A case; a single tuple of estimators is for all its choices alike."""
    return Case(function, theta, sites if isinstance(sites, dict) else {"*": sites}, **options)


CASES: dict[str, Case] = {
    # One choice.
    "flip": _case(cases.flip, (0.3, -0.4), (*_BASELINES, "REBAR", "RELAX")),
    "logits": _case(cases.logits, (0.0, 0.0), _CATEGORICAL),
    "categorical": _case(
        cases.categorical, (0.3, -0.2, 0.0), (*_CATEGORICAL, "UnorderedSet"), samples=40_000
    ),
    "binomial": _case(cases.binomial, (0.3, 0.2), _CATEGORICAL, samples=60_000),
    "poisson": _case(cases.poisson, (0.4, 1.2), ("ScoreFunction", "MeasureValued")),
    "normal": _case(cases.normal, (0.5, -0.6), _NORMAL, samples=100_000),
    "step": _case(cases.step, (1.2, -0.3), _NORMAL[1:], exact=cases.step_exact, samples=110_000),
    "gamma": _case(cases.gamma, (0.4, 0.2), _PATHWISE, order=1, samples=10_000),
    "beta": _case(cases.beta, (0.4, 1.2), _PATHWISE, order=1, samples=10_000),
    "dirichlet": _case(cases.dirichlet, (0.4, 0.7), _PATHWISE, order=1, samples=25_000),
    # Several choices.
    "product": _case(cases.product, (0.2,), _CATEGORICAL),
    "chain": _case(
        cases.chain,
        (0.4, -0.3),
        {"x": _NORMAL, "b": _CATEGORICAL, "y": _NORMAL},
        samples=60_000,
    ),
    "elementwise": _case(cases.elementwise, (0.4, -0.3), _CATEGORICAL),
    "mixing": _case(cases.mixing, (0.4, -0.3), _CATEGORICAL),
    "nested plates": _case(
        cases.nested_plates,
        (0.4, -0.3),
        {"a": (*_CATEGORICAL, "DisARM"), "b": (*_CATEGORICAL[::-1], "ARM")},
        order=1,
    ),
    "lanes": _case(
        cases.lanes, (0.8, 0.3), {"x": _NORMAL, "b": _CATEGORICAL}, order=1, samples=60_000
    ),
    "matrix": _case(cases.matrix, (0.4, -0.3), _CATEGORICAL, order=1),
    # Control flow.
    "jit": _case(cases.jit, (0.8, -0.5), _CATEGORICAL, order=1),
    "branch": _case(
        cases.branch, (0.3, 0.4), {"b": _CATEGORICAL, "z": _CATEGORICAL[::-1]}, order=1
    ),
    "switch": _case(
        cases.switch,
        (0.3, 0.6),
        {"k": (*_CATEGORICAL, _PRUNED), "x*": (*_NORMAL, _PRUNED)},
        order=1,
        samples=50_000,
    ),
    "scan": _case(cases.scan, (0.6, -0.3), _CATEGORICAL),
    "random walk": _case(cases.random_walk, (0.4, -0.5), _NORMAL, order=1, samples=60_000),
    "fori": _case(cases.fori, (0.6, 0.3), _CATEGORICAL, order=1),
    "map": _case(cases.mapped, (0.6, -0.3), _CATEGORICAL, order=1),
    "remat": _case(cases.remat, (0.8, -0.6), _NORMAL, order=1, samples=60_000),
    "custom rules": _case(
        cases.custom_rules, (0.4, -0.3), {"x": _PATHWISE, "b": _CATEGORICAL}, order=1
    ),
    # Programs.
    "discrete elbo": _case(cases.discrete_elbo, (0.5, -0.3), _CATEGORICAL),
    "mixed elbo": _case(
        cases.mixed_elbo, (0.5, 0.3), {"b": _CATEGORICAL, "x": _NORMAL}, order=1, samples=40_000
    ),
    "masked elbo": _case(cases.masked_elbo, (0.5, -0.8), _CATEGORICAL, order=1),
    "scaled elbo": _case(cases.scaled_elbo, (0.5, 0.9), _CATEGORICAL),
    "subsampled elbo": _case(
        cases.subsampled_elbo, (0.5, 0.9), {"z": _CATEGORICAL}, exact=cases.subsampled_exact
    ),
    "scanned elbo": _case(cases.scanned_elbo, (1.4, -0.9), _CATEGORICAL, order=1, samples=40_000),
    "conditional program": _case(
        cases.conditional_program, (0.4, 0.7), {"b": _CATEGORICAL, "z": _NORMAL}, order=1
    ),
    "iwae": _case(cases.iwae, (-1.0, 0.9), _CATEGORICAL, order=1, samples=60_000),
    "factors": _case(cases.factors, (0.4, 0.9), _NORMAL, order=1),
    # Several draws, whose other costs are the baseline.
    "draws": _case(cases.chain, (0.4, -0.3), _FINITE[:1], order=1, kwargs={"draws": 4}),
    "coupled draws": _case(
        cases.normal,
        (0.5, -0.6),
        ("Antithetic", "QuasiMonteCarlo"),
        samples=20_000,
        kwargs={"draws": 4},
    ),
}
"""Cases by name. New rows are tested automatically."""
