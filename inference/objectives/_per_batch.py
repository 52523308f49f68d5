"""`per_batch`: objectives of one datum as objectives of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppgen.claims import claims


@claims(
    "unbiased",
    "the mean over a batch of what the objective of one datum is",
    gradient="unbiased",
    but="an objective that is a bound of something stays one, of its mean",
)
def per_batch(
    objective: Callable[..., Float[Array, ""]],
) -> Callable[..., Float[Array, ""]]:
    """Turn an objective of one datum into its mean over a batch, in the same unit.

    Each datum has its own random choices. The value and its gradients are *unbiased* where those of
    the objective are, and *a bound* for each datum becomes a bound on their mean. A bound of
    several particles is then a bound on every datum, which is tighter than one bound on the whole
    batch.

    Args:
        objective: `(params, *datum) -> scalar`, such as `elbo(model, guide)`; or that returns
            `(scalar, metrics)`, for `fit(has_aux=True)`: each metric is averaged too.

    Returns:
        `(params, *batch) -> scalar`, for `ppgen.inference.fit`: each argument but the first is an
        array, or a pytree of them, with a leading axis of the data.

    Raises:
        ValueError: a batch has no rows, whose mean is not a number.

    Example:
        >>> import jax, jax.numpy as jnp, ppgen
        >>> from ppgen.inference import per_batch
        >>> squared = per_batch(lambda mean, x: (x - mean) ** 2)
        >>> float(squared(1.0, jnp.array([1.0, 3.0])))
        2.0
    """

    def mean(params: Any, *batch: Any) -> Any:
        if any(jnp.shape(x)[:1] == (0,) for x in jax.tree.leaves(batch)):
            raise ValueError("the batch has no rows, so there is no mean over them")
        axes = (None, *(0 for _ in batch))
        each = jax.vmap(objective, in_axes=axes)(params, *batch)
        return jax.tree.map(lambda x: jnp.mean(x, 0), each)

    mean.__wrapped__ = objective  # so that what is claimed of it can be followed
    return mean
