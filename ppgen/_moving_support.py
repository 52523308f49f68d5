"""Distributions whose support moves with a parameter, where a score misses part of the derivative.

As a bound of the support moves, values come and go. The derivative of an expectation has a term for
that (Leibniz), which the derivative of a log density does not see.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution

from ppgen._distributions import flatten
from ppgen._surrogate import without_derivative


def with_fixed_support(d: Distribution) -> Distribution:
    """`d`, whose parameters that bound its support must not be differentiated.

    Raises:
        DerivativeError: when one of them is.
    """
    try:
        bounds = [x for x in jax.tree.leaves(d.support) if _is_real(x)]
    except NotImplementedError:  # a user's distribution that does not say
        return d
    leaves, structure = flatten(d)
    moving = {i for i, x in enumerate(leaves) if any(x is bound for bound in bounds)}
    if not moving:
        return d
    name = type(d).__name__

    def fixed(x: Any) -> Any:
        return without_derivative(
            x,
            f"the score of {name} was differentiated by a bound of its support: it misses what "
            "comes and goes there",
            "Reparameterize() at this site, or constant bounds",
        )

    return structure.build([fixed(x) if i in moving else x for i, x in enumerate(leaves)])


def _is_real(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
