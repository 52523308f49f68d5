"""The distribution function of the von Mises distribution, which NumPyro lacks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import i0e
from jax.typing import ArrayLike

_NODES, _WEIGHTS = (a.astype(np.float64) for a in np.polynomial.legendre.leggauss(40))
# Beyond this many standard deviations from the mode the density is below exp(-40) of its maximum.
_REACH = 14.0


def von_mises_log_prob(angle: ArrayLike, concentration: ArrayLike) -> Array:
    """Log density (in nats) at `angle` (in radians) from the mode."""
    # Not cos(angle) - 1, which rounds where the concentration is large.
    peak = -jnp.log(2 * math.pi * i0e(concentration))
    return peak - 2 * concentration * jnp.sin(jnp.divide(angle, 2)) ** 2


def von_mises_cdf(angle: ArrayLike, concentration: ArrayLike) -> Array:
    """The mass between the mode and `angle` (in radians), which increases by 1 with every turn.

    By Gauss-Legendre quadrature of the density from the mode, so that JAX's derivatives in the
    angle and the concentration, of any order, are those of the quadrature and just as accurate:
    within 1e-12 in double precision for concentrations up to 1e4.

    References:
        Hill, *Algorithm 518: Incomplete Bessel Function I0. The von Mises Distribution*, ACM
        Transactions on Mathematical Software 3, 1977 (a series and a normal approximation, where
        the derivative with respect to the concentration needs its own rule).
    """
    angle = jnp.asarray(angle)
    turns = jax.lax.stop_gradient(jnp.round(angle / (2 * math.pi)))
    angle = angle - 2 * math.pi * turns
    # Where the density vanishes there is nothing to add, and the nodes stay where there is.
    reach = jax.lax.stop_gradient(_REACH / jnp.sqrt(jnp.maximum(concentration, 1.0)))
    angle = jnp.clip(angle, -reach, reach)
    nodes, weights = (jnp.asarray(a, angle.dtype) for a in ((_NODES + 1) / 2, _WEIGHTS / 2))
    inner = jnp.expand_dims(angle, -1) * nodes
    density = jnp.exp(von_mises_log_prob(inner, jnp.expand_dims(concentration, -1)))
    return turns + angle * jnp.sum(density * weights, axis=-1)
