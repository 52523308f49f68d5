"""`assume_continuous`: an override for discontinuities that do not matter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppgen._staging.primitives import assume_continuous_p


def assume_continuous(value: Any) -> Any:
    """Exempt a value from the check for discontinuities of `ppgen.expectation`.

    `ppgen.expectation` refuses an objective in which a random value with a derivative reaches a
    discontinuous operation (a comparison, an index, a rounding), because the gradient would miss
    the contribution of its jumps. Some jumps contribute nothing: those that another part of the
    objective compensates, or that happen with probability zero. This is not checked: if it does not
    hold, the gradient is silently *biased*.

    `Reparameterize(assume_smooth=True)` does the same for everything that a choice reaches.

    Args:
        value: an array, or a pytree of arrays: the result of the discontinuous operation, or its
            operand.

    Returns:
        The same value, with the same derivative.

    Example:
        The product of a number and its sign is continuous: the absolute value.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> def cost(loc):
        ...     x = ppgen.draw(dist.Normal(loc, 1.0), name="x")
        ...     return ppgen.assume_continuous(jnp.sign(x)) * x
        >>> gradient = jax.grad(ppgen.expectation(cost), argnums=1)(jax.random.key(0), 5.0)
        >>> float(gradient)
        1.0
    """
    return jax.tree.map(lambda x: assume_continuous_p.bind(jnp.asarray(x)), value)
