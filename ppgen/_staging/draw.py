"""`draw`: a random choice directly in an objective."""

from __future__ import annotations

import os
from typing import Any

from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.wrappers import in_single_precision, split_event, split_mask
from ppgen._staging.choice import estimator_for
from ppgen._staging.choose import choose
from ppgen._user_lines import user_line
from ppgen.errors import SiteError
from ppgen.estimators._base import AbstractEstimator


def draw(dist: Any, *, name: str | None = None, grad: AbstractEstimator | None = None) -> Array:
    """Draw a random choice directly in an objective.

    It is not a site: it enters no density and no `Trace`, only the expectation.

    Args:
        dist: a NumPyro distribution, or a Distrax one. Shapes as `dist.sample` gives them.
        name: its name in reports, errors and `with_estimators`; by default its file and line.
        grad: its gradient estimator; by default `Reparameterize()` where the distribution has a
            pathwise derivative, else `ScoreFunction()`.

    Returns:
        The value, of shape `dist.batch_shape + dist.event_shape`.

    Raises:
        EstimatorError: the estimator does not fit the distribution.

    Example:
        >>> import jax, ppgen, numpyro.distributions as dist
        >>> def f(p):
        ...     b = ppgen.draw(dist.Bernoulli(p), grad=ppgen.Enumerate())
        ...     return (b - 0.499) ** 2
        >>> g = jax.grad(ppgen.expectation(f), argnums=1)
        >>> round(float(g(jax.random.key(0), 0.3)), 4)
        0.002
    """
    where = user_line()
    if not isinstance(dist, Distribution):
        from ppgen.distrax import from_distrax

        dist = from_distrax(dist)
    name = f"draw at {os.path.basename(where)}" if name is None else name
    dist, mask = split_mask(in_single_precision(dist))
    if mask is not None:
        raise SiteError(
            "a masked distribution has no meaning outside of a program: the mask would be ignored",
            site=name,
            where=where,
            instead="draw(dist) from the unmasked distribution",
        )
    estimator = estimator_for(split_event(dist)[0], grad, name=name, where=where)
    return choose(dist, estimator, name=name, where=where)
