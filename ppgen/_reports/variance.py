"""Measured variance of gradient estimators on the user's objective."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import Array
from tqdm import tqdm

from ppgen._keys import first_key
from ppgen._programs.with_estimators import with_estimators
from ppgen._reports.labels import written
from ppgen._reports.measure import Contender, as_arrays, in_turns, lower
from ppgen._reports.variance_report import Candidate, VarianceReport, candidate
from ppgen._tracebacks import boundary
from ppgen.errors import PpgenError, SiteError

Choice = Any
"""An estimator for all sites, estimators by site, `"auto"`, or `None` for the program's own."""


def variance(
    f: Callable[..., Any],
    estimators: Sequence[Choice] | Mapping[str, Choice],
    *,
    draws: int = 1,
    samples: int = 1000,
    repetitions: int = 30,
    allow_biased: bool = False,
    progress: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Callable[..., VarianceReport]:
    """Measure the variance and the time of candidate estimators on an objective.

    Args:
        f: the objective, as `ppgen.expectation` takes it.
        estimators: the candidates: each an estimator (for all sites), a mapping as
            `with_estimators` takes it, `"auto"`, or `None` for the program's own estimators. A
            mapping of candidates gives them labels.
        draws: as `ppgen.expectation` takes it.
        samples: how many gradients the variance and the time are estimated from.
        repetitions: in how many turns a candidate runs them, so that a slow moment of the machine
            meets all candidates alike.
        allow_biased: as `ppgen.expectation` takes it. The variance does not show a bias.
        progress: show a progress bar.
        clock: times a gradient. `time.process_time` counts the time of all threads of this process,
            and so hardly notices what else the machine is doing.

    Raises:
        SiteError: a name or glob of a candidate that matches no site of the objective.
        DerivativeError: no argument is a floating-point number.

    Returns:
        `(key, *args) -> VarianceReport`: the variance of the gradient by every real array in
        `args`, the time and the operations that a gradient takes, and variance times time, with
        standard errors. Candidates whose difference these explain are not ranked. `ppgen.tune`
        looks for candidates itself.

    Example:
        >>> import jax, ppgen, numpyro.distributions as dist
        >>> def f(p):
        ...     return (ppgen.draw(dist.Bernoulli(p)) - 0.499) ** 2
        >>> candidates = [ppgen.ScoreFunction(), ppgen.Enumerate()]
        >>> report = ppgen.variance(f, candidates, progress=False)(jax.random.key(0), 0.3)
        >>> report.best.label
        'Enumerate()'
        >>> quickest = ppgen.with_estimators(f, report.best.choice)
    """
    if not isinstance(estimators, Mapping):
        estimators = {written(choice): choice for choice in estimators}

    @boundary
    def measure(key: Array, *args: Any) -> VarianceReport:
        key = first_key(key, args, name="ppgen.variance(f, estimators)")
        args = as_arrays(args)
        contenders: dict[str, Contender] = {}
        refused: dict[str, str] = {}
        with tqdm(total=len(estimators) * samples, unit=" gradients", disable=not progress) as bar:
            for i, (label, choice) in enumerate(estimators.items(), 1):
                bar.set_description_str(f"compiling {i} of {len(estimators)}, {label}")
                program = f if choice is None else with_estimators(f, choice)
                try:
                    lowered = lower(program, args, key, draws=draws, allow_biased=allow_biased)
                except PpgenError as error:
                    if isinstance(choice, Mapping) and error.site in choice:
                        if isinstance(error, SiteError):
                            raise  # A misspelt name is a mistake of the caller.
                    refused[label] = str(error)
                    continue
                contenders[label] = lowered.compile(key, clock)
            bar.total = len(contenders) * samples
            bar.set_description_str("measuring")
            keys = list(jax.random.split(key, samples))
            in_turns([(c, keys) for c in contenders.values()], repetitions, bar.update)
        return VarianceReport(
            tuple(
                Candidate(label, refused=refused[label], choice=choice)
                if label in refused
                else candidate(label, contenders[label], choice=choice)
                for label, choice in estimators.items()
            )
        )

    return measure
