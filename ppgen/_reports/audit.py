"""An audit of a gradient: is it the slope of the objective's value?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from tqdm import tqdm

from ppgen._expectation import expectation
from ppgen._keys import first_key
from ppgen._programs.seed import seed
from ppgen._reports.audit_report import AuditReport
from ppgen._reports.audit_search import Search
from ppgen._reports.slopes import Slopes
from ppgen._tracebacks import boundary
from ppgen.errors import DerivativeError


def audit(
    f: Callable[..., Any],
    *,
    error: float = 1e-3,
    effect: float = 0.1,
    directions: int = 3,
    argnums: int | Sequence[int] | None = None,
    draws: int = 1,
    has_aux: bool = False,
    allow_biased: bool = False,
    estimator: Callable[..., Any] | None = None,
    seconds: float = 60.0,
    max_draws: int = 100_000,
    progress: bool = True,
) -> Callable[..., AuditReport]:
    """Audit an objective: is the gradient that ppgen estimates the slope of the objective's value?

    The mean derivative of `ppgen.expectation(f)` along random orthonormal directions is compared
    with central differences of *values*. These are runs of the program (`ppgen.seed(f)`): no
    estimator, no analysis and no derivative rule touches them, and a choice that the estimator
    enumerates is drawn. So an audit detects errors that no rule can: a jump inside of a `where`, a
    moving support, randomness that ppgen does not see, a `stop_gradient`, a wrong `custom_jvp`. The
    mean of the estimator's value is compared with that of the runs, too.

    *Error probability.* If gradient and slope are equal, the verdict is `"disagrees"` with
    probability `error` at most, over all rows together (Bonferroni), as far as the means of the
    draws are normally distributed after a correction for their skewness. *Power.* The verdict is
    `"agrees"` only if a difference of `effect` times the size of the gradient along a direction
    would have been found with probability 0.95; otherwise it is `"no power"`.

    Steps, and whether both ends of a difference get the same random numbers (which helps unless a
    jump is between them), are chosen by their variance in a pilot run, whose draws are not used
    again. The second-order error in the step is removed by halving it (Richardson extrapolation);
    the change by halving, possible rounding errors, and jumps too rare for the draws are allowed
    for in the comparison, and reduce the power.

    It cannot detect errors that involve arrays that `f` closes over; errors at other arguments; a
    difference that vanishes along all of the directions; a jump in the *value* further from the
    arguments than any draw comes. Objectives whose gradient is by design not that of their value
    (the page "Is it unbiased?" lists them) disagree.

    Args:
        f: an objective, as `ppgen.expectation` takes it.
        error: probability of a false alarm.
        effect: the difference to be detected along a direction, relative to the size of the
            gradient along a direction (root mean square).
        directions: how many directions; at most one for each number of the arguments.
        argnums: the arguments to differentiate with respect to; by default all floating-point
            numbers.
        draws: as `ppgen.expectation` takes it.
        has_aux: as `ppgen.expectation` takes it.
        allow_biased: as `ppgen.expectation` takes it; an audit then measures the bias.
        estimator: `(key, *args) -> scalar` to audit in place of `ppgen.expectation(f)`.
        seconds: no new draws after this time, compilation included.
        max_draws: no more draws than this.
        progress: show a progress bar.

    Returns:
        `(key, *args) -> AuditReport`.

    Raises:
        DerivativeError: no argument is a floating-point number.
        PpgenError: any error of `ppgen.expectation(f)`.

    References:
        Glasserman, *Monte Carlo Methods in Financial Engineering*, 2003, chapter 7 (finite
        differences with common random numbers). Hall, *On the Removal of Skewness by
        Transformation*, JRSS B 1992.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> def f(loc):
        ...     x = ppgen.draw(dist.Normal(loc, 1.0))
        ...     return jnp.where(x > 0, x + 1.0, x)  # jumps, which `expectation` cannot know
        >>> ppgen.audit(f, progress=False)(jax.random.key(0), 0.3).verdict
        'disagrees'
        >>> def f(loc):
        ...     x = ppgen.draw(dist.Normal(loc, 1.0), grad=ppgen.ScoreFunction())
        ...     return jnp.where(x > 0, x + 1.0, x)
        >>> ppgen.audit(f, progress=False)(jax.random.key(0), 0.3).verdict
        'agrees'
    """
    if not 0 < error < 1:
        raise ValueError(f"error is a probability between 0 and 1, got {error}")
    if not effect > 0:
        raise ValueError(f"effect must be positive, got {effect}")
    if directions < 1 or max_draws < 1:
        raise ValueError("directions and max_draws must be at least 1")
    g = expectation(f, draws=draws, has_aux=has_aux, allow_biased=allow_biased)
    run = seed(f)
    # Made once, so that compiled code is shared by audits.
    value = (lambda *args: run(*args)[0]) if has_aux else run
    audited = estimator or ((lambda *args: g(*args)[0]) if has_aux else g)
    chosen = (argnums,) if isinstance(argnums, int) else argnums

    @boundary
    def report(key: Array, *args: Any) -> AuditReport:
        began = time.perf_counter()
        key, along = jax.random.split(first_key(key, args, name="ppgen.audit(f)"))
        slopes = Slopes(audited, value, args, chosen, directions, along)
        if not slopes.size:
            raise DerivativeError(
                "no argument that is to be audited is a floating-point number",
                instead="audit(f)(key, params): arrays that f closes over are constants here",
            )
        with tqdm(total=max_draws, unit="draw", disable=not progress) as bar:
            return Search(slopes, error, effect, max_draws, began + seconds, bar)(key)

    return report
