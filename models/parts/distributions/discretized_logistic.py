"""The discretised logistic distribution over grey levels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike
from numpyro.distributions import constraints


class DiscretizedLogistic(dist.Distribution):
    """A logistic variable rounded to the nearest of the whole numbers 0, ..., `levels - 1`.

    P(k) = σ((k + ½ - loc) / scale) - σ((k - ½ - loc) / scale), where the lowest and the highest
    level take the tails as well, so that the probabilities sum to one.

    With b and a for the two arguments, σ(b) - σ(a) = σ(b) σ(-a) (1 - e^{a-b}), which loses no
    digits however far `loc` is from k; the log density is taken in this form.

    Args:
        loc: Location, in grey levels.
        scale: Scale of the logistic variable, positive, in grey levels.
        levels: Number of grey levels, a Python integer of at least 2.

    References:
        Salimans, Karpathy, Chen, Kingma. PixelCNN++. ICLR 2017.

    Examples:
        >>> import jax.numpy as jnp
        >>> d = DiscretizedLogistic(3.0, 2.0, levels=5)
        >>> print(f"{jnp.exp(d.log_prob(jnp.arange(5))).sum():.4f}")
        1.0000
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    pytree_data_fields = ("loc", "scale")
    pytree_aux_fields = ("levels",)

    def __init__(
        self, loc: Any, scale: Any, *, levels: int, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = jnp.broadcast_arrays(
            jnp.asarray(loc, dtype=float), jnp.asarray(scale, dtype=float)
        )
        self.levels = levels
        super().__init__(batch_shape=self.loc.shape, validate_args=validate_args)

    # NumPyro's annotations of this decorator do not allow the arguments that it documents.
    @constraints.dependent_property(is_discrete=True, event_dim=0)  # pyright: ignore[reportArgumentType]
    def support(self) -> constraints.Constraint:
        """The whole numbers 0, ..., `levels - 1`."""
        return constraints.integer_interval(0, self.levels - 1)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws levels, as floats."""
        noise = jax.random.logistic(key, sample_shape + self.batch_shape)
        return jnp.clip(jnp.round(self.loc + self.scale * noise), 0, self.levels - 1)

    def log_prob(self, value: ArrayLike) -> Array:
        """Log probability of `value`, in nats."""
        value = jnp.asarray(value)
        upper = (value + 0.5 - self.loc) / self.scale
        lower = (value - 0.5 - self.loc) / self.scale
        below = jax.nn.log_sigmoid(upper)
        above = jax.nn.log_sigmoid(-lower)
        between = below + above + jnp.log(-jnp.expm1(-1.0 / self.scale))
        return jnp.where(value < 0.5, below, jnp.where(value > self.levels - 1.5, above, between))

    @property
    def mean(self) -> Array:
        """Exact mean level, which is the sum over k >= 1 of P(level >= k)."""
        edges = jnp.arange(1, self.levels) - 0.5
        return jax.nn.sigmoid((self.loc[..., None] - edges) / self.scale[..., None]).sum(-1)
