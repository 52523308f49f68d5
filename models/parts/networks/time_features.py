"""Features of a time, for networks that have to tell times apart at many resolutions."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def sinusoidal_features(
    time: Float[Array, ""], frequencies: int, *, fastest: float = 1000.0
) -> Float[Array, " 2*{frequencies}"]:
    """Sines and cosines of a time at geometrically spaced frequencies.

    Args:
        time: From 0 to 1.
        frequencies: How many.
        fastest: The fastest one, in radians; the slowest is 1.

    Returns:
        `frequencies` sines and as many cosines, in at least single precision.

    References:
        Vaswani et al. Attention is all you need. NeurIPS 2017.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(sinusoidal_features(jnp.array(0.0), 2))
        [0. 0. 1. 1.]
    """
    time = jnp.asarray(time, jnp.promote_types(jnp.result_type(time), jnp.float32))
    phases = time * jnp.geomspace(1.0, fastest, frequencies, dtype=time.dtype)
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)])
