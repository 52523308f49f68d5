"""The field of a finite set of data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.inference.paths._algebra import coefficients
from ppgen.inference.paths._structure import fixing


def empirical_denoiser(
    bridge: Program, data: Float[Array, " n *event"], *, args: tuple[Any, ...] = ()
) -> Callable[[Array, Any], Array]:
    r"""The expected data given a point of a path, for data uniform over these rows.

    .. math:: E[x_1 | x_t = x] = \sum_i w_i x_1^i, \qquad
              w_i \propto q\big((x - \alpha x_1^i) / \sigma\big),

    *exact*, for noise of any density q. It is what an unlimited regression would learn, and
    samplers with it repeat the data. `decode(..., given="x1")` turns it into a velocity. It takes
    O(n) time.

    Args:
        bridge: the path, as for `coefficients`; its `x0` independent of its `x1`.
        data: the rows.
        args: what to call the bridge with.

    Returns:
        A function of a point and a time.

    Raises:
        PathError: on a call, as for `coefficients`.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import empirical_denoiser
        >>> def bridge():
        ...     t = numpyro.sample("t", dist.Uniform())
        ...     x1 = numpyro.sample("x1", dist.Normal(0.0, 1.0))
        ...     x0 = numpyro.sample("x0", dist.StudentT(3.0))
        ...     return t * x1 + (1 - t) * x0
        >>> float(empirical_denoiser(bridge, jnp.array([-1.0, 1.0]))(jnp.array(0.0), 0.5))
        0.0
    """

    def denoise(x: Float[Array, "..."], t: Any) -> Float[Array, "..."]:
        at = coefficients(bridge)(t, x, *args)

        def log_kernel(row: Array) -> Array:
            sites = {"t": jnp.asarray(t, x.dtype), "x1": row, "x0": (x - at.alpha * row) / at.sigma}
            return jnp.sum(ppgen.simulate(fixing(bridge, sites))(*args).log_probs["x0"])

        weights = jax.nn.softmax(ppgen.seed(lambda: jax.vmap(log_kernel)(data))(jax.random.key(0)))
        return jnp.tensordot(weights, data, axes=1)

    return denoise
