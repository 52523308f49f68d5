"""Taking the word of a program's author that a jump does not matter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppgen._staging.primitives import assume_continuous_p


def assume_continuous(value: Any) -> Any:
    """`value`, whose jumps `ppgen.expectation` is not to look for: the override at the place.

    `ppgen.expectation` refuses an objective in which something that is random and that a derivative
    flows into meets a jump (a comparison, an index, a rounding), because the gradient would miss
    what the jump contributes. Some jumps contribute nothing: those that another part of the
    objective makes up for, or that happen with probability zero. Nobody checks that this is so:
    where it is not, the gradient is *biased*, silently.

    `Reparameterize(assume_smooth=True)` says the same of all that a choice reaches.

    Args:
        value: an array, or a pytree of arrays: what the jump gives, or what it is given.

    Returns:
        The same value, with the same derivative.

    Example:
        A sign that is multiplied with what changes it: the absolute value.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> def cost(loc):
        ...     x = ppgen.draw(dist.Normal(loc, 1.0), name="x")
        ...     return ppgen.assume_continuous(jnp.sign(x)) * x
        >>> gradient = jax.grad(ppgen.expectation(cost), argnums=1)(jax.random.key(0), 5.0)
        >>> float(gradient)
        1.0
    """
    return jax.tree.map(lambda x: assume_continuous_p.bind(jnp.asarray(x)), value)
