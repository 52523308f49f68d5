"""Weak derivatives of distributions: differences of two others, as weighted points.

References:
    Pflug, *Optimization of Stochastic Models*, 1996, chapter 4.
    Heidergott, Vázquez-Abad and Volk-Makarewicz, *Sensitivity Estimation for Gaussian Systems*,
    European Journal of Operational Research 187, 2008.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from ppgen._derivatives import attach, freeze_once, without_derivative
from ppgen._distributions.rebuild import rebuilt
from ppgen._distributions.wrappers import plain
from ppgen.estimators._base import Points

Decomposition = Callable[[Array, Distribution, Any], Points]
"""`(key, d, base) -> points`: `base` has the parameters, `d` their batch shape."""


def decomposition(d: Distribution) -> Decomposition | None:
    """The decomposition of the derivative of `d`; `None` where none is known.

    Exact types: a subclass may have a density of its own.
    """
    base = plain(d)
    if type(base) in (dist.TransformedDistribution, dist.LogNormal):
        known = decomposition(base.base_dist) is not None and base.event_dim == 0
        return _transformed if known else None
    return DECOMPOSITIONS.get(type(base))


# Below, `[P]` is a probability measure, `E` an independent standard exponential variable, and each
# line `d/dtheta [P] = c ([P+] - [P-])` is to be checked on the density. Point 0 is the sample.


def _bernoulli(key: Array, d: Distribution, base: Any) -> Points:
    # d/dp [Bernoulli(p)] = [1] - [0].
    x = d.sample(key)
    a = attach(_floating(base.probs, d.batch_shape))
    sign = (2 * x - 1).astype(a.dtype)
    return Points(jnp.stack([x, 1 - x]), weight=jnp.stack([1 + sign * a, -sign * a]))


def _binomial(key: Array, d: Distribution, base: Any) -> Points:
    # The count of n flips: d/dp [Binomial(n, p)] = n ([1 + Y] - [0 + Y]), Y ~ Binomial(n - 1, p).
    # So the sample is Y and one more flip, and the other point has that flip reversed.
    p = _floating(base.probs, d.batch_shape)
    n = jnp.broadcast_to(base.total_count, d.batch_shape)
    keys = jax.random.split(key)
    rest = dist.BinomialProbs(lax.stop_gradient(p), jnp.maximum(n, 1) - 1, validate_args=False)
    y = rest.sample(keys[0])
    flip = jax.random.bernoulli(keys[1], lax.stop_gradient(p))
    a = attach(p) * n.astype(p.dtype)
    sign = jnp.where(flip, 1, -1).astype(p.dtype)
    points = [jnp.where(n > 0, y + b, 0).astype(_dtype(d)) for b in (flip, ~flip)]
    return Points(jnp.stack(points), weight=jnp.stack([1 + sign * a, -sign * a]))


def _categorical(key: Array, d: Distribution, base: Any) -> Points:
    # d/dp_k [Categorical(p)] = [k].
    probs = base.probs
    k = jnp.shape(probs)[-1]
    x = d.sample(key)
    shift = jnp.arange(k, dtype=x.dtype).reshape((k,) + (1,) * x.ndim)
    value = (x + shift) % k
    p = jnp.moveaxis(_floating(probs, (*d.batch_shape, k)), -1, 0)
    a = attach(p)
    if isinstance(base, dist.CategoricalLogits):
        # A probability of zero has a derivative of zero then, which an infinite cost would hide.
        a = jnp.where(p > 0, a, 0)
    weight = jnp.take_along_axis(a, value, axis=0)
    return Points(value, weight=weight.at[0].add(1))


def _geometric(key: Array, d: Distribution, base: Any) -> Points:
    # d/dp p (1-p)^x = 1/p (p (1-p)^x - x p^2 (1-p)^(x-1)): [X] - [X + X' + 1] with another
    # Geometric X'.
    keys = jax.random.split(key)
    x, more = (lax.stop_gradient(d.sample(k)) for k in keys)
    if isinstance(base, dist.GeometricLogits):
        # d log p, which does not divide by a p that underflows.
        a = attach(-jax.nn.softplus(-_floating(base.logits, d.batch_shape)))
    else:
        p = _floating(base.probs, d.batch_shape)
        a = attach(p, 1 / p)
    return Points(jnp.stack([x, x + more + 1]), weight=jnp.stack([1 + a, -a]))


def _poisson(key: Array, d: Distribution, base: Any) -> Points:
    # d/dr [Poisson(r)] = [X + 1] - [X].
    x = d.sample(key)
    a = attach(_floating(base.rate, d.batch_shape))
    return Points(jnp.stack([x, x + 1]), weight=jnp.stack([1 - a, a]))


def _exponential(key: Array, d: Distribution, base: Any) -> Points:
    # d/dr r exp(-r x) = 1/r (r exp(-r x) - x r^2 exp(-r x)): [E / r] - [(E + E') / r].
    rate = jnp.broadcast_to(jnp.asarray(base.rate, _dtype(d)), d.batch_shape)
    e = jax.random.exponential(key, (2, *d.batch_shape), rate.dtype)
    value = freeze_once(jnp.cumsum(e, axis=0) / rate)
    a = attach(rate, 1 / rate)
    return Points(value, weight=jnp.stack([1 + a, -a]))


def _gamma(key: Array, d: Distribution, base: Any) -> Points:
    # d/dr [Gamma(c, r)] = c/r ([Gamma(c, r)] - [Gamma(c + 1, r)]), since x Gamma(x; c, r) is
    # c/r Gamma(x; c + 1, r), the law of X + E / r.
    c = _without_derivative(base.concentration, d)
    rate = jnp.broadcast_to(jnp.asarray(base.rate, c.dtype), d.batch_shape)
    keys = jax.random.split(key)
    x = jax.random.gamma(keys[0], c, dtype=c.dtype)
    more = x + jax.random.exponential(keys[1], d.batch_shape, c.dtype)
    a = attach(rate, c / rate)
    return Points(freeze_once(jnp.stack([x, more]) / rate), weight=jnp.stack([1 + a, -a]))


def _weibull(key: Array, d: Distribution, base: Any) -> Points:
    # X^c is exponential with the rate r = s^-c, so that dr / r = -c/s ds in the line of
    # `_exponential`: d/ds [s E^(1/c)] = c/s ([s (E + E')^(1/c)] - [s E^(1/c)]).
    c = _without_derivative(base.concentration, d)
    scale = jnp.broadcast_to(jnp.asarray(base.scale, c.dtype), d.batch_shape)
    e = jnp.cumsum(jax.random.exponential(key, (2, *d.batch_shape), c.dtype), axis=0)
    a = attach(scale, c / scale)
    return Points(freeze_once(scale * e ** (1 / c)), weight=jnp.stack([1 - a, a]))


def _normal(key: Array, d: Distribution, base: Any) -> Points:
    # With R Rayleigh and M a double-sided Maxwell variable, N standard normal:
    # d/dm [m + s N] = 1/(s sqrt(2 pi)) ([m + s R] - [m - s R]);
    # d/ds [m + s N] = 1/s ([m + s M] - [m + s N]).
    # NumPyro samples in the default precision, and every estimator has to return the same type.
    dtype, shape = _dtype(d), d.batch_shape
    loc, scale = (jnp.broadcast_to(jnp.asarray(p, dtype), shape) for p in (base.loc, base.scale))
    keys = jax.random.split(key, 3)
    three = jax.random.normal(keys[0], (3, *shape), dtype)
    rayleigh = jnp.sqrt(jnp.sum(three[:2] ** 2, axis=0))
    # M, shrunk by a uniform variable, is standard normal: the sample and its partner in the scale
    # derivative lie on the same side and move together.
    sign = jax.random.rademacher(keys[1], shape, dtype)
    maxwell = sign * jnp.sqrt(jnp.sum(three**2, axis=0))
    noise = jnp.stack(
        [maxwell * jax.random.uniform(keys[2], shape, dtype), rayleigh, -rayleigh, maxwell]
    )
    m = attach(loc, 1 / (scale * math.sqrt(2 * math.pi)))
    s = attach(scale, 1 / scale)
    return Points(freeze_once(loc + scale * noise), weight=jnp.stack([1 - s, m, -m, s]))


def _transformed(key: Array, d: Distribution, base: Any) -> Points:
    # What a function does to a measure it does to a difference of measures, if it is the same one.
    inner = base.base_dist.expand(d.batch_shape)
    rule: Any = decomposition(inner)
    points = rule(key, inner, plain(inner))
    value = points.value
    for transform in _constant(base.transforms):
        value = transform(value)
    return Points(value, weight=points.weight)


def _constant(transforms: Sequence[Any]) -> Sequence[Any]:
    def constant(x: Any) -> Any:
        if not isinstance(x, jax.Array):
            return x
        return without_derivative(
            x,
            "MeasureValued() has no derivative with respect to the parameters of a transform",
            "Reparameterize() or ScoreFunction() at the site, or jax.lax.stop_gradient around them",
        )

    return rebuilt(transforms, constant)


def _without_derivative(concentration: ArrayLike, d: Distribution) -> Array:
    """The concentration, in the shape and type of a sample."""
    constant = without_derivative(
        jnp.asarray(concentration),
        f"MeasureValued() has no derivative with respect to the concentration of "
        f"{type(plain(d)).__name__}",
        "Reparameterize() or ScoreFunction() at the site, or jax.lax.stop_gradient around the "
        "concentration",
    )
    return jnp.broadcast_to(constant.astype(_dtype(d)), d.batch_shape)


def _dtype(d: Distribution) -> Any:
    return jax.eval_shape(d.sample, jax.random.key(0)).dtype


def _floating(parameter: ArrayLike, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(jnp.asarray(parameter, jnp.result_type(parameter, 0.0)), shape)


DECOMPOSITIONS: dict[type, Decomposition] = {
    dist.BernoulliLogits: _bernoulli,
    dist.BernoulliProbs: _bernoulli,
    dist.BinomialLogits: _binomial,
    dist.BinomialProbs: _binomial,
    dist.CategoricalLogits: _categorical,
    dist.CategoricalProbs: _categorical,
    dist.Exponential: _exponential,
    dist.Gamma: _gamma,
    dist.GeometricLogits: _geometric,
    dist.GeometricProbs: _geometric,
    dist.Normal: _normal,
    dist.OrderedLogistic: _categorical,
    dist.Poisson: _poisson,
    dist.Weibull: _weibull,
}
"""Families whose derivative is known as a difference."""
