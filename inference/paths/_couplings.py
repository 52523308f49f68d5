"""Couplings: joint laws of the two ends of a path."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ppgen import assume_continuous
from ppgen.inference.paths._errors import PathError


def optimal_pairs(x0: Float[Array, " n *event"], x1: Float[Array, " n *event"]) -> Int[Array, " n"]:
    r"""Pair the rows of `x0` with rows of `x1` so that the sum of squared distances is minimal.

    The *exact* optimum for these rows (scipy's assignment, on the host, O(n³)): the minibatch
    coupling of rectified flows, whose law approaches the optimal transport as n grows. In a bridge,
    `x1 = numpyro.sample("x1", dist.Delta(batch[pairs], event_dim=...))`.

    Args:
        x0: noise.
        x1: as many data.

    Returns:
        Indices of rows of `x1`, each exactly once.

    Raises:
        PathError: it is differentiated. As the pairs jump, there is no pathwise derivative.

    References:
        Tong et al. Improving and generalizing flow-based generative models with minibatch optimal
        transport. 2023. Pooladian et al. Multisample flow matching. ICML 2023.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import optimal_pairs
        >>> x0, x1 = jnp.array([[0.0], [5.0], [9.0]]), jnp.array([[8.0], [1.0], [4.0]])
        >>> optimal_pairs(x0, x1).tolist()
        [1, 2, 0]
    """

    def assign(a: Any, b: Any) -> np.ndarray:
        # Slow to import, and only needed here.
        from scipy.optimize import linear_sum_assignment

        a, b = (np.reshape(np.asarray(x, np.float64), (len(x), -1)) for x in (a, b))
        cost = np.sum(a**2, 1)[:, None] - 2 * a @ b.T + np.sum(b**2, 1)
        return linear_sum_assignment(cost)[1].astype(np.int32)

    out = jax.ShapeDtypeStruct((x0.shape[0],), jnp.int32)

    @jax.custom_jvp
    def pairs(x0: Array, x1: Array) -> Array:
        # The pairs have no derivative, which the rule below enforces.
        x0, x1 = jax.lax.stop_gradient((x0, x1))
        return jax.pure_callback(assign, out, x0, x1, vmap_method="sequential")

    @functools.partial(pairs.defjvp, symbolic_zeros=True)
    def _(primals: Any, tangents: Any) -> Any:
        if not all(type(t) is jax.custom_derivatives.SymbolicZero for t in tangents):
            raise PathError(
                "the pairs change discontinuously with what is differentiated here: the gradient "
                "would miss it",
                instead="jax.lax.stop_gradient of the ends, if that bias does not matter",
            )
        found = pairs(*primals)
        return found, np.zeros(found.shape, jax.dtypes.float0)

    # The rule above refuses every derivative that would miss a jump, and no others.
    return assume_continuous(pairs(x0, x1))
