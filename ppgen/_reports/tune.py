"""`tune`: the estimators of least variance times time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from jax import Array
from tqdm import tqdm

from ppgen._keys import first_key
from ppgen._reports import measure
from ppgen._reports.measure import as_arrays
from ppgen._reports.tune_arms import Arms
from ppgen._reports.tune_report import Tuned
from ppgen._reports.tune_search import Search
from ppgen._reports.tune_sites import survey
from ppgen._tracebacks import boundary
from ppgen.estimators import AbstractEstimator
from ppgen.estimators._configurations import every_configuration


def tune(
    f: Callable[..., Any],
    *,
    seconds: float = 60.0,
    draws: int | Sequence[int] = 1,
    also: Sequence[AbstractEstimator] = (),
    allow_biased: bool = False,
    progress: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Callable[..., Tuned]:
    """Look for the estimators of an objective that have the least variance times time.

    You can always average more gradients; so the product of variance and time is the time that a
    given accuracy takes. It is measured, on your arguments and your machine, for every estimator
    that fits a site, in each of its `configurations`.

    The search begins with the program's own estimators and with what `"auto"` picks. It then
    changes the estimators of one group of sites at a time (sites of one family, which the same
    estimators fit; later, if they are few, single sites), until no change is an improvement; a few
    combinations are all tried. In each step candidates run in turns, and after each round the worse
    half is dropped (successive halving), but for what noise does not tell from the best. The last
    fifth of the time is for those that may be the best. What noise does not tell apart is a tie, of
    which the simplest is chosen: that which changes the fewest sites.

    All estimators of an objective have the same mean gradient. A candidate whose mean is not that
    of the others is not chosen: it is wrong, or its runs have not yet met what is rare.

    Args:
        f: the objective, as `ppgen.expectation` takes it. Sites whose estimators an inner
            `with_estimators` chooses keep them.
        seconds: how long to search, compilation included. A compilation that has begun is ended.
        draws: as `ppgen.expectation` takes it; of several numbers the best is chosen, too.
        also: estimators to try besides those of ppgen.
        allow_biased: as `ppgen.expectation` takes it: try biased estimators too. The variance does
            not show a bias, and means are not compared then.
        progress: show a progress bar.
        clock: times a gradient. `time.process_time` counts the time of all threads of this process,
            and so hardly notices what else the machine is doing.

    Returns:
        `(key, *args) -> Tuned`. Its `estimators` are for `with_estimators`, its `draws` for
        `expectation`; printing it shows everything that was measured. With the same key, as many
        runs of a candidate have the same variance.

    Raises:
        DerivativeError: no argument is a floating-point number.
        PpgenError: the error of the objective as it is, if no choice of estimators mends it.

    References:
        Jamieson and Talwalkar, *Non-stochastic Best Arm Identification and Hyperparameter
        Optimization*, AISTATS 2016 (successive halving).

    Example:
        >>> import jax, ppgen, numpyro, numpyro.distributions as dist
        >>> def f(p):
        ...     b = numpyro.sample("b", dist.Bernoulli(p))
        ...     return (b - 0.499) ** 2
        >>> tuned = ppgen.tune(f, seconds=20.0, progress=False)(jax.random.key(0), 0.3)
        >>> tuned.best.variance
        0.0
        >>> g = ppgen.expectation(ppgen.with_estimators(f, tuned.estimators), draws=tuned.draws)
        >>> round(float(jax.grad(g, argnums=1)(jax.random.key(1), 0.3)), 4)
        0.002
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    numbers = (draws,) if isinstance(draws, int) else tuple(dict.fromkeys(draws))
    if not numbers or min(numbers) < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")

    @boundary
    def search(key: Array, *args: Any) -> Tuned:
        began = measure.clock()
        key = first_key(key, args, name="ppgen.tune(f)")
        args = as_arrays(args)
        tried = [e for e in (*every_configuration(), *also) if allow_biased or not e.biased]
        text = "{l_bar}{bar}| {n:.0f}/{total:.0f} s"
        with tqdm(total=seconds, disable=not progress, bar_format=text) as bar:
            said = ""

            def report(doing: str) -> None:
                nonlocal said
                bar.set_description_str(doing, refresh=False)
                bar.update(min(measure.clock() - began, seconds) - bar.n)
                if doing != said:
                    bar.refresh()  # At once: while it compiles, nothing else happens.
                said = doing

            report("looking for sites")
            sites = survey(f, args, tried)
            arms = Arms(f, args, key, tried, sites, numbers, allow_biased, clock)
            course = Search(arms, seconds, began, report)
            best = course()
        return Tuned(
            arms.mapping(best.choice),
            best.draws,
            best.label,
            course.rows,
            measure.clock() - began,
            len(course.left_out),
        )

    return search
