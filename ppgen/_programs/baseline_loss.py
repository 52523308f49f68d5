"""`baseline_loss`, the loss that trains the baselines of score-function choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen._evaluation.surrogate import surrogates
from ppgen._expectation import Prepared, prepare
from ppgen._keys import first_key
from ppgen._tracebacks import boundary
from ppgen.errors import EstimatorError


def baseline_loss(f: Callable[..., Any], *, draws: int = 1, has_aux: bool = False) -> Callable:
    """The squared error of the baselines of an objective, to be minimised beside it.

    For every score-function choice with a baseline that is an array (a network's output, say), the
    squares of the differences between the baseline and the costs that the choice influences, summed
    over the elements of its batch. Its minimum over all functions of a baseline's inputs is the
    expected cost given them, which is close to the best baseline.

    The two gradients are kept apart: that of `ppgen.expectation(f)` by a baseline's parameters is
    zero, because no baseline moves an expectation, and this function is to be differentiated by
    those parameters alone. Given the same key it repeats the run of `expectation`, so under one
    `jax.jit` the two share their computation.

    Args:
        f: the objective, as `ppgen.expectation` takes it.
        draws: as `ppgen.expectation` takes it; the loss is the mean over the draws.
        has_aux: as `ppgen.expectation` takes it.

    Returns:
        `(key, *args, **kwargs) -> scalar`, a plain JAX function.

    Raises:
        EstimatorError: no choice has such a baseline, or one in a branch, or one whose
            distribution depends on a choice that stands for several points.

    References:
        Mnih and Gregor, *Neural Variational Inference and Learning in Belief Networks*, ICML 2014.

    Example:
        >>> import jax, ppgen, numpyro.distributions as dist
        >>> def f(logits, baseline):
        ...     flip = dist.Bernoulli(logits=logits)
        ...     return 5.0 + ppgen.draw(flip, grad=ppgen.ScoreFunction(baseline=baseline))
        >>> loss = ppgen.baseline_loss(f, draws=1000)
        >>> slope = jax.grad(loss, argnums=2)(jax.random.key(0), 0.0, 5.5)
        >>> bool(abs(slope) < 0.1)
        True
    """

    @boundary
    def loss(key: Array, *args: Any, **kwargs: Any) -> Array:
        key = first_key(key, args, kwargs, name="loss")
        with _jax.varying_like(key):
            prepared = prepare(lambda: f(*args, **kwargs), has_aux=has_aux, draws=draws)
        if draws == 1:
            return _loss(prepared, key)
        return jnp.mean(jax.vmap(lambda key: _loss(prepared, key))(jax.random.split(key, draws)))

    return loss


def _loss(prepared: Prepared, key: Array) -> Array:
    run = prepared.evaluate(key, None)
    wanted: dict[int, Any] = {i: m for i, m in run.made.items() if m.baseline is not None}
    choices = prepared.analysis.choices
    plain = [i for i, m in wanted.items() if not m.score.leading and not choices[i].together]
    if len(plain) < len(wanted) or not wanted:
        specs = [s for i in (wanted or range(len(choices))) for s in choices[i].specs]
        raise EstimatorError(
            "its baseline cannot be trained here: the choice is made in a branch, or depends on a "
            "choice that stands for several points"
            if wanted
            else "no choice has a baseline that could be trained",
            site=specs[0].name if specs else None,
            where=specs[0].where if specs else None,
            instead="ScoreFunction(baseline=...) with an array that depends on parameters, at a "
            "choice outside of branches",
        )
    made = dict(run.made)

    def total(shifts: dict[int, Array]) -> Array:
        for i, shift in shifts.items():
            score: Any = made[i].score
            run.made[i] = made[i]._replace(
                score=score._replace(array=score.array + shift), control=None
            )
        return surrogates(prepared.jaxpr, prepared.analysis, prepared.terms, run, None)[0]

    # The derivative with respect to a score is its factor: the costs that the choice influences.
    costs = jax.grad(total)({i: jnp.zeros_like(m.score.array) for i, m in wanted.items()})
    errors = [
        jnp.sum((jax.lax.stop_gradient(costs[i]) - m.baseline.array) ** 2)
        for i, m in wanted.items()
    ]
    return sum(errors[1:], errors[0])
