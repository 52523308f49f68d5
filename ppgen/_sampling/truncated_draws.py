"""Draws that keep their digits: of truncated normal distributions, and of small concentrations."""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.normal_tails import log_ndtr
from ppgen._distributions.rebuild import rebuilt
from ppgen._distributions.truncated import TRUNCATED, bounds, standardized
from ppgen._sampling.log_scale import SCALES, Drawn
from ppgen._sampling.normal_quantiles import ndtri_of_logs


def with_tails(d: Distribution) -> Distribution:
    """`d`, with samplers that are accurate in the tails and have the derivatives that are needed.

    NumPyro's of truncated distributions are quantiles of a probability, which in single precision
    is one at 5.4 standard deviations and zero at -13: infinity is drawn there. For those of Gamma
    variables and what is made of them, see `log_scale`.
    """
    return rebuilt(d, _replace)


def _replace(x: Any) -> Any:
    if type(x) in SCALES:
        return Drawn(x)
    return _Truncated(x) if type(x) in TRUNCATED and type(x.base_dist) is dist.Normal else x


@final
class _Truncated(Distribution):
    """`base`, one of `TRUNCATED` whose base is a Normal, with another sampler."""

    pytree_data_fields = ("base",)

    def __init__(self, base: Any) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        d: Any = self.base
        loc, scale = d.base_dist.loc, d.base_dist.scale
        low, high = bounds(d)
        dtype = jnp.result_type(loc, scale, low, high, float)
        u = jax.random.uniform(
            key, (*sample_shape, *self.batch_shape), dtype, minval=jnp.finfo(dtype).tiny
        )
        a, b = (standardized(bound, loc, scale) for bound in (low, high))
        x = loc + scale * _between(u, a, b)
        # Rounding may put it on the other side of a bound.
        return x + jax.lax.stop_gradient(jnp.clip(x, low, high) - x)


def _between(u: Array, a: Array, b: Array) -> Array:
    """The quantile of `u` of a standard normal between `a` and `b`, either of them infinite."""
    # From the left of the mode, where the distribution function has all its digits.
    right = a + b > 0
    a, b = jnp.where(right, -b, a), jnp.where(right, -a, b)
    finite = jnp.isfinite(a)
    upper = log_ndtr(b)
    ratio = jnp.exp(log_ndtr(jnp.where(finite, a, b - 1)) - upper)
    ratio = jnp.where(finite, ratio, 0.0)
    log_p = upper + jnp.log(u + (1 - u) * ratio)
    below = jnp.minimum(log_p, -jnp.finfo(u.dtype).tiny)
    z = ndtri_of_logs(log_p, jnp.log(-jnp.expm1(below)))
    return jnp.where(right, -z, z)
