"""Fourier features, with which a network of coordinates can vary quickly."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def fourier_features(
    x: Float[Array, " d"], frequencies: int, *, period: float = 4.0
) -> Float[Array, " features"]:
    """A point, and the sines and cosines of its coordinates at whole multiples of a frequency.

    Args:
        x: A point.
        frequencies: How many multiples, 1, 2, ...; none leaves the point as it is.
        period: The period of the lowest frequency. Twice the width of the domain, here that of [−1,
            1], lets the features differ at its two ends.

    Returns:
        The coordinates, then all sines, then all cosines.

    References:
        Tancik, Srinivasan, Mildenhall, Fridovich-Keil, Raghavan, Singhal, Ramamoorthi, Barron, Ng.
        Fourier features let networks learn high frequency functions in low dimensional domains.
        NeurIPS 2020.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ppgen.models.parts.networks import fourier_features
        >>> [f"{f:.2f}" for f in fourier_features(jnp.array([1.0]), 1)]
        ['1.00', '1.00', '-0.00']
    """
    angles = jnp.ravel(2 * jnp.pi / period * x[:, None] * jnp.arange(1, frequencies + 1))
    return jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)])
