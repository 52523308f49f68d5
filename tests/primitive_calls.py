"""Small calls of every primitive that a table speaks of: operands, parameters, axes, types.

One generator for all proofs of rules. A call is one equation with its operands, so that a rule sees
what it sees in a program, and what the primitive does is evaluated by JAX alone.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppgen import _derivatives, _jax
from ppgen._evaluation import control_flow
from ppgen._sampling import implicit
from ppgen._staging import primitives

SHAPES = [(3, 4), (3, 3), (4, 3, 2), (1, 3), (3, 1, 2), (0, 2), (3,)]
ODDS = [0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1]

SINCE = {"log2": (0, 12), "one_minus_square": (0, 12)}
"""The versions of JAX from which on there is a primitive, where it is not in all that we run on."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One equation and its operands.

    Attributes:
        eqn: the equation.
        operands: NumPy arrays.
        run: operands to results.
    """

    eqn: Any
    operands: list[np.ndarray]
    run: Callable[..., list[Any]]

    def __call__(self, *operands: Any) -> list[np.ndarray]:
        """The results, as NumPy arrays."""
        with np.errstate(all="ignore"):
            return [np.asarray(y) for y in self.run(*operands)]

    def real(self) -> list[int]:
        """The positions of the operands of floating-point or complex numbers."""
        return [k for k, x in enumerate(self.operands) if jnp.issubdtype(x.dtype, jnp.inexact)]


def draw(rng: np.random.Generator, name: str) -> Call | None:
    """A call of a primitive, or nothing where this JAX does not have it."""
    if name in SINCE and jax.__version_info__ < SINCE[name]:
        return None
    fn, args = MAKERS[name](rng)
    jaxpr, consts = _jax.open_jaxpr(jax.make_jaxpr(fn)(*args))
    reached = _reach(jaxpr, consts, args, name)
    assert reached is not None, f"no {name} in {jaxpr}"
    eqn, operands = reached
    if "shard_map" in {e.primitive.name for e in jaxpr.eqns}:  # not to be had outside of it
        return Call(
            eqn, [np.asarray(a) for a in args], jax.jit(lambda *xs: jax.tree.leaves(fn(*xs)))
        )
    return Call(eqn, operands, jax.jit(partial(_bind, eqn)))


def _bind(eqn: Any, *xs: Any) -> list[Any]:
    return _jax.bind(eqn, xs)


def _reach(jaxpr: Any, consts: Any, args: Any, name: str) -> tuple[Any, list[np.ndarray]] | None:
    """The first equation of a primitive, and its operands."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        ins = [v.val if isinstance(v, _jax.Literal) else env[v] for v in eqn.invars]
        if eqn.primitive.name == name:
            return eqn, [np.asarray(x, v.aval.dtype) for x, v in zip(ins, eqn.invars, strict=True)]
        for inner in _jax.subjaxprs(eqn):
            opened, inside = _jax.open_jaxpr(inner)
            if found := _reach(opened, inside, ins, name):
                return found
        env.update(zip(eqn.outvars, _jax.bind(eqn, ins), strict=True))
    return None


@cache
def _all() -> dict[str, Any]:
    return {o.name: o for o in gc.get_objects() if isinstance(o, Primitive)}


def exists(name: str) -> bool:
    """Whether this JAX, or ppgen, has a primitive of this name."""
    return name in _all()


# --- operands -------------------------------------------------------------------------------------


def a_shape(rng: np.random.Generator, least: int = 0) -> tuple[int, ...]:
    while True:
        shape = SHAPES[rng.choice(len(SHAPES), p=ODDS)]
        if least == 0 or min(shape) >= least:
            return shape


def reals(rng: np.random.Generator, shape: Sequence[int], low: float = -2.0, high: float = 2.0):
    """Different numbers, in no order."""
    size = int(np.prod(shape))
    x = low + (high - low) * (rng.permutation(size) + rng.uniform(0.2, 0.8, size)) / max(size, 1)
    return x.reshape(shape).astype(np.float32)


def complexes(rng: np.random.Generator, shape: Sequence[int]):
    return (reals(rng, shape) + 1j * reals(rng, shape)).astype(np.complex64)


def integers(rng: np.random.Generator, shape: Sequence[int], low: int = -9, high: int = 10):
    return rng.integers(low, high, shape).astype(np.int32)


def booleans(rng: np.random.Generator, shape: Sequence[int]):
    return rng.integers(0, 2, shape).astype(bool)


def one_of(rng: np.random.Generator, *items: Any) -> Any:
    return items[rng.integers(len(items))]


Maker = Callable[[np.random.Generator], tuple]


def unary(fn: Callable, low: float = -2.0, high: float = 2.0, *others: Callable) -> Maker:
    """Of real numbers in a range, and of what `others` draw."""

    def maker(rng):
        kinds = [lambda rng, shape: reals(rng, shape, low, high), *others]
        return fn, [one_of(rng, *kinds)(rng, a_shape(rng))]

    return maker


def naryop(fn: Callable, *kinds: Callable, stretch: bool = True) -> Maker:
    """Of operands of one shape, each of its kind, of which JAX stretches axes of length one."""

    def maker(rng):
        shapes = [a_shape(rng)] * len(kinds)
        if stretch and len(kinds) > 1 and rng.integers(3) == 0:
            short, axis = rng.integers(len(kinds)), rng.integers(len(shapes[0]))
            cut = tuple(1 if k == axis and n else n for k, n in enumerate(shapes[0]))
            shapes = [cut if k == short else shape for k, shape in enumerate(shapes)]
        return fn, [kind(rng, shape) for kind, shape in zip(kinds, shapes, strict=True)]

    return maker


def either(*makers: Maker) -> Maker:
    return lambda rng: one_of(rng, *makers)(rng)


def between(low: float, high: float) -> Callable:
    return lambda rng, shape: reals(rng, shape, low, high)


def _axis(rng, x) -> int:
    return int(rng.integers(x.ndim))


def _axes(rng, x) -> tuple[int, ...]:
    least = _axis(rng, x)
    return tuple(a for a in range(x.ndim) if rng.integers(2) or a == least)


# --- elementwise ----------------------------------------------------------------------------------


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


# --- axes -----------------------------------------------------------------------------------------


def _reduction(name: str) -> Maker:
    def maker(rng):
        bits = name in ("reduce_and", "reduce_or", "reduce_xor")
        kinds = [integers, booleans] if bits else [reals, integers]
        if name in ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"):
            kinds.append(complexes)
        x = one_of(rng, *kinds)(rng, a_shape(rng))
        axes = _axes(rng, x)
        return lambda x: getattr(lax, name)(x, axes), [x]

    return maker


def _arg(name: str) -> Maker:
    def maker(rng):
        x = reals(rng, a_shape(rng, 1))
        axis = _axis(rng, x)
        return lambda x: getattr(lax, name)(x, axis, np.dtype("int32")), [x]

    return maker


def _cumulative(name: str) -> Maker:
    def maker(rng):
        x = one_of(rng, reals, integers, complexes)(rng, a_shape(rng))
        if name == "cumlogsumexp":
            x = reals(rng, x.shape)
        axis, reverse = _axis(rng, x), bool(rng.integers(2))
        return lambda x: getattr(lax, name)(x, axis, reverse), [x]

    return maker


def _top_k(rng):
    x = reals(rng, a_shape(rng))
    axis = _axis(rng, x)
    k = int(rng.integers(x.shape[axis] + 1))
    return lambda x: lax.top_k(x, k, axis=axis), [x]


def _sort(rng):
    x = one_of(rng, reals, complexes, integers)(rng, a_shape(rng))
    others = [reals(rng, x.shape) for _ in range(rng.integers(3))]
    keys, stable = int(rng.integers(1, 2 + len(others))), bool(rng.integers(2))
    axis = _axis(rng, x)
    return lambda *xs: lax.sort(xs, axis, is_stable=stable, num_keys=keys), [x, *others]


def _any(rng, least: int = 0):
    return one_of(rng, reals, integers, complexes)(rng, a_shape(rng, least))


def _transpose(rng):
    x = _any(rng)
    order = tuple(rng.permutation(x.ndim).tolist())
    return lambda x: lax.transpose_p.bind(x, permutation=order), [x]


def _rev(rng):
    x = _any(rng)
    return partial(lax.rev, dimensions=_axes(rng, x)), [x]


def _reshape(rng):
    x = _any(rng)
    permuted = tuple(x.shape[k] for k in rng.permutation(x.ndim))
    new = one_of(rng, x.shape, permuted, (x.size,), (*x.shape, 1), (1, *x.shape[::-1]), (x.size, 1))
    order = tuple(rng.permutation(x.ndim).tolist()) if rng.integers(2) else None
    return lambda x: lax.reshape_p.bind(x, new_sizes=new, dimensions=order, sharding=None), [x]


def _broadcast(rng):
    x = _any(rng)
    where = sorted(rng.choice(x.ndim + 1, x.ndim, replace=False).tolist())
    new = [2] * (x.ndim + 1)
    for k, w in enumerate(where):
        new[w] = x.shape[k] if x.shape[k] != 1 or rng.integers(2) else 3
    return lambda x: lax.broadcast_in_dim(x, new, where), [x]


def _slice(rng):
    x = _any(rng)
    start = [int(rng.integers(min(n, 1) + 1)) for n in x.shape]
    limit = [max(s, n - int(rng.integers(2))) for s, n in zip(start, x.shape, strict=True)]
    strides = rng.integers(1, 3, x.ndim).tolist() if rng.integers(2) else None
    return lambda x: lax.slice_p.bind(
        x,
        start_indices=tuple(start),
        limit_indices=tuple(limit),
        strides=strides and tuple(strides),
    ), [x]


def _pad(rng):
    x = _any(rng)
    # What is cut off an axis is less than what it has.
    config = [tuple(rng.integers([-(n > 2), -(n > 1), 0], 2).tolist()) for n in x.shape]
    value = np.zeros((), x.dtype) if rng.integers(2) else np.asarray(7, x.dtype)
    return lambda x, v: lax.pad(x, v, config), [x, value]


def _concatenate(rng):
    x = _any(rng)
    axis, count = _axis(rng, x), int(rng.integers(1, 4))
    parts = [(x + k).astype(x.dtype) for k in range(count)]
    return lambda *xs: lax.concatenate_p.bind(*xs, dimension=axis), parts


def _split(rng):
    x = _any(rng)
    axis = _axis(rng, x)
    n = x.shape[axis]
    return lambda x: lax.split(x, [n // 2, n - n // 2], axis), [x]


def _squeeze(rng):
    x = _any(rng)
    where = tuple(sorted({0, *rng.integers(0, 2, 1).tolist()}))
    return partial(lax.squeeze, dimensions=where), [x[(None,) * len(where)]]


def _stack(rng):
    x = _any(rng)
    axis = int(rng.integers(x.ndim + 1))
    return lambda *xs: lax.stack_p.bind(*xs, axis=axis), [x, x + 1]


def _unstack(rng):
    x = _any(rng, 1)
    axis = _axis(rng, x)
    return lambda x: lax.unstack_p.bind(x, axis=axis), [x]


def _tile(rng):
    x = _any(rng)
    reps = tuple(rng.integers(1, 3, x.ndim).tolist())
    return lambda x: lax.tile_p.bind(x, reps=reps), [x]


def _iota(rng):
    shape = a_shape(rng)
    axis = int(rng.integers(len(shape)))
    dtype = one_of(rng, np.int32, np.float32)
    return lambda: lax.broadcasted_iota(dtype, shape, axis), []


# --- indices --------------------------------------------------------------------------------------


def _dynamic_slice(rng):
    x = _any(rng)
    sizes = [int(rng.integers(n + 1)) for n in x.shape]
    starts = [integers(rng, (), -2, n + 2) for n in x.shape]
    return lambda x, *i: lax.dynamic_slice(x, i, sizes), [x, *starts]


def _dynamic_update_slice(rng):
    x = _any(rng)
    part = x[tuple(slice(int(rng.integers(n + 1))) for n in x.shape)]
    starts = [integers(rng, (), -2, n + 2) for n in x.shape]
    return lambda x, y, *i: lax.dynamic_update_slice(x, y, i), [
        x,
        (part + 50).astype(x.dtype),
        *starts,
    ]


_MODES = ["clip", "fill", "promise_in_bounds"]


def _gather(rng):
    x = _any(rng)
    axis = one_of(rng, *(k for k, n in enumerate(x.shape) if n))
    n = x.shape[axis]
    mode = one_of(rng, *_MODES) if x.size else "fill"
    inside = mode == "promise_in_bounds"
    index = integers(
        rng, one_of(rng, (2,), (2, 3), ()), 0 if inside else -1, max(n, 1) + (not inside)
    )
    fill = one_of(rng, None, 0, 3) if mode == "fill" else None
    kind = int(rng.integers(3))
    if kind == 0 or x.ndim < 2 or not x.size:  # along one axis, like jnp.take
        dims = lax.GatherDimensionNumbers(
            offset_dims=tuple(
                k if k < axis else k + index.ndim - 1 for k in range(x.ndim) if k != axis
            ),
            collapsed_slice_dims=(axis,),
            start_index_map=(axis,),
        )
        sizes = [1 if k == axis else m for k, m in enumerate(x.shape)]
        start = index[..., None]
    elif kind == 1:  # a window at a place, of which one axis goes
        sizes = [1, *(int(rng.integers(1, m + 1)) for m in x.shape[1:])]
        start = integers(rng, (2, x.ndim), 0, 1 if inside else 4)
        order = tuple(rng.permutation(x.ndim).tolist())
        dims = lax.GatherDimensionNumbers(
            offset_dims=tuple(range(1, x.ndim)), collapsed_slice_dims=(0,), start_index_map=order
        )
    else:  # an index for each element of the first axis
        top = 0 if inside else -1
        start = integers(rng, (x.shape[0], 2, 1), top, x.shape[1] - top - 1 or 1)
        sizes = [1, 1, *x.shape[2:]]
        dims = lax.GatherDimensionNumbers(
            offset_dims=tuple(range(2, x.ndim)),
            collapsed_slice_dims=(1,),
            start_index_map=(1,),
            operand_batching_dims=(0,),
            start_indices_batching_dims=(0,),
        )
    one = start[..., 0].size == 1  # in order, and not twice
    return lambda x, i: lax.gather(
        x, i, dims, sizes, mode=mode, fill_value=fill, unique_indices=one, indices_are_sorted=one
    ), [x, start]


def _scatter(fn: Callable) -> Maker:
    def maker(rng):
        x = reals(rng, a_shape(rng, 1))
        axis = _axis(rng, x)
        index = integers(rng, (2, 1), -1, x.shape[axis] + 1)
        rest = tuple(n for k, n in enumerate(x.shape) if k != axis)
        dims = lax.ScatterDimensionNumbers(
            update_window_dims=tuple(range(1, x.ndim)),
            inserted_window_dims=(axis,),
            scatter_dims_to_operand_dims=(axis,),
        )
        mode = one_of(rng, "clip", "fill")
        return lambda x, i, u: fn(x, i, u, dims, mode=mode), [x, index, reals(rng, (2, *rest))]

    return maker


# --- products, windows, linear algebra ------------------------------------------------------------


def _dot(rng):
    x = one_of(rng, reals, complexes)(rng, a_shape(rng))
    axis = _axis(rng, x)
    batch = tuple(a for a in range(x.ndim) if a != axis and rng.integers(2))
    numbers = (((axis,), (axis,)), (batch, batch))
    kind = one_of(rng, None, x.dtype)
    return lambda x, y: lax.dot_general(x, y, numbers, preferred_element_type=kind), [x, x + 1]


def _conv(rng):
    groups, batches = one_of(rng, (1, 1), (2, 1), (1, 2))
    x = reals(rng, (2, 2, 4))
    w = reals(rng, (2, 2 // groups, 2))
    spec = one_of(rng, ("NCH", "OIH", "NCH"), ("NCH", "OIH", "NHC"))
    how = {
        "window_strides": (int(rng.integers(1, 3)),),
        "padding": [(int(rng.integers(2)), int(rng.integers(2)))],
        "lhs_dilation": (int(rng.integers(1, 3)),),
        "rhs_dilation": (int(rng.integers(1, 3)),),
    }
    return lambda x, w: lax.conv_general_dilated(
        x, w, **how, dimension_numbers=spec, feature_group_count=groups, batch_group_count=batches
    ), [x, w]


def _window(name: str) -> Maker:
    init, fn = {
        "reduce_window_sum": (0.0, lax.add),
        "reduce_window_max": (-np.inf, lax.max),
        "reduce_window_min": (np.inf, lax.min),
    }[name]

    def maker(rng):
        x = reals(rng, one_of(rng, (3, 4), (4,), (1, 3)))
        window = [int(rng.integers(1, n + 1)) for n in x.shape]
        strides = rng.integers(1, 3, x.ndim).tolist()
        padding = [(int(rng.integers(2)), int(rng.integers(2))) for _ in x.shape]
        return lambda x: lax.reduce_window(x, init, fn, window, strides, padding), [x]

    return maker


def _matrices(rng, rows: int = 3, columns: int = 3):
    batch = one_of(rng, (), (2,), (1,), (2, 3))
    return one_of(rng, reals, reals, complexes)(rng, (*batch, rows, columns))


def _positive(rng):
    x = _matrices(rng)
    y = np.einsum("...ij,...kj->...ik", x, x.conj()) + 2 * np.eye(3)
    return y.astype(x.dtype)


def _triangular(rng):
    a = _positive(rng)
    b = (a[..., :2] + 1).astype(a.dtype)
    how = {
        "left_side": True,
        "lower": bool(rng.integers(2)),
        "transpose_a": bool(rng.integers(2)),
        "conjugate_a": bool(rng.integers(2)),
        "unit_diagonal": bool(rng.integers(2)),
    }
    return lambda a, b: lax.linalg.triangular_solve(a, b, **how), [a, b]


def _qr(rng):
    full = bool(rng.integers(2))
    x = _matrices(rng, 3, 2)
    return lambda x: lax.linalg.qr(x, full_matrices=full), [x]


def _eigh(rng):
    lower = bool(rng.integers(2))
    return partial(lax.linalg.eigh, lower=lower, symmetrize_input=False), [_positive(rng)]


def _svd(rng):
    vectors = bool(rng.integers(2))
    how = {"full_matrices": bool(rng.integers(2)), "compute_uv": vectors}
    return lambda x: lax.linalg.svd(x, **how), [_matrices(rng, 3, 2)]


def _householder(rng):
    a = _matrices(rng, 3, 2)
    return lax.linalg.householder_product, [a, a[..., 0, :]]


def _fft(rng):
    kind = one_of(rng, *jax.lax.FftType)
    x = reals(rng, one_of(rng, (4,), (2, 4)))
    real = kind.name == "RFFT"
    return lambda x: lax.fft(x, kind, (6,) if kind.name == "IRFFT" else (4,)), [
        x if real else x.astype(np.complex64)
    ]


def _solve(rng):
    b = reals(rng, (3,))
    a = np.eye(3, dtype=np.float32) * 2
    solve = lambda _, y: y / 2  # noqa: E731
    return lambda b: lax.custom_linear_solve(lambda x: a @ x, b, solve, solve), [b]


def _callback(fn: Callable) -> Maker:
    def maker(rng):
        x = reals(rng, a_shape(rng))
        return lambda x: fn(np.floor, jax.ShapeDtypeStruct(x.shape, x.dtype), x), [x]

    return maker


# --- ppgen's own, and those between devices -------------------------------------------------------


def _companion(rng):
    x, other = reals(rng, a_shape(rng)), reals(rng, (2,))
    within = (-np.inf, np.inf)
    return lambda x, y: primitives.transformed_p.bind(x, y, within=within), [x, other]


def _implicit(rng):
    x = reals(rng, a_shape(rng))
    functions = (lambda x, p: x * p, lambda x, p: x + p)
    return lambda x, p: implicit._implicit_p.bind(x, p, functions=functions), [x, x + 1]


def _sharded(rng):
    sharding = NamedSharding(_mesh(), PartitionSpec())
    return lambda x: lax.with_sharding_constraint(x, sharding), [reals(rng, (3, 2))]


def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.devices()[:1]), ("i",))


def _between_devices(fn: Callable, *, same: bool = False, checked: bool = True) -> Maker:
    """On one device: that values are moved and added up, and nothing else, shows there too."""

    def maker(rng):
        where = PartitionSpec("i")
        over = jax.shard_map(
            fn,
            mesh=_mesh(),
            in_specs=PartitionSpec() if fn is _vary else where,
            out_specs=PartitionSpec() if same else where,
            check_vma=checked,
        )
        return over, [reals(rng, (2, 3))]

    return maker


def _vary(x):
    return lax.pcast(x, "i", to="varying") if hasattr(lax, "pcast") else lax.pvary(x, "i")


_COLLECTIVES: dict[str, Maker] = {
    "psum": _between_devices(lambda x: lax.psum(x, "i"), checked=False),
    "psum_invariant": _between_devices(lambda x: lax.psum(x, "i"), same=True),
    "pmax": _between_devices(lambda x: lax.pmax(x, "i"), same=True),
    "pmin": _between_devices(lambda x: lax.pmin(x, "i"), same=True),
    "pvary": _between_devices(_vary),
    "all_gather": _between_devices(lambda x: lax.all_gather(x, "i")),
    "all_gather_invariant": _between_devices(
        lambda x: _all()["all_gather_invariant"].bind(
            x, all_gather_dimension=0, axis_name=("i",), axis_size=1, tiled=True
        ),
        same=True,
    ),
    "all_to_all": _between_devices(lambda x: lax.all_to_all(x, "i", 1, 1, tiled=True)),
    "ppermute": _between_devices(lambda x: lax.ppermute(x, "i", [(0, 0)])),
    "reduce_scatter": _between_devices(lambda x: lax.psum_scatter(x, "i", tiled=True)),
}

MAKERS: dict[str, Maker] = {
    **_FUNCTIONS,
    **{
        name: _reduction(name)
        for name in "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or "
        "reduce_xor".split()
    },
    "argmax": _arg("argmax"),
    "argmin": _arg("argmin"),
    **{n: _cumulative(n) for n in "cumsum cumprod cummax cummin cumlogsumexp".split()},
    "top_k": _top_k,
    "sort": _sort,
    "transpose": _transpose,
    "rev": _rev,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "iota": _iota,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "scatter": _scatter(lax.scatter),
    "scatter-add": _scatter(lax.scatter_add),
    "scatter-sub": _scatter(lax.scatter_sub),
    "scatter-mul": _scatter(lax.scatter_mul),
    "scatter-min": _scatter(lax.scatter_min),
    "scatter-max": _scatter(lax.scatter_max),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    **{n: _window(n) for n in ("reduce_window_sum", "reduce_window_max", "reduce_window_min")},
    "cholesky": lambda rng: (
        lambda x: lax.linalg.cholesky(x, symmetrize_input=False),
        [_positive(rng)],
    ),
    "triangular_solve": _triangular,
    "lu": lambda rng: (lax.linalg.lu, [_matrices(rng)]),
    "qr": _qr,
    "eigh": _eigh,
    "svd": _svd,
    "householder_product": _householder,
    "fft": _fft,
    "custom_linear_solve": _solve,
    "optimization_barrier": lambda rng: (lax.optimization_barrier, [reals(rng, a_shape(rng))]),
    "sharding_constraint": _sharded,
    "device_put": lambda rng: (lambda x: jax.device_put(x), [reals(rng, a_shape(rng))]),
    "pure_callback": _callback(jax.pure_callback),
    "io_callback": _callback(io_callback),
    "marker": unary(_own(primitives.marker_p, kind="log_prob", name="x", where="", details=())),
    "assume_continuous": unary(_own(primitives.assume_continuous_p)),
    "transformed": _companion,
    "implicit": _implicit,
    "weighed": naryop(_derivatives._weighed, reals, reals),
    "expected": naryop(_derivatives._expected, reals, reals),
    "shielded": naryop(_derivatives._shielded, reals, reals),
    "counting": naryop(_derivatives._counting, reals, reals),
    "undifferentiable": unary(_own(_derivatives._undifferentiable_p, error=_ERROR)),
    "magic_box": unary(_own(_derivatives._magic_box_p)),
    "deviation": unary(_own(_derivatives._deviation_p)),
    "freeze_once": unary(_own(_derivatives._freeze_once_p)),
    "sealed": unary(_own(_derivatives._sealed_p)),
    "sealed_one": unary(_own(_derivatives._sealed_one_p)),
    "once": unary(_own(_derivatives._once_p, error=_ERROR)),
    "forward_only": unary(_own(control_flow._forward_only_p, error="planted")),
    **_COLLECTIVES,
}
"""For each primitive: `(rng) -> (function, operands, *words)`."""
