"""Choosing gradient estimators from outside a program."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ppgen._settings import current, settings
from ppgen._user_lines import user_line
from ppgen.errors import EstimatorError, SiteError
from ppgen.estimators import AbstractEstimator


def with_estimators(
    program: Callable[..., Any],
    estimators: Mapping[str, AbstractEstimator | Literal["auto"]] | Literal["auto"],
) -> Callable[..., Any]:
    """The same program with other gradient estimators: the same expectation, another variance.

    Args:
        program: a program, or any function that draws (an objective, for example).
        estimators: estimators by site name. Names may be globs (`"z_*"`); the first that matches
            counts. They take precedence over `infer={"grad": ...}` and `draw(..., grad=...)`, and
            those of an inner `with_estimators` over those of an outer one. `"auto"` instead of an
            estimator, or of all of them, picks by rule: `Reparameterize` where it is sound,
            `Enumerate` where it is cheap, else for flips `DisARM` (`ScoreFunction` if
            `draws >= 4`), `MeasureValued` where it is cheap, else `ScoreFunction`, with a
            leave-one-out baseline where `draws > 1`.
            `ppgen.check` reports what was picked and why.

    Returns:
        A function of the same arguments.

    Raises:
        EstimatorError: a given value is not an estimator.
        SiteError: a name or glob that matches no site of the program.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def f(p):
        ...     return numpyro.sample("b", dist.Bernoulli(p)) * 1.0
        >>> exact = ppgen.with_estimators(f, {"b": ppgen.Enumerate()})
        >>> float(jax.grad(ppgen.expectation(exact), argnums=1)(jax.random.key(0), 0.3))
        1.0
    """
    if isinstance(estimators, str):
        estimators = {"*": estimators}
    for name, estimator in estimators.items():
        if estimator != "auto" and not isinstance(estimator, AbstractEstimator):
            raise EstimatorError(
                f"expected a gradient estimator, got {estimator!r}",
                site=name,
                instead='an instance, such as ppgen.Enumerate(), or "auto"',
            )

    where = user_line()
    # Collected over all runs: JAX caches traces, so a later run may not report a site again.
    seen: dict[str, None] = {}
    matched: set[str] = {"*"}

    def rule(name: str) -> AbstractEstimator | str | None:
        seen[name] = None
        fitting = [pattern for pattern in estimators if fnmatch.fnmatchcase(name, pattern)]
        matched.update(fitting)
        return estimators[fitting[0]] if fitting else None

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        with settings(estimators=(rule, *current().estimators)):
            out = program(*args, **kwargs)
        if seen and (missing := [pattern for pattern in estimators if pattern not in matched]):
            raise SiteError(
                f"an estimator is chosen for {missing[0]!r}, which matches no site that is drawn",
                site=missing[0],
                where=where,
                instead=f"one of {list(seen)}, or a glob that matches some of them",
            )
        return out

    return run
