"""Log densities whose derivatives can be relied on.

The same numbers as NumPyro's ``log_prob``, with the right derivative where NumPyro's formula has a
kink that the density does not have: at logits of exactly zero (where networks start), and at the
ends of the range of a probability, a rate or a Beta variable (where ``float32`` rounds to); and
where NumPyro's own derivative rule is wrong (the bounds of ``DoublyTruncatedPowerLaw``), or JAX's
(the second derivative of ``betaln`` at equal arguments).

And with the digits that single precision has, where NumPyro subtracts large numbers from each other
or squares them: truncated normal distributions far out in a tail, what is made of gamma functions
(Gamma, Beta, Dirichlet, Student-t and all counts) at large parameters, Cauchy variables far out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.scipy.special import xlog1py, xlogy
from numpyro.distributions import Distribution

from ppgen._distributions import gamma_families, scalar_families, truncated
from ppgen._distributions.gamma_families import clamped, softplus
from ppgen._distributions.hidden_parameters import without_hidden_parameters
from ppgen._distributions.mixtures import mixture_log_prob
from ppgen._distributions.rebuild import rebuilt
from ppgen._distributions.supports import shown
from ppgen._distributions.wrappers import stands_for_base, unwrapped


def log_prob(d: Distribution, value: Any) -> Array:
    """Log density (in nats) of `value` under `d`, of shape `(*batch)`.

    Equal to `d.log_prob(value)`. A distribution built on others (masked, expanded, a mixture, a
    transform, zero-inflated) uses their corrected densities.

    Example:
        >>> import jax, numpyro.distributions as dist
        >>> float(jax.grad(lambda a: log_prob(dist.Bernoulli(logits=a), 1))(0.0))
        0.5
    """
    # NumPyro checks a NumPy value against its support in NumPy, which fails on traced bounds.
    value = _on_point_mass(d, jnp.asarray(value))
    return jnp.asarray(corrected(d).log_prob(value))


def masked_log_prob(d: Distribution, value: Any, mask: Any) -> Array:
    """`log_prob(d, value)` where `mask` shows it, zero elsewhere, whatever is hidden there.

    Neither a value nor a parameter that is hidden reaches the density, nor its derivative.
    """
    d, value = without_hidden_parameters(d, mask), shown(d, jnp.asarray(value), mask)
    log_density = log_prob(d, value)
    return jnp.where(mask, log_density, jnp.zeros((), log_density.dtype))


def _masked(d: Any, value: Array) -> Array:
    if d._mask is True:
        return log_prob(d.base_dist, value)
    return masked_log_prob(d.base_dist, value, d._mask)


def _on_point_mass(d: Distribution, value: Array) -> Array:
    """Move a value that equals a point mass up to rounding onto the point mass.

    The value is computed twice, when a choice is made and when it is scored, and compiled code need
    not give the same last bit.
    """
    inner = unwrapped(d, masks=False)
    if type(inner) is not dist.Delta or not jnp.issubdtype(value.dtype, jnp.inexact):
        return value
    point = lax.stop_gradient(jnp.asarray(inner.v, value.dtype))
    tolerance = jnp.sqrt(jnp.finfo(value.dtype).eps) * jnp.max(jnp.abs(point), initial=0.0)
    return jnp.where(jnp.abs(value - point) <= tolerance, point, value)


def corrected(d: Distribution) -> Distribution:
    """`d`, with the distributions in it replaced whose `log_prob` has a wrong derivative."""
    return rebuilt(d, _correct)


def _correct(x: Any) -> Any:
    # A subclass may have a density of its own: exact types, and those known to inherit it.
    rule = _RULES.get(type(x))
    if type(x) in truncated.TRUNCATED and type(x.base_dist) is dist.Normal:
        rule = truncated.truncated_normal_log_prob
    return x if rule is None else _Corrected(x, rule)


@final
@stands_for_base
class _Corrected(Distribution):
    """`base`, with another formula for its density."""

    pytree_data_fields = ("base",)
    pytree_aux_fields = ("rule",)

    def __init__(self, base: Distribution, rule: Callable[[Any, Array], Array]) -> None:
        self.base = base
        self.rule = rule
        # Arguments were validated when `base` was made, values are below.
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return jnp.asarray(self.base.sample(key, sample_shape))

    def sample_with_intermediates(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Any:
        return self.base.sample_with_intermediates(key, sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        log_density = self.rule(self.base, jnp.asarray(value))
        # What a mask shows was validated there.
        if self.base._validate_args and self.rule is not _masked:
            # As NumPyro does: a warning where it can, and a density of zero.
            valid = self.base._validate_sample(value)
            if self.rule is _bernoulli_logits:
                # Never NaN, so that a sum does, whose derivative needs no mask: images have many
                # Bernoulli pixels.
                return log_density + jnp.where(valid, 0.0, -jnp.inf)
            return jnp.where(valid, log_density, -jnp.inf)
        return log_density


def _bernoulli_logits(d: Any, value: Array) -> Array:
    # Without validation, NumPyro's formula is linear in a value between 0 and 1.
    if d._validate_args or not jnp.issubdtype(value.dtype, jnp.inexact):
        # Of a float: `1 - 2 * value` wraps around in the unsigned integers of images.
        value = value.astype(jnp.result_type(d.logits, 0.0))
        return -softplus((1 - 2 * value) * d.logits)
    finite = jnp.isfinite(d.logits)
    logits = jnp.where(finite, d.logits, 0.0)
    impossible = jnp.logical_xor(value, jnp.asarray(d.logits) > 0)
    return jnp.where(
        finite,
        value * logits - softplus(logits),
        jnp.where(impossible, -jnp.inf, 0.0),
    )


def _bernoulli_probs(d: Any, value: Array) -> Array:
    value, probs = jnp.asarray(value, jnp.result_type(float)), clamped(d.probs)
    return xlogy(value, probs) + xlog1py(1 - value, -probs)


def _geometric_probs(d: Any, value: Array) -> Array:
    # At `probs=1` NumPyro has -inf for the only possible value.
    probs = jnp.asarray(d.probs, jnp.result_type(float))
    failures = jnp.where(value == 0, 0.0, value * jnp.log1p(-jnp.where(value == 0, 0.0, probs)))
    return failures + jnp.log(probs)


def _power_law(d: Any, value: Array) -> Array:
    # NumPyro's own derivative rule has the wrong one by `low` and `high`, everywhere.
    exponent = d.alpha + 1
    bounded = jnp.asarray(d.low) > 0
    low, high = jnp.log(jnp.where(bounded, d.low, d.high / 2)), jnp.log(d.high)
    log_normalizer = _log_integral(*jnp.broadcast_arrays(jnp.asarray(exponent, float), low, high))
    from_zero = exponent * high - jnp.log(jnp.where(bounded, 1.0, exponent))
    return d.alpha * jnp.log(value) - jnp.where(bounded, log_normalizer, from_zero)


@jax.custom_jvp
def _log_integral(exponent: Array, low: Array, high: Array) -> Array:
    """The log of the integral of `exp(exponent * u)` over u from `low` to `high`."""
    middle = exponent * (high + low) / 2
    return jnp.log(high - low) + middle + _log_sinhc(exponent * (high - low) / 2)


@_log_integral.defjvp
def _log_integral_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # By the ends it is what the integrand is there: terms that cancel where that is little.
    exponent, low, high = primals
    d_exponent, d_low, d_high = tangents
    value, moved = jax.jvp(
        lambda e: jnp.log(high - low) + e * (high + low) / 2 + _log_sinhc(e * (high - low) / 2),
        (exponent,),
        (d_exponent,),
    )
    moved = moved + jnp.exp(exponent * high - value) * d_high
    return value, moved - jnp.exp(exponent * low - value) * d_low


def _log_sinhc(z: Array) -> Array:
    """`log(sinh(z) / z)`, smooth at zero."""
    small = jnp.abs(z) < 0.1
    series = z**2 / 6 - z**4 / 180 + z**6 / 2835
    big = jnp.abs(jnp.where(small, 1.0, z))
    return jnp.where(small, series, big + jnp.log(-jnp.expm1(-2 * big)) - jnp.log(2 * big))


def _mixture(d: Any, value: Array) -> Array:
    return mixture_log_prob(d, value, log_prob)


def _ordered_logistic(d: Any, value: Array) -> Array:
    # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)), of logistic functions s: in logs, nothing
    # underflows and no two numbers close to one are subtracted.
    below = jnp.asarray(d.cutpoints) - jnp.expand_dims(d.predictor, -1)
    gaps = jnp.log(-jnp.expm1(-jnp.diff(d.cutpoints, axis=-1)))
    first, last = below[..., :1], below[..., -1:]
    middle = jax.nn.log_sigmoid(below[..., 1:]) + jax.nn.log_sigmoid(-below[..., :-1]) + gaps
    ends = jax.nn.log_sigmoid(first), jax.nn.log_sigmoid(-last)
    log_probs = jnp.concatenate([ends[0], middle, ends[1]], axis=-1)
    value = jnp.expand_dims(value.astype(int), -1)
    value, log_probs = jnp.broadcast_arrays(value, log_probs)
    return jnp.take_along_axis(log_probs, value[..., :1], axis=-1)[..., 0]


_RULES: dict[type, Callable[[Any, Array], Array]] = {
    **gamma_families.RULES,
    **scalar_families.RULES,
    dist.BernoulliLogits: _bernoulli_logits,
    dist.BernoulliProbs: _bernoulli_probs,
    dist.DoublyTruncatedPowerLaw: _power_law,
    dist.GeometricProbs: _geometric_probs,
    dist.MaskedDistribution: _masked,
    dist.MixtureGeneral: _mixture,
    dist.MixtureSameFamily: _mixture,
    dist.OrderedLogistic: _ordered_logistic,
}
