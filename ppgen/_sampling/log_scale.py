"""Variables that are drawn by the log of their value, or by its logit, which do not underflow.

In single precision a Gamma variable of concentration .001 is zero nine times in ten, and a Beta
variable at an end of its interval: at that value the density is infinite, and the score is lost.
The log of the value is -1000 then, and has all digits. So it is drawn, densities are those of the
value as functions of it, and the value is what it rounds to.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportReturnType=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Delta, Distribution, constraints

from ppgen._derivatives import with_derivative_of
from ppgen._distributions import gamma_functions
from ppgen._distributions.gamma_families import floats, softplus
from ppgen._distributions.moving_ends import Split
from ppgen._distributions.wrappers import plain, split_event, stands_for_base, sum_last
from ppgen._sampling.log_gamma import log_gamma


class Scale(NamedTuple):
    """How a family is drawn on such a scale.

    Attributes:
        sample: `(d, key, shape)`, the coordinates of draws of batch shape `shape`.
        log_prob: `(d, y)`, the log density (in nats) of the value whose coordinates are `y`, with
            regard to the value.
        value: of coordinates.
    """

    sample: Callable[[Any, Array, tuple[int, ...]], Array]
    log_prob: Callable[[Any, Array], Array]
    value: Callable[[Array], Array]


def _rounded(y: Array) -> tuple[Array, Array, Array]:
    """The value whose log is `y`, its log, and whether that is of the value as it is rounded.

    Where the value has all its digits, so that its density is what it is of a value that is given.
    """
    x = jnp.exp(y)
    known = (x >= jnp.finfo(y.dtype).tiny) & jnp.isfinite(x)
    log_x = jnp.log(jnp.where(known, jax.lax.stop_gradient(x), 1.0))
    return x, with_derivative_of(y, jnp.where(known, log_x, y)), known


def _sample_gamma(d: Any, key: Array, shape: tuple[int, ...]) -> Array:
    y = log_gamma(key, d.concentration, shape)
    return y - jnp.log(jnp.asarray(d.rate, y.dtype))


def _gamma(d: Any, y: Array) -> Array:
    a, rate, y = floats(d.concentration, d.rate, y)
    x, log_x, _ = _rounded(y)
    return gamma_functions.gamma(a, rate, x, log_x)


def _sample_inverse_gamma(d: Any, key: Array, shape: tuple[int, ...]) -> Array:
    return -_sample_gamma(d, key, shape)


def _inverse_gamma(d: Any, y: Array) -> Array:
    a, rate, y = floats(d.concentration, d.rate, y)
    x, log_x, known = _rounded(y)
    inverse = jnp.where(known, 1 / jnp.where(known, x, 1.0), jnp.exp(-y))
    return gamma_functions.gamma(a, rate, inverse, -log_x) - 2 * log_x


def _sample_beta(d: Any, key: Array, shape: tuple[int, ...]) -> Array:
    pair = jnp.broadcast_arrays(*floats(d.concentration1, d.concentration0))
    y = log_gamma(key, jnp.stack(pair, axis=-1), (*shape, 2))
    return y[..., 0] - y[..., 1]


def _beta(d: Any, y: Array) -> Array:
    a, b, y = floats(d.concentration1, d.concentration0, y)
    x = jax.nn.sigmoid(y)
    # Closer to one, the value has lost digits of what is left.
    known = (x >= jnp.finfo(y.dtype).tiny) & (x < 0.9)
    inner = jnp.where(known, jax.lax.stop_gradient(x), 0.5)
    rest = jnp.where(known, 1 - x, jax.nn.sigmoid(-y))
    logs = (-softplus(-y), jnp.log(inner)), (-softplus(y), jnp.log1p(-inner))
    log_x, log_rest = (with_derivative_of(f, jnp.where(known, v, f)) for f, v in logs)
    return gamma_functions.beta(a, b, x, rest, log_x, log_rest)


def _sample_dirichlet(d: Any, key: Array, shape: tuple[int, ...]) -> Array:
    y = log_gamma(key, d.concentration, (*shape, *d.event_shape))
    return jax.nn.log_softmax(y, axis=-1)


def _dirichlet(d: Any, y: Array) -> Array:
    a, y = floats(d.concentration, y)
    x, log_x, _ = _rounded(y)
    return gamma_functions.dirichlet(a, x, log_x)


_LOG_GAMMA = Scale(_sample_gamma, _gamma, jnp.exp)
_LOGIT = Scale(_sample_beta, _beta, jax.nn.sigmoid)

SCALES: dict[type[Distribution], Scale] = {
    dist.Beta: _LOGIT,
    dist.BetaProportion: _LOGIT,
    dist.Chi2: _LOG_GAMMA,
    dist.Dirichlet: Scale(_sample_dirichlet, _dirichlet, jnp.exp),
    dist.Gamma: _LOG_GAMMA,
    dist.InverseGamma: Scale(_sample_inverse_gamma, _inverse_gamma, jnp.exp),
}
"""Families that are drawn so; a subclass may sample, or have a density, in a way of its own."""


def split_log_scale(d: Distribution) -> Split | None:
    """The coordinates of `d` as a choice, and the value that they round to.

    The density is all in the choice.

    Args:
        d: a distribution without event dimensions that were reinterpreted, and without masks.

    Returns:
        `None` where `d` is not of a family that is drawn so.
    """
    scale = SCALES.get(type(plain(d)))
    if scale is None:
        return None

    def finish(y: Array) -> Delta:
        none = jnp.zeros(jnp.shape(y)[: jnp.ndim(y) - d.event_dim], y.dtype)
        return Delta(scale.value(y), log_density=none, event_dim=d.event_dim)

    return OnLogScale(d, scale), finish


def log_prob_on_scale(dist: Distribution, y: Array) -> Array:
    """The log density (in nats) of `dist` at the value whose coordinates are `y`.

    Args:
        dist: of a family of `SCALES`, perhaps expanded and with event dimensions.
        y: the coordinates.
    """
    inner, reinterpreted = split_event(dist)
    on_scale = OnLogScale(inner, SCALES[type(plain(inner))])
    return sum_last(on_scale.log_prob(y), reinterpreted)


@final
class OnLogScale(Distribution):
    """The coordinates of `base`, with its density."""

    pytree_data_fields = ("base",)
    pytree_aux_fields = ("scale",)
    has_rsample = True  # pyright: ignore[reportAssignmentType]

    def __init__(self, base: Distribution, scale: Scale) -> None:
        """`base` is of one of the families of `SCALES`, perhaps expanded."""
        self.base = base
        self.scale = scale
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """All numbers, or vectors of a set that has no name."""
        return constraints.real_vector if self.event_dim else constraints.real

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Coordinates of draws, which follow the parameters."""
        return self.scale.sample(plain(self.base), key, (*sample_shape, *self.batch_shape))

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """Log density (in nats) of `base` at the value with these coordinates."""
        y = jnp.asarray(value)
        logp = self.scale.log_prob(plain(self.base), y)
        return jnp.broadcast_to(
            logp, jnp.broadcast_shapes(logp.shape, y.shape[: y.ndim - self.event_dim])
        )


@final
@stands_for_base
class Drawn(Distribution):
    """`base`, of one of the families of `SCALES`, with draws that are made on its scale."""

    pytree_data_fields = ("base",)
    pytree_aux_fields = ("scale",)

    def __init__(self, base: Distribution) -> None:
        self.base = base
        self.scale = SCALES[type(base)]
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        shape = (*sample_shape, *self.batch_shape)
        return self.scale.value(self.scale.sample(self.base, key, shape))

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        return self.base.log_prob(value)
