"""Distributions of the time along a path."""

# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false
# pyright: reportAssignmentType=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Logistic, TransformedDistribution, transforms

from ppgen._sampling.implicit import implicit
from ppgen.inference.paths._tails import by_tails, log_slope, plain

_HALVINGS = {2: 16, 4: 26, 8: 46}  # by the bytes of a float
_FURTHEST = 2.0**28  # of the log odds of u
_ROUNDING = 0.02  # what may become of a log density, in nats


class Warped(TransformedDistribution):
    r"""The law of f(u, parameters), with u uniform on (0, 1) and f increasing.

    A distribution of time, given by the function that draws it. The density is *exact* up to
    rounding: u is found by bisection, and 1 / f'(u) by `jax.jvp`. Neither u nor 1 - u has to be a
    float: where f is made of logs, powers, odds, tangents and normal quantiles (`ndtri`, `erf_inv`)
    of u or of 1 - u, their logs are used, and single precision keeps its digits at any distance.
    Where f is made of something else and u's own rounding moves the density by more than 2%, the
    density is NaN. Three common ones:

    - logit-normal: `Warped(lambda u, m, s: sigmoid(m + s * ndtri(u)), m, s)`;
    - mode, for -1 ≤ s ≤ 2/(π-2): `Warped(lambda u, s: u + s * (u - sin(pi * u / 2) ** 2), s)`;
    - cosine: `Warped(lambda u: 1 - 1 / (1 + tan(pi * u / 2)))`.

    Args:
        warp: an increasing function of a scalar in (0, 1), and of the parameters.
        parameters: scalars.

    Samples are a function of a logistic variable and of the parameters, and differentiable.

    References:
        Esser et al. Scaling rectified flow transformers for high-resolution image synthesis. 2024.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import Warped
        >>> law = Warped(lambda u, p: u**p, 2.0)  # Beta(1/2, 1)
        >>> print(f"{law.log_prob(0.16):.4f}")  # log 1.25
        0.2231
    """

    pytree_data_fields = ("base_dist", "transforms")

    def __init__(self, warp: Callable[..., Any], *parameters: Any) -> None:
        super().__init__(Logistic(), _Warp(warp, parameters), validate_args=False)

    def icdf(self, q: Any) -> Float[Array, "..."]:
        """The quantiles: the function itself."""
        (warp,) = self.transforms
        return warp.at(jnp.asarray(q, float))

    def cdf(self, value: Any) -> Float[Array, "..."]:
        """The u from which a value comes."""
        (warp,) = self.transforms
        return jax.nn.sigmoid(warp._inverse(value))


class _Warp(transforms.Transform):
    """f(u, parameters) of w = log(u / (1 - u)), on all of the line."""

    sign: Any = 1

    def __init__(self, warp: Callable[..., Any], parameters: tuple) -> None:
        self.warp = warp
        self.parameters = tuple(jnp.asarray(p, float) for p in parameters)

    def at(self, u: Array) -> Array:
        """The function as it is written."""
        return jnp.vectorize(lambda u: self.warp(u, *self.parameters))(u)

    def __call__(self, x: Any) -> Array:
        return _elementwise(self._value, x, self.parameters)

    def _value(self, w: Array, *parameters: Any) -> Array:
        w = jnp.clip(w, -_FURTHEST, _FURTHEST)
        return jnp.asarray(plain(by_tails(self.warp, w, *parameters)[0]), w.dtype)

    def _log_slope(self, w: Array, *parameters: Any, off: Any = 0.0) -> Array:
        """The log of the derivative; infinite where there is no value."""
        somewhere = jnp.abs(w) <= _FURTHEST
        w = jnp.where(somewhere, w, 0.0)
        slope = log_slope(lambda w: by_tails(self.warp, w, *parameters, off=off)[0], w)
        return jnp.where(somewhere, slope, jnp.inf)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        if not self._rounded(self.parameters):
            return _elementwise(self._log_slope, x, self.parameters)

        def off(roundings: Array) -> Array:
            log_slope = functools.partial(self._log_slope, off=roundings)
            return _elementwise(log_slope, x, self.parameters)

        less, slope, more = jax.vmap(off)(jnp.arange(-1.0, 2.0))
        unknown = jax.lax.stop_gradient(jnp.abs(more - less)) > _ROUNDING
        return jnp.where(unknown, jnp.nan, slope)

    def _rounded(self, parameters: tuple) -> bool:
        """Whether u becomes a float in the warp."""
        return by_tails(self.warp, jnp.zeros(()), *parameters)[1]

    def _inverse(self, y: Any) -> Array:
        y = jnp.asarray(y, float)
        w = _elementwise(self._found, y, self.parameters)

        def excess(w: Array, y: Array, *parameters: Any) -> Array:
            return _elementwise(self._value, w, parameters) - y

        def slope(w: Array, y: Array, *parameters: Any) -> Array:
            return _elementwise(self._log_slope, w, parameters)

        return implicit(w, excess, slope, y, *map(jnp.asarray, self.parameters))

    def _found(self, y: Array, *parameters: Any) -> Array:
        """The w whose value is `y`, without a derivative; too far out where there is none."""
        y, parameters = jax.lax.stop_gradient((y, parameters))
        value = lambda w: self._value(w, *parameters)  # noqa: E731

        def halve(_: Any, interval: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = interval
            middle = (low + high) / 2
            found = value(jnp.sinh(middle))
            # Where values were rounded to one and the same, the w closest to the middle.
            below = jnp.where(middle < 0, found <= y, found < y)
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        end = jnp.full((), math.asinh(_FURTHEST), y.dtype)
        steps = _HALVINGS[y.dtype.itemsize]
        low, high = jnp.sinh(jnp.stack(jax.lax.fori_loop(0, steps, halve, (-end, end))))
        ends = jnp.array([low, high, -_FURTHEST, _FURTHEST], y.dtype)
        below, above, first, last = jax.vmap(value)(ends)
        # Most of a float's digits; then a step of Newton's, for the others.
        w, off = jnp.where(low < 0, high, low), y - jnp.where(low < 0, above, below)
        step = off * jnp.exp(-self._log_slope(w, *parameters))
        flat = (below == y) | (above == y) | ~jnp.isfinite(step)
        if self._rounded(parameters):
            # Not where u itself is no float any more: an end of the support may be meant.
            smallest = math.log(jnp.finfo(w.dtype).tiny / jnp.finfo(w.dtype).eps)
            w = jnp.where(flat, jnp.maximum(w, smallest), w)
        w = jnp.where(flat, w, jnp.clip(w + step, low, high))
        return jnp.where(y < first, -4 * _FURTHEST, jnp.where(y > last, 4 * _FURTHEST, w))

    def tree_flatten(self) -> Any:
        return (self.parameters,), (("parameters",), {"warp": self.warp})


def _elementwise(f: Callable[..., Array], x: Any, parameters: tuple) -> Array:
    return jnp.vectorize(lambda x: f(x, *parameters))(jnp.asarray(x, float))
