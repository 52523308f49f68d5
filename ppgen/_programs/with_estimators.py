"""Choosing gradient estimators from outside of a program."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ppgen._settings import current, settings
from ppgen.errors import EstimatorError
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
            `ppgen.check` says what was picked and why.

    Returns:
        A function of the same arguments.

    Raises:
        EstimatorError: what is given is no estimator.

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

    def rule(name: str) -> AbstractEstimator | str | None:
        for pattern, estimator in estimators.items():
            if fnmatch.fnmatchcase(name, pattern):
                return estimator
        return None

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        with settings(estimators=(rule, *current().estimators)):
            return program(*args, **kwargs)

    return run
