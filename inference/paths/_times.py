"""Densities of time: where along a path to look."""

# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false
# pyright: reportAssignmentType=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints

_HALVINGS = {2: 14, 4: 28, 8: 56}  # by the bytes of a float


class Warped(Distribution):
    r"""The law of f(u, parameters), with u uniform on (0, 1) and f increasing.

    A density of time, from the function that draws it. The density is *exact* up to rounding: u is
    found by bisection, and 1 / f'(u) by `jax.jvp`. Three that are in use:

    - logit-normal: `Warped(lambda u, m, s: sigmoid(m + s * ndtri(u)), m, s)`;
    - mode, for -1 ≤ s ≤ 2/(π-2): `Warped(lambda u, s: u + s * (u - sin(pi * u / 2) ** 2), s)`;
    - cosine: `Warped(lambda u: 1 - 1 / (1 + tan(pi * u / 2)))`.

    Args:
        warp: an increasing function of a scalar in (0, 1), and of the parameters.
        parameters: scalars.

    References:
        Esser et al. Scaling rectified flow transformers for high-resolution image synthesis. 2024.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import Warped
        >>> law = Warped(lambda u, p: u**p, 2.0)  # Beta(1/2, 1)
        >>> print(f"{law.log_prob(0.16):.4f}")  # log 1.25
        0.2231
    """

    support: Any = constraints.real
    pytree_data_fields = ("parameters",)
    pytree_aux_fields = ("warp",)

    def __init__(self, warp: Callable[..., Any], *parameters: Any) -> None:
        self.warp = warp
        self.parameters = tuple(jnp.asarray(p, float) for p in parameters)
        super().__init__((), (), validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draws, of the sample shape."""
        return self.icdf(jax.random.uniform(key, sample_shape, minval=jnp.finfo(float).tiny))

    def icdf(self, q: Any) -> Float[Array, "..."]:
        """The quantiles: the function itself."""
        return jnp.vectorize(lambda u: self.warp(u, *self.parameters))(jnp.asarray(q, float))

    def cdf(self, value: Any) -> Float[Array, "..."]:
        """The u from which a value comes: by bisection, so without a derivative of its own."""
        value = jnp.asarray(value, float)

        def halve(_: Any, interval: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = interval
            middle = (low + high) / 2
            below = self.icdf(middle) < value
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        # Most of a float's digits; then a step of Newton's, for the others and the derivative.
        ends = (jnp.zeros_like(value), jnp.ones_like(value))
        held = jax.lax.stop_gradient
        low, high = jax.lax.fori_loop(0, _HALVINGS[value.dtype.itemsize], halve, ends)
        u = held((low + high) / 2)
        return u + (value - self.icdf(u)) / held(self._slope(u))

    def _slope(self, u: Array) -> Array:
        return jax.jvp(self.icdf, (u,), (jnp.ones_like(u),))[1]

    def log_prob(self, value: Any, intermediates: Any = None) -> Float[Array, "..."]:
        """Log densities, in nats."""
        return -jnp.log(self._slope(self.cdf(value)))
