"""JAX's primitives in NumPy, on many lanes at once.

The lanes of a value are axes in front of those of its type: none where all lanes share it, one or
several where they differ. NumPy's broadcasting aligns shapes from the right, so most rules need not
know of lanes. Tests compare every rule with the primitive itself.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (SciPy declares its functions of arrays as functions of numbers.)

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.special as special

from ppgen import _jax
from ppgen.testing._lane_axes import aligned, full, lanes_of, rank
from ppgen.testing._lane_indexing import dynamic_slice, dynamic_update_slice, gather, scatter

Values = Sequence[Any]
Rule = Callable[..., Any]


def _elementwise(fn: Callable) -> Rule:
    def rule(eqn: Any, *values: Any) -> Any:
        return fn(*aligned(eqn, values))

    return rule


def _divide(x: Any, y: Any) -> Any:
    if np.issubdtype(x.dtype, np.floating):
        return x / y
    y = np.where(y == 0, 1, y)
    return np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))


def _integer_pow(eqn: Any, x: Any) -> Any:
    y = int(eqn.params["y"])
    out = functools.reduce(operator.mul, [x] * abs(y)) if 0 < abs(y) < 5 else x ** abs(y)
    return 1 / out if y < 0 else out


def _shift_right(x: Any, y: Any) -> Any:
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    bits, by = x.view(unsigned), y.astype(unsigned)
    return np.where(by < 8 * x.dtype.itemsize, bits >> by, 0).astype(unsigned).view(x.dtype)


def _shift_left(x: Any, y: Any) -> Any:
    return np.where(y < 8 * x.dtype.itemsize, x << y, 0).astype(x.dtype)


def _select(eqn: Any, *values: Any) -> Any:
    which, *cases = aligned(eqn, values)
    if which.dtype.kind == "b":
        return np.where(which, cases[1], cases[0])
    return np.choose(which, cases)


def _broadcast_in_dim(eqn: Any, x: Any, *_: Any) -> Any:
    shape, at = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    lanes = x.shape[: x.ndim - rank(eqn.invars[0])]
    own = x.shape[len(lanes) :]
    new = [1] * len(shape)
    for size, k in zip(own, at, strict=True):
        new[k] = size
    return full(
        x.reshape(
            (
                *lanes,
                *new,
            )
        ),
        shape,
        lanes,
    )


def _reshape(eqn: Any, x: Any, *_: Any) -> Any:
    lanes = x.shape[: x.ndim - rank(eqn.invars[0])]
    if eqn.primitive.name == "reshape" and eqn.params["dimensions"] is not None:
        order = eqn.params["dimensions"]
        x = x.transpose((*range(len(lanes)), *(len(lanes) + int(k) for k in order)))
    return x.reshape(
        (
            *lanes,
            *eqn.outvars[0].aval.shape,
        )
    )


def _axes(eqn: Any, axes: Any, of: int = 0) -> tuple[int, ...]:
    """Axes of the type as axes counted from the right."""
    n = rank(eqn.invars[of])
    return tuple(int(a) - n for a in axes)


def _transpose(eqn: Any, x: Any) -> Any:
    n = rank(eqn.invars[0])
    lanes = x.ndim - n
    return x.transpose(*range(lanes), *(lanes + p for p in eqn.params["permutation"]))


def _reduce(fn: Callable) -> Rule:
    def rule(eqn: Any, x: Any) -> Any:
        axes = _axes(eqn, eqn.params["axes"])
        return fn(x, axis=axes) if axes else x

    return rule


def _arg(fn: Callable) -> Rule:
    return lambda eqn, x: fn(x, axis=_axes(eqn, eqn.params["axes"])[0])


def _cumulative(fn: Callable) -> Rule:
    def rule(eqn: Any, x: Any) -> Any:
        (axis,) = _axes(eqn, [eqn.params["axis"]])
        if not eqn.params["reverse"]:
            return fn(x, axis=axis)
        return np.flip(fn(np.flip(x, axis), axis=axis), axis)

    return rule


def _join(eqn: Any, values: Values, axis: Any) -> Any:
    lanes = lanes_of(eqn, values)
    parts = [full(x, v.aval.shape, lanes) for x, v in zip(values, eqn.invars, strict=True)]
    return np.concatenate(parts, axis=axis - rank(eqn.invars[0]))


def _stack(eqn: Any, *values: Any) -> Any:
    lanes = lanes_of(eqn, values)
    parts = [full(x, v.aval.shape, lanes) for x, v in zip(values, eqn.invars, strict=True)]
    return np.stack(parts, axis=eqn.params["axis"] - rank(eqn.outvars[0]))


def _unstack(eqn: Any, x: Any) -> list[Any]:
    (axis,) = _axes(eqn, [eqn.params["axis"]])
    return [np.take(x, i, axis=axis) for i in range(x.shape[axis])]


def _split(eqn: Any, x: Any) -> list[Any]:
    (axis,) = _axes(eqn, [eqn.params["axis"]])
    return np.split(x, np.cumsum(eqn.params["sizes"])[:-1], axis=axis)


def _pad(eqn: Any, x: Any, value: Any) -> Any:
    shape, config = eqn.outvars[0].aval.shape, eqn.params["padding_config"]
    lanes = lanes_of(eqn, [x, value])
    own = rank(eqn.invars[0])
    out = np.empty((*lanes, *shape), x.dtype)
    out[...] = (
        value.reshape(
            (
                *value.shape,
                *(1,) * own,
            )
        )
        if value.ndim
        else value
    )
    into, source = [], []
    for size, new, (low, _, interior) in zip(eqn.invars[0].aval.shape, shape, config, strict=True):
        at = int(low) + np.arange(size) * (int(interior) + 1)
        seen = (at >= 0) & (at < new)
        into.append(at[seen])
        source.append(np.arange(size)[seen])
    if not own:
        return full(x, (), lanes)
    out[(..., *np.ix_(*into))] = full(x, eqn.invars[0].aval.shape, lanes)[(..., *np.ix_(*source))]
    return out


def _slice(eqn: Any, x: Any) -> Any:
    p = eqn.params
    strides = p["strides"] or [1] * len(p["start_indices"])
    parts = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return x[(..., *(slice(int(a), int(b), int(s)) for a, b, s in parts))]


def _dot_general(eqn: Any, x: Any, y: Any) -> Any:
    (contract, other), (batch, batch_y) = eqn.params["dimension_numbers"]
    m, n = rank(eqn.invars[0]), rank(eqn.invars[1])
    names = iter("abcdefghijklmnopqrstuvwxyz")
    of_x = [next(names) for _ in range(m)]
    of_y = [next(names) for _ in range(n)]
    for i, j in zip((*contract, *batch), (*other, *batch_y), strict=True):
        of_y[j] = of_x[i]
    out = [of_x[i] for i in batch]
    out += [c for i, c in enumerate(of_x) if i not in (*contract, *batch)]
    out += [c for j, c in enumerate(of_y) if j not in (*other, *batch_y)]
    return np.einsum(f"...{''.join(of_x)},...{''.join(of_y)}->...{''.join(out)}", x, y)


def _convolve(eqn: Any, x: Any, y: Any) -> Any:
    """A convolution as the bilinear map that it is; under `vmap`, XLA's needs lanes² of memory."""
    a, b = (v.aval for v in eqn.invars)
    if a.size * b.size > 400:
        return NotImplemented
    kernel = _bilinear(eqn, a.shape, b.shape)
    x = x.reshape((*x.shape[: x.ndim - len(a.shape)], a.size))
    y = y.reshape((*y.shape[: y.ndim - len(b.shape)], b.size))
    x, y = (v.reshape((*(1,) * (max(x.ndim, y.ndim) - v.ndim), *v.shape)) for v in (x, y))
    out = np.einsum("...i,...j,oij->...o", x, y, kernel, optimize=True)
    return out.reshape((*out.shape[:-1], *eqn.outvars[0].aval.shape))


def _bilinear(eqn: Any, a: tuple[int, ...], b: tuple[int, ...]) -> np.ndarray:
    """The array `k` with `out[o] = sum(k[o, i, j] x[i] y[j])`, all of them flat."""
    n, m = math.prod(a), math.prod(b)
    k = [
        np.asarray(_jax.bind(eqn, [i.reshape(a), j.reshape(b)])[0]).ravel()
        for i in np.eye(n, dtype=np.float32)
        for j in np.eye(m, dtype=np.float32)
    ]
    return np.stack(k, axis=-1).reshape((-1, n, m)).astype(np.float64)


def _order(eqn: Any, keys: Values, axis: Any) -> Any:
    """Positions in ascending order of the keys, the first one first; NaNs last."""
    order = np.argsort(keys[-1], axis=axis, kind="stable")
    for key in reversed(keys[:-1]):
        again = np.argsort(np.take_along_axis(key, order, axis), axis=axis, kind="stable")
        order = np.take_along_axis(order, again, axis)
    return order


def _sort(eqn: Any, *values: Any) -> list[Any]:
    lanes = lanes_of(eqn, values)
    whole = [full(x, v.aval.shape, lanes) for x, v in zip(values, eqn.invars, strict=True)]
    (axis,) = _axes(eqn, [eqn.params["dimension"]])
    order = _order(eqn, whole[: eqn.params["num_keys"]], axis)
    return [np.take_along_axis(x, order, axis) for x in whole]


def _top_k(eqn: Any, x: Any) -> list[Any]:
    (axis,) = _axes(eqn, [eqn.params.get("axis", rank(eqn.invars[0]) - 1)])
    order = np.argsort(-x, axis=axis, kind="stable")
    order = np.take(order, np.arange(eqn.params["k"]), axis=axis)
    return [np.take_along_axis(x, order, axis), order]


def _iota(eqn: Any, *_: Any) -> Any:
    p = eqn.params
    shape, k = p["shape"], p["dimension"]
    return np.broadcast_to(
        np.arange(shape[k]).reshape((*(shape[k] if j == k else 1 for j in range(len(shape))),)),
        shape,
    )


def _bitcast(eqn: Any, x: Any) -> Any:
    dtype = np.dtype(eqn.params["new_dtype"])
    if dtype.itemsize != x.dtype.itemsize:
        raise NotImplementedError("a bitcast between sizes")
    return np.ascontiguousarray(x).reshape(x.shape).view(dtype)


def _round(eqn: Any, x: Any) -> Any:
    if "EVEN" in str(eqn.params["rounding_method"]):
        return np.round(x)
    return np.sign(x) * np.floor(np.abs(x) + 0.5)


def _clamp(eqn: Any, low: Any, x: Any, high: Any) -> Any:
    low, x, high = aligned(eqn, [low, x, high])
    return np.minimum(np.maximum(x, low), high)


def _convert(eqn: Any, x: Any) -> Any:
    to = np.dtype(eqn.params["new_dtype"])
    return x != 0 if to.kind == "b" else x


def _trunc_rem(x: Any, y: Any) -> Any:
    return np.fmod(x, y)


def _logcumsumexp(x: Any, axis: Any) -> Any:
    return np.logaddexp.accumulate(x, axis=axis)


def _same(eqn: Any, x: Any, *_: Any) -> Any:
    return x


def _weighed(x: Any, w: Any) -> Any:
    return np.where(w == 0, 0, x * w)


RULES: dict[str, Rule] = {
    **{
        name: _elementwise(fn)
        for name, fn in {
            "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply,
            "div": _divide, "max": np.maximum, "min": np.minimum, "pow": np.power,
            "rem": _trunc_rem, "atan2": np.arctan2, "nextafter": np.nextafter,
            "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
            "not": np.invert, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
            "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
            "shift_right_logical": _shift_right, "shift_left": _shift_left,
            "shift_right_arithmetic": np.right_shift, "neg": np.negative, "abs": np.abs,
            "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "is_finite": np.isfinite,
            "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log,
            "log1p": np.log1p, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
            "cbrt": np.cbrt, "square": np.square, "sin": np.sin, "cos": np.cos, "tan": np.tan,
            "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asin": np.arcsin,
            "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh, "acosh": np.arccosh,
            "atanh": np.arctanh, "logistic": special.expit, "erf": special.erf,
            "erfc": special.erfc, "erf_inv": special.erfinv, "lgamma": special.gammaln,
            "digamma": special.digamma, "igamma": special.gammainc, "igammac": special.gammaincc,
            "regularized_incomplete_beta": special.betainc, "bessel_i0e": special.i0e,
            "bessel_i1e": special.i1e, "population_count": np.bitwise_count,
            "polygamma": lambda n, x: special.polygamma(n.astype(int), x),
            "zeta": special.zeta, "weighed": _weighed, "expected": np.multiply,
            "magic_box": np.ones_like, "sealed_one": np.ones_like, "deviation": np.zeros_like,
        }.items()
    },
    **dict.fromkeys(
        ("stop_gradient", "sealed", "freeze_once", "marker", "assume_continuous", "transformed",
         "once", "undifferentiable", "forward_only", "implicit", "copy", "copy_p", "name",
         "reduce_precision", "optimization_barrier", "random_clone", "pvary"),
        _same,
    ),
    "integer_pow": _integer_pow, "select_n": _select, "clamp": _clamp, "round": _round,
    "convert_element_type": _convert, "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast_in_dim, "reshape": _reshape, "squeeze": _reshape,
    "expand_dims": _reshape, "transpose": _transpose, "iota": _iota,
    "empty2": lambda eqn: np.zeros(eqn.outvars[0].aval.shape), "empty": lambda eqn: np.zeros(
        eqn.outvars[0].aval.shape
    ),
    "rev": lambda eqn, x: np.flip(x, _axes(eqn, eqn.params["dimensions"])),
    "reduce_sum": _reduce(np.sum), "reduce_prod": _reduce(np.prod), "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min), "reduce_and": _reduce(np.bitwise_and.reduce),
    "reduce_or": _reduce(np.bitwise_or.reduce), "reduce_xor": _reduce(np.bitwise_xor.reduce),
    "argmax": _arg(np.argmax), "argmin": _arg(np.argmin), "cumsum": _cumulative(np.cumsum),
    "cumprod": _cumulative(np.cumprod), "cummax": _cumulative(np.maximum.accumulate),
    "cummin": _cumulative(np.minimum.accumulate), "cumlogsumexp": _cumulative(_logcumsumexp),
    "concatenate": lambda eqn, *values: _join(eqn, values, eqn.params["dimension"]),
    "stack": _stack, "unstack": _unstack, "split": _split, "pad": _pad, "slice": _slice,
    "dynamic_slice": dynamic_slice, "dynamic_update_slice": dynamic_update_slice,
    "dot_general": _dot_general, "conv_general_dilated": _convolve, "sort": _sort, "top_k": _top_k,
    "gather": gather,
    "scatter": scatter(None), "scatter-add": scatter(np.add), "scatter-mul": scatter(
        np.multiply
    ),
    "scatter-max": scatter(np.maximum), "scatter-min": scatter(np.minimum),
}  # fmt: skip
"""By the name of a primitive: `rule(eqn, *values) -> value`, or a list of values."""
