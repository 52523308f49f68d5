"""Hypothesis strategies for distributions and for the estimators that are sound for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from hypothesis import strategies as st
from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.rebuild import flatten
from ppgen.errors import DerivativeError
from ppgen.estimators import (
    ARM,
    REBAR,
    RELAX,
    AbstractEstimator,
    Antithetic,
    DisARM,
    Enumerate,
    MeasureValued,
    MovingAverage,
    QuasiMonteCarlo,
    Reparameterize,
    ScoreFunction,
    UnorderedSet,
)
from ppgen.testing._families import DISTRIBUTIONS

Strategy = st.SearchStrategy

# Moderate numbers, in steps: neighbours of zero would test float arithmetic, not the estimators.
_NUMBERS: Mapping[str, Strategy[float]] = {
    "real": st.integers(-15, 15).map(lambda i: i / 10),
    "positive": st.integers(4, 20).map(lambda i: i / 10),
    "large": st.integers(20, 40).map(lambda i: i / 10),
    "unit": st.integers(2, 8).map(lambda i: i / 10),
}
_VECTORS = {"simplex": "positive", "logits": "real", "positives": "positive", "reals": "real"}

ESTIMATORS: dict[str, AbstractEstimator] = {
    "Reparameterize": Reparameterize(),
    "Antithetic": Antithetic(),  # pyright: ignore[reportCallIssue]
    "QuasiMonteCarlo": QuasiMonteCarlo(),  # pyright: ignore[reportCallIssue]
    "ScoreFunction": ScoreFunction(),
    "ScoreFunction, constant baseline": ScoreFunction(baseline=0.7),
    "ScoreFunction, moving average": ScoreFunction(
        baseline=MovingAverage(decay=0.5).update(0.3).update(1.1)
    ),
    "Enumerate": Enumerate(),
    "MeasureValued": MeasureValued(),
    "MeasureValued, pruned": MeasureValued(prune=True),
    "DisARM": DisARM(),
    "ARM": ARM(),
    "REBAR": REBAR(),
    "RELAX": RELAX(lambda x: jnp.sum(jnp.sin(x))),
    "UnorderedSet": UnorderedSet(2),
}
"""Unbiased estimators by name, in every configuration with separate code."""


@st.composite
def distributions(
    draw: Any,
    families: Sequence[str] | None = None,
    *,
    batch_shapes: Sequence[tuple[int, ...]] = ((), (2,)),
) -> Distribution:
    """A NumPyro distribution with random valid parameters, discrete or continuous.

    Args:
        draw: given by Hypothesis.
        families: names of `ppgen.testing.DISTRIBUTIONS`; by default all.
        batch_shapes: batch shapes to choose from.

    Returns:
        A strategy for distributions.
    """
    name = draw(st.sampled_from(sorted(DISTRIBUTIONS) if families is None else list(families)))
    make, parameters = DISTRIBUTIONS[name]
    batch = draw(st.sampled_from(list(batch_shapes)))
    length = draw(st.integers(2, 3)) if name != "MultivariateNormal" else 2
    values = {}
    for parameter, kind in parameters.items():
        shape = (*batch, length) if kind in _VECTORS else batch
        size = math.prod(shape)
        number = _NUMBERS[_VECTORS.get(kind, kind)]
        value = jnp.array(draw(st.lists(number, min_size=size, max_size=size)), float)
        value = value.reshape(shape)
        values[parameter] = value / value.sum(-1, keepdims=True) if kind == "simplex" else value
    return make(**values)


def sound_estimators(d: Distribution) -> dict[str, AbstractEstimator]:
    """All estimators of `ppgen.testing.ESTIMATORS` that are unbiased for `d`, by name.

    They have to be so in all its parameters: `MeasureValued()` for Gamma, which refuses the
    concentration, is not included.
    """
    return {
        name: e
        for name, e in ESTIMATORS.items()
        if not e.biased and e.misfit(d) is None and _has_derivative(e, d)
    }


def _has_derivative(estimator: AbstractEstimator, d: Distribution) -> bool:
    leaves, structure = flatten(d)
    moving = [i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]

    def points(parameters: list[Array]) -> list[Array]:
        new = dict(zip(moving, parameters, strict=True))
        built = structure.build([new.get(i, x) for i, x in enumerate(leaves)])
        return jax.tree.leaves(estimator(jax.random.key(0), built))

    if not moving:  # numbers, by which nobody differentiates
        return True
    try:
        jax.eval_shape(jax.jacfwd(points), [jnp.asarray(leaves[i]) for i in moving])
    except DerivativeError:
        return False
    return True


def estimators(d: Distribution) -> Strategy[AbstractEstimator]:
    """Any estimator of `ppgen.testing.ESTIMATORS` that is unbiased for `d`.

    Example:
        >>> import numpyro.distributions as dist
        >>> from hypothesis import given
        >>> from ppgen.testing import estimators
        >>> @given(estimators(dist.Poisson(3.0)))
        ... def test_it(estimator): ...
    """
    return st.sampled_from(list(sound_estimators(d).values()))
