"""Calls of elementwise primitives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from primitive_calls.operands import (
    Maker,
    _all,
    a_shape,
    between,
    booleans,
    complexes,
    either,
    integers,
    naryop,
    one_of,
    reals,
    unary,
)


def binary(fn: Callable, *kinds: Callable, stretch: bool = True) -> Maker:
    """Of two operands of one of the kinds."""
    return either(*(naryop(fn, k, k, stretch=stretch) for k in kinds))


def _own(primitive: Any, **params: Any) -> Callable:
    return lambda *xs: primitive.bind(*xs, **params)


_ERROR = ValueError("planted")
_FUNCTIONS: dict[str, Maker] = {
    "abs": unary(lax.abs, -2, 2, complexes, integers),
    "acos": unary(lax.acos, -0.9, 0.9, complexes),
    "acosh": unary(lax.acosh, 1.1, 3, complexes),
    "asin": unary(lax.asin, -0.9, 0.9, complexes),
    "asinh": unary(lax.asinh, -2, 2, complexes),
    "atan": unary(lax.atan, -2, 2, complexes),
    "atanh": unary(lax.atanh, -0.9, 0.9, complexes),
    "bessel_i0e": unary(lax.bessel_i0e),
    "bessel_i1e": unary(lax.bessel_i1e),
    "cbrt": unary(lax.cbrt),
    "ceil": unary(lax.ceil),
    "copy": unary(lambda x: lax.copy_p.bind(x), -2, 2, complexes, integers),
    "cos": unary(lax.cos, -2, 2, complexes),
    "cosh": unary(lax.cosh, -2, 2, complexes),
    "digamma": unary(lax.digamma, 0.2, 3),
    "erf": unary(lax.erf),
    "erf_inv": unary(lax.erf_inv, -0.9, 0.9),
    "erfc": unary(lax.erfc),
    "exp": unary(lax.exp, -2, 2, complexes),
    "exp2": unary(lax.exp2),
    "expm1": unary(lax.expm1, -2, 2, complexes),
    "floor": unary(lax.floor),
    "is_finite": unary(lax.is_finite),
    "lgamma": unary(lax.lgamma, 0.2, 3),
    "log": unary(lax.log, 0.2, 3, complexes),
    "log1p": unary(lax.log1p, -0.8, 3, complexes),
    "log2": unary(lambda x: lax.log2_p.bind(x, accuracy=None), 0.2, 3, complexes),
    "logistic": unary(lax.logistic, -2, 2, complexes),
    "neg": unary(lax.neg, -2, 2, complexes, integers),
    "not": naryop(lax.bitwise_not, booleans),
    "one_minus_square": unary(lambda x: lax.one_minus_square_p.bind(x), -2, 2, complexes),
    "population_count": naryop(lax.population_count, integers),
    "rsqrt": unary(lax.rsqrt, 0.2, 3, complexes),
    "sign": unary(lax.sign, -2, 2, complexes, integers),
    "sin": unary(lax.sin, -2, 2, complexes),
    "sinh": unary(lax.sinh, -2, 2, complexes),
    "sqrt": unary(lax.sqrt, 0.2, 3, complexes),
    "square": unary(lax.square, -2, 2, complexes, integers),
    "tan": unary(lax.tan, -1, 1, complexes),
    "tanh": unary(lax.tanh, -2, 2, complexes),
    "conj": naryop(lax.conj, complexes),
    "real": naryop(lax.real, complexes),
    "imag": naryop(lax.imag, complexes),
    "stop_gradient": unary(lambda x: _all()["stop_gradient"].bind(x)),
    "add": binary(lax.add, reals, integers, complexes),
    "add_any": binary(lambda x, y: ad.add_jaxvals_p.bind(x, y), reals, complexes, stretch=False),
    "sub": binary(lax.sub, reals, integers, complexes),
    "mul": binary(lax.mul, reals, integers, complexes),
    "div": binary(lax.div, reals, integers, complexes),
    "max": binary(lax.max, reals, integers, complexes),
    "min": binary(lax.min, reals, integers, complexes),
    "pow": either(
        naryop(lax.pow, between(0.2, 3), reals),
        naryop(lax.pow, reals, partial(integers, low=-2, high=4)),
        naryop(lax.pow, complexes, complexes),
    ),
    "rem": binary(lax.rem, reals, partial(integers, low=1)),
    "atan2": naryop(lax.atan2, reals, reals),
    "nextafter": naryop(lax.nextafter, reals, reals),
    "and": binary(lax.bitwise_and, integers, booleans),
    "or": binary(lax.bitwise_or, integers, booleans),
    "xor": binary(lax.bitwise_xor, integers, booleans),
    **{
        name: naryop(fn, integers, partial(integers, low=0, high=5))
        for name, fn in {
            "shift_left": lax.shift_left,
            "shift_right_arithmetic": lax.shift_right_arithmetic,
            "shift_right_logical": lax.shift_right_logical,
        }.items()
    },
    **{
        name: binary(getattr(lax, name), reals, integers)
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    },
    "igamma": naryop(lax.igamma, between(0.5, 3), between(0.2, 3)),
    "igammac": naryop(lax.igammac, between(0.5, 3), between(0.2, 3)),
    "igamma_grad_a": naryop(lax.igamma_grad_a, between(0.5, 3), between(0.2, 3)),
    "polygamma": naryop(lax.polygamma, lambda rng, s: np.ones(s, np.float32), between(0.5, 3)),
    "zeta": naryop(lax.zeta, between(1.5, 3), between(0.5, 3)),
    "complex": naryop(lax.complex, reals, reals),
    "clamp": lambda rng: _clamp(rng),
    "regularized_incomplete_beta": naryop(
        lax.betainc, between(0.5, 3), between(0.5, 3), between(0.1, 0.9)
    ),
    "select_n": lambda rng: _select(rng),
    "round": lambda rng: (
        partial(lax.round, rounding_method=one_of(rng, *lax.RoundingMethod)),
        [reals(rng, a_shape(rng))],
    ),
    "integer_pow": lambda rng: (
        partial(lax.integer_pow, y=int(rng.integers(-3, 4)) or 5),
        [one_of(rng, between(0.3, 2), complexes)(rng, a_shape(rng))],
    ),
    "reduce_precision": lambda rng: (
        partial(
            lax.reduce_precision,
            exponent_bits=int(rng.integers(5, 9)),
            mantissa_bits=int(one_of(rng, 2, 3, 4, 7, 10, 16, 20)),
        ),
        [reals(rng, a_shape(rng))],
    ),
    "convert_element_type": lambda rng: _convert(rng),
}


def _clamp(rng):
    x = reals(rng, a_shape(rng))
    bounds = [-0.7, 0.6]
    if rng.integers(2):
        bounds = [reals(rng, x.shape, low, low + 3) for low in (-3, 0)]
    return lax.clamp, [np.asarray(bounds[0], np.float32), x, np.asarray(bounds[1], np.float32)]


def _select(rng):
    shape, kind = a_shape(rng), one_of(rng, reals, integers, complexes)
    cases = int(rng.integers(2, 4))
    where = shape if rng.integers(2) else ()
    which = booleans(rng, where) if cases == 2 else integers(rng, where, 0, cases)
    return lax.select_n, [which, *(kind(rng, shape) for _ in range(cases))]


def _convert(rng):
    x = one_of(rng, reals, reals, integers, booleans)(rng, a_shape(rng))
    new = one_of(rng, jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8, jnp.complex64)
    new = np.dtype(one_of(rng, new, new, new, jnp.float8_e4m3fn))
    if x.dtype == new:
        x = booleans(rng, x.shape)
    weak = bool(rng.integers(2)) and new in (np.float32, np.int32)
    return lambda x: lax.convert_element_type_p.bind(
        x, new_dtype=new, weak_type=weak, sharding=None
    ), [x]
