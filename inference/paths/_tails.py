"""Functions of a number in (0, 1), evaluated from the logs of it and of its complement.

A float near one has lost the digits of its complement, and single precision underflows below 1e-38.
So a function of u is not evaluated at a float: its jaxpr is, at u = sigmoid(w), where a value that
is known by its log, or by that of its complement, is kept so for as long as operations allow. What
quantile functions are made of does: logs, powers, odds, tangents, normal quantiles.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array

from ppgen import _jax
from ppgen._sampling.normal_quantiles import ndtri_of_logs

_INLINED = ("jit", "pjit", "closed_call")


class Between(NamedTuple):
    """`low + (high - low) * x`, by the logs of x in (0, 1) and of 1 - x."""

    low: Any
    high: Any
    log_x: Array
    log_rest: Array


class Scaled(NamedTuple):
    """`scale * exp(log)`."""

    scale: Any
    log: Array


def by_tails(f: Callable[..., Any], w: Array, *parameters: Any, off: Any = 0.0) -> tuple[Any, bool]:
    """`f(sigmoid(w), *parameters)`, of a scalar `w`: a float, or what is known better.

    Args:
        f: a function of scalars.
        w: the log odds of its first argument.
        *parameters: its other arguments.
        off: how many roundings to add where u, or what is known like it, becomes a float.

    Returns:
        What it makes of them, and whether anything became a float on the way.
    """
    unit = Between(0.0, 1.0, jax.nn.log_sigmoid(w), jax.nn.log_sigmoid(-w))
    jaxpr, consts = _jax.open_jaxpr(jax.make_jaxpr(f)(w, *parameters))
    run = _Run(off)
    (value,) = run(jaxpr, consts, [unit, *parameters])
    return value, run.rounded


def plain(x: Any) -> Any:
    """A value as a float."""
    if isinstance(x, Scaled):
        return x.scale * jnp.exp(x.log)
    if not isinstance(x, Between):
        return x
    width = x.high - x.low
    from_low = x.low + width * jnp.exp(x.log_x)
    if _is(x.low, 0):
        return from_low
    known = ~jnp.isnan(x.log_rest)  # it is not, of a power with a negative exponent
    from_high = x.high - width * jnp.exp(jnp.where(known, x.log_rest, 0.0))
    return jnp.where(known if _is(x.high, 0) else x.log_rest < x.log_x, from_high, from_low)


def log_slope(f: Callable[[Array], Any], w: Array) -> Array:
    """The log of the derivative of `plain(f(w))`, where `f` increases."""
    kind = None

    def parts(w: Array) -> tuple[Array, ...]:
        nonlocal kind
        kind = x = f(w)
        # Where only the log depends on `w`, neither it nor its derivative has to be a float's.
        if isinstance(x, Between) and isinstance(x.low, float) and isinstance(x.high, float):
            return x.log_x, x.log_rest
        if isinstance(x, Scaled) and isinstance(x.scale, float):
            return (x.log,)
        kind = None
        return (jnp.asarray(plain(x), w.dtype),)

    at, rates = jax.jvp(parts, (w,), (jnp.ones_like(w),))
    if isinstance(kind, Scaled):
        return at[0] + jnp.log(kind.scale * rates[0])
    if kind is None:
        return jnp.log(rates[0])
    left = at[0] < at[1]
    rate = jnp.where(left, rates[0], -rates[1]) * (kind.high - kind.low)
    return jnp.where(left, *at) + jnp.log(rate)


class _Run:
    """One evaluation of a jaxpr."""

    def __init__(self, off: Any) -> None:
        self.rounded = False
        self._off = off

    def __call__(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def read(v: Any) -> Any:
            return _static(v.val) if isinstance(v, _jax.Literal) else env[v]

        equations = list(jaxpr.eqns)
        while equations:
            eqn, count = equations[0], 1
            found = self._quantile(equations, read)
            if found is not None:
                result, count = found
                eqn, out = equations[count - 1], [result]
            else:
                out = self._equation(eqn, [read(v) for v in eqn.invars])
            env.update(zip(eqn.outvars, out, strict=True))
            del equations[:count]
        return [read(v) for v in jaxpr.outvars]

    def _quantile(self, equations: Sequence[Any], read: Callable) -> tuple[Any, int] | None:
        """The normal quantile that the first equations are, which JAX 0.10 writes out; how many."""
        eqn = equations[0]
        names = _written_out(eqn.invars[0].aval.dtype) if eqn.invars else ()
        if len(names) < 2 or tuple(e.primitive.name for e in equations[: len(names)]) != names:
            return None
        x = read(eqn.invars[0])
        return (_ndtri(eqn, x), len(names)) if isinstance(x, Between) and _unit(x) else None

    def _equation(self, eqn: Any, ins: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name == "custom_jvp_call":
            name = _function_name(eqn).strip("_")
        if name in _INLINED:
            inner, consts = _jax.open_jaxpr(_jax.subjaxprs(eqn)[0])
            return self(inner, consts, ins)
        if name in _MAKERS or any(isinstance(x, (Between, Scaled)) for x in ins):
            rule = _RULES.get(name)
            out = None if rule is None else rule(eqn, *ins)
            if out is not None:
                return [out]
        return _jax.bind(
            eqn, [self._float(x, v.aval) for x, v in zip(ins, eqn.invars, strict=True)]
        )

    def _float(self, x: Any, aval: Any) -> Any:
        value = jnp.asarray(plain(x), aval.dtype)
        if not isinstance(x, Between):
            return value
        self.rounded = True
        return value * (1 + self._off * jnp.finfo(aval.dtype).eps)


@functools.cache
def _written_out(dtype: Any) -> tuple[str, ...]:
    """The primitives that a normal quantile consists of."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return ()
    inner, _ = _jax.open_jaxpr(jax.make_jaxpr(ndtri)(jnp.zeros((), dtype)))
    return tuple(eqn.primitive.name for eqn in inner.eqns)


def _function_name(eqn: Any) -> str:
    inner, _ = _jax.open_jaxpr(_jax.subjaxprs(eqn)[0])
    return str(inner.debug_info.func_src_info).split(" ")[0]


def _static(x: Any) -> Any:
    """A literal of a jaxpr as a Python number, which is known before anything runs."""
    array = np.asarray(x)
    return float(array) if array.ndim == 0 and array.dtype.kind == "f" else x


def _is(x: Any, number: float | int) -> bool:
    return isinstance(x, float) and math.isclose(x, number, rel_tol=1e-6)


def _scaled(x: Any) -> Any:
    """A value by its own log, where that is known."""
    if isinstance(x, Between):
        if _is(x.low, 0):
            return Scaled(x.high, x.log_x)
        return Scaled(x.low, x.log_rest) if _is(x.high, 0) else None
    return x if isinstance(x, Scaled) else None


def _unit(x: Any) -> Any:
    """A value in (0, 1) by the logs of itself and of its complement, where they are known."""
    if isinstance(x, float) and 0 < x < 1:
        return Between(0.0, 1.0, jnp.log(x), jnp.log1p(-x))
    if not isinstance(x, Between):
        return None
    if _is(x.low, 1) and _is(x.high, 0):
        return Between(0.0, 1.0, x.log_rest, x.log_x)
    return x if _is(x.low, 0) and _is(x.high, 1) else None


def _times(a: Any, b: Any, op: Callable = operator.mul) -> Any:
    return 0.0 if _is(a, 0) else op(a, b)


def _neg(_: Any, x: Any) -> Any:
    if isinstance(x, Between):
        return x._replace(low=-x.low, high=-x.high)
    return x._replace(scale=-x.scale) if isinstance(x, Scaled) else -x


def _add(_: Any, a: Any, b: Any) -> Any:
    if isinstance(b, Between) or _is(a, 0):
        a, b = b, a
    if _is(b, 0):
        return a
    if isinstance(a, Between) and not isinstance(b, Between):
        b = plain(b)
        return a._replace(low=a.low + b, high=a.high + b)
    if isinstance(b, Scaled):
        a, b = b, a
    if _is(b, 1) and isinstance(a, Scaled) and _is(a.scale, 1):
        return Scaled(1.0, jax.nn.softplus(a.log))
    return None


def _sub(eqn: Any, a: Any, b: Any) -> Any:
    return _add(eqn, a, _neg(eqn, b))


def _mul(_: Any, a: Any, b: Any) -> Any:
    one, other = _scaled(a), _scaled(b)
    if one and other:
        return Scaled(one.scale * other.scale, one.log + other.log)
    if isinstance(b, (Between, Scaled)):
        a, b = b, a
    if isinstance(b, (Between, Scaled)):
        return None
    if isinstance(a, Between):
        return a._replace(low=_times(a.low, b), high=_times(a.high, b))
    return Scaled(a.scale * b, a.log)


def _div(_: Any, a: Any, b: Any) -> Any:
    one, other = _scaled(a), _scaled(b)
    if other:
        if one:
            return Scaled(one.scale / other.scale, one.log - other.log)
        return None if isinstance(a, Between) else Scaled(a / other.scale, -other.log)
    if isinstance(b, Between):
        return None
    if isinstance(a, Between):
        by = operator.truediv
        return a._replace(low=_times(a.low, b, by), high=_times(a.high, b, by))
    return Scaled(a.scale / b, a.log)


def _power(x: Any, exponent: Any) -> Any:
    if isinstance(exponent, (Between, Scaled)):
        return None
    x = _unit(x) or x
    own = _scaled(x)
    if own is None:
        return None
    if not isinstance(x, Between) or not _is(x.high, 1) or _positive(exponent) is False:
        return Scaled(1.0 if _is(own.scale, 1) else own.scale**exponent, exponent * own.log)
    # The complement of a power: where x is close to one, that of x times the exponent.
    close = x.log_rest < -40
    inner = exponent * jnp.where(close, -1.0, x.log_x)
    rest = jnp.where(close, x.log_rest + jnp.log(exponent), jnp.log(-jnp.expm1(inner)))
    return Between(0.0, 1.0, exponent * x.log_x, rest)


def _positive(x: Any) -> bool | None:
    return x > 0 if isinstance(x, (int, float)) else None


def _log(_: Any, x: Any) -> Any:
    unit, own = _unit(x), _scaled(x)
    if unit:
        # By the log of minus the log: that of the complement, where x is close to one.
        close = unit.log_rest < -40
        inner = jnp.log(-jnp.where(close, -1.0, unit.log_x))
        return Scaled(-1.0, jnp.where(close, unit.log_rest, inner))
    if own is None:
        return None
    return own.log if _is(own.scale, 1) else own.log + jnp.log(own.scale)


def _log1p(eqn: Any, x: Any) -> Any:
    shifted = _add(eqn, x, 1.0)
    return None if shifted is None else _log(eqn, shifted)


def _exp(_: Any, x: Any) -> Any:
    return None if isinstance(x, Between) else Scaled(1.0, plain(x))


def _logistic(_: Any, x: Any) -> Any:
    if isinstance(x, Between):
        return None
    x = plain(x)
    return Between(0.0, 1.0, jax.nn.log_sigmoid(x), jax.nn.log_sigmoid(-x))


def _tan(_: Any, x: Any) -> Any:
    quarter = math.pi / 2
    if not (isinstance(x, Between) and isinstance(x.low, float) and _is(abs(x.high), quarter)):
        return None
    if _is(x.low, 0):
        left = x.log_x < x.log_rest
        # tan(pi/2 * v) of the smaller part v, and its inverse.
        log = _log_tan(jnp.where(left, x.log_x, x.log_rest), quarter)
        return Scaled(math.copysign(1.0, x.high), jnp.where(left, log, -log))
    if not _is(x.low, -x.high):
        return None
    # -1 / tan(pi * v) at the left end; in the middle there is nothing to lose.
    left, smaller = x.log_x < x.log_rest, jnp.minimum(x.log_x, x.log_rest)
    middle = smaller > math.log(0.25)
    far = jnp.exp(-_log_tan(jnp.where(middle, -2.0, smaller), math.pi))
    near = jnp.tan(jnp.where(middle, plain(x), 0.0))
    return jnp.where(middle, near, jnp.where(left, -far, far) * math.copysign(1.0, x.high))


def _log_tan(log_v: Array, scale: float) -> Array:
    """The log of tan(scale * v), by the log of v."""
    tiny = log_v < -40
    v = jnp.exp(jnp.where(tiny, -1.0, log_v))
    ratio = jnp.tan(scale * v) / v
    return log_v + jnp.where(tiny, math.log(scale), jnp.log(ratio))


def _from_minus_one(x: Any) -> Any:
    """(1 + x) / 2 by both its logs, of x in (-1, 1)."""
    if not isinstance(x, Between):
        return None
    if _is(x.low, -1) and _is(x.high, 1):
        return Between(0.0, 1.0, x.log_x, x.log_rest)
    return Between(0.0, 1.0, x.log_rest, x.log_x) if _is(x.low, 1) and _is(x.high, -1) else None


def _ndtri(_: Any, x: Any) -> Any:
    unit = _unit(x)
    return ndtri_of_logs(unit.log_x, unit.log_rest) if unit else None


def _erf_inv(_: Any, x: Any) -> Any:
    half = _from_minus_one(x)
    return ndtri_of_logs(half.log_x, half.log_rest) / math.sqrt(2) if half else None


def _atanh(_: Any, x: Any) -> Any:
    half = _from_minus_one(x)
    return (half.log_x - half.log_rest) / 2 if half else None


def _logit(_: Any, x: Any) -> Any:
    unit = _unit(x)
    return unit.log_x - unit.log_rest if unit else None


def _select_n(_: Any, which: Any, *cases: Any) -> Any:
    units = [_unit(x) for x in cases]
    if all(units):
        logs = [[u[i] for u in units if u] for i in (2, 3)]
        dtype = jnp.result_type(*logs[0])
        picked = [jax.lax.select_n(which, *(jnp.asarray(x, dtype) for x in part)) for part in logs]
        return Between(0.0, 1.0, *picked)
    return None


def _compare(eqn: Any, a: Any, b: Any) -> Any:
    """As floats, but never equal to an end that is not reached."""
    dtype = next(v.aval.dtype for v in eqn.invars)
    return _jax.bind(eqn, [jnp.asarray(_inside(x, dtype), dtype) for x in (a, b)])[0]


def _inside(x: Any, dtype: Any) -> Any:
    unit = _unit(x)
    if unit is None:
        return plain(x)
    return jnp.clip(plain(x), jnp.finfo(dtype).tiny, 1 - jnp.finfo(dtype).epsneg)


def _same(eqn: Any, x: Any) -> Any:
    return x if jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating) else None


_MAKERS = ("exp", "logistic")
_RULES: dict[str, Callable[..., Any]] = {
    "neg": _neg,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "pow": lambda _, x, p: _power(x, p),
    "integer_pow": lambda eqn, x: _power(x, eqn.params["y"]),
    "square": lambda _, x: _power(x, 2),
    "sqrt": lambda _, x: _power(x, 0.5),
    "rsqrt": lambda _, x: _power(x, -0.5),
    "cbrt": lambda _, x: _power(x, 1 / 3),
    "log": _log,
    "log1p": _log1p,
    "exp": _exp,
    "logistic": _logistic,
    "logit": _logit,
    "tan": _tan,
    "ndtri": _ndtri,
    "erf_inv": _erf_inv,
    "atanh": _atanh,
    "select_n": _select_n,
    "convert_element_type": _same,
    "copy": _same,
    **dict.fromkeys("eq ne lt le gt ge".split(), _compare),
}
