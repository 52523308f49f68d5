"""Functions whose value is trivial and whose derivatives carry a gradient estimate.

A surrogate is an expression that evaluates to the cost and differentiates to an unbiased estimate
of the derivative of the expected cost. These functions are what it is built from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen.errors import DerivativeError


def magic_box(score: Array) -> Array:
    """One, whose derivative is that of `score`, to any order.

    `cost * magic_box(log p)` has the value `cost` and the derivative `d cost + cost * d log p`.
    Unlike `exp(s - stop_gradient(s))` it needs no exponential and is one even at `s = -inf`.

    References:
        Foerster et al., *DiCE: The Infinitely Differentiable Monte Carlo Estimator*, ICML 2018.
    """
    return _magic_box_p.bind(score)


def weighed(x: Array, weight: Array) -> Array:
    """Product `x * weight`, zero where `weight` is zero, for any `x`; so are its derivatives.

    An impossible value contributes nothing to an expectation even where its cost is infinite, and
    a cost that is not selected (behind a `where`) sends no derivative back to its weight.
    """
    return _weighed(x, weight)


def expected(x: Array, weight: Array) -> Array:
    """Product `x * weight` of a term in a sum over points: zero where `weight` is, for any `x`.

    Like `weighed`, but as cheap as a plain product: the cotangent of `x` is multiplied by the
    weight alone, and value and derivative use the same finite part of `x`. A weight of zero has a
    derivative where `x` is finite, and none where it is not.
    """
    return _expected(x, weight)


def attach(theta: Array, coefficient: Array | float = 1.0) -> Array:
    """Zero, whose derivative is `coefficient * d theta`, once.

    Raises:
        DerivativeError: when it is differentiated twice, because the product of two of these
            is not the second derivative of an expectation.
    """
    theta = jnp.asarray(theta)
    return _deviation_p.bind(theta) * freeze_once(jnp.asarray(coefficient, theta.dtype))


def freeze_once(x: Array) -> Array:
    """`x` with its first derivative set to zero; a second one raises `DerivativeError`.

    For the samples of a first-order estimator: its weights account for the movement of the samples
    with the parameters, but only to first order.
    """
    return _freeze_once_p.bind(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x


def _possible(x: Array, weight: Array) -> Array:
    """`x`, zero where it is not finite and its weight is zero."""
    return jnp.where((weight != 0) | jnp.isfinite(x), x, jnp.zeros_like(x))


def _magic_box_jvp(primals, tangents):
    one = magic_box(*primals)
    return one, one * tangents[0]


def _deviation_jvp(primals, tangents):
    return _deviation_p.bind(*primals), tangents[0] * _sealed_one_p.bind(*primals)


def _freeze_once_jvp(primals, tangents):
    return _sealed_p.bind(*primals), jnp.zeros_like(primals[0])


def _refuse(primals, tangents):
    raise DerivativeError(
        "a second derivative was taken through an estimator that is unbiased to first order only",
        instead="Enumerate(), ScoreFunction() or Reparameterize() at the sites that the second "
        "derivative reaches; MeasureValued() gives first derivatives",
    )


_weighed = _jax.define_product("weighed", lambda x, w: jnp.where(w == 0, jnp.zeros_like(x), x * w))
_shielded = _jax.define_product(
    "shielded",
    # A tangent may be anything where the weight is zero; a cotangent comes from the sum, finite.
    lambda dx, w: jnp.where(w == 0, jnp.zeros_like(dx), dx * w),
    derivatives=(lambda ct, w: ct * w, _weighed),
)
_counting = _jax.define_product(
    "counting",
    # The weight, which for second derivatives moves where it counts only.
    lambda w, x: w,
    tangents=(
        lambda dw, w, x: jnp.where((w != 0) | jnp.isfinite(x), dw, jnp.zeros_like(dw)),
        lambda dx, w, x: jnp.zeros_like(dx),
    ),
)
_expected = _jax.define_product(
    "expected",
    lambda x, w: _possible(x, w) * w,
    tangents=(
        lambda dx, x, w: _shielded(dx, _counting(w, x)),
        lambda dw, x, w: _weighed(_possible(x, w), dw),
    ),
)
_magic_box_p = _jax.define_elementwise("magic_box", jnp.ones_like, _magic_box_jvp)
_deviation_p = _jax.define_elementwise("deviation", jnp.zeros_like, _deviation_jvp)
_freeze_once_p = _jax.define_elementwise("freeze_once", lambda x: x, _freeze_once_jvp)
_sealed_p = _jax.define_elementwise("sealed", lambda x: x, _refuse)
_sealed_one_p = _jax.define_elementwise("sealed_one", jnp.ones_like, _refuse)


def without_derivative(x: Array, message: str, instead: str, where: str | None = None) -> Array:
    """`x`, which must not be differentiated.

    Raises:
        DerivativeError: when it is, with this message.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    error = DerivativeError(message, where=where, instead=instead)
    return _undifferentiable_p.bind(x, error=error)


def _raise_error(primals, tangents, *, error):
    raise error


_undifferentiable_p = _jax.define_marker("undifferentiable", jvp=_raise_error)


def without_second_derivative(x: Array, message: str, instead: str) -> Array:
    """`x`, which must not be differentiated twice.

    Raises:
        DerivativeError: when it is, with this message.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return _once_p.bind(x, error=DerivativeError(message, instead=instead))


def _once_jvp(primals, tangents, *, error):
    # One, whose own derivative is refused.
    (x,) = primals
    one = 1 + 0 * _undifferentiable_p.bind(x, error=error)
    return _once_p.bind(x, error=error), tangents[0] * one


_once_p = _jax.define_marker("once", jvp=_once_jvp)


def with_derivative_of(x: Array, value: Array) -> Array:
    """`value`, differentiated as `x` (which must be finite), to any order."""
    return jax.lax.stop_gradient(value) + (x - jax.lax.stop_gradient(x))
