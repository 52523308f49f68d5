"""Small calls of every primitive that a table speaks of: operands, parameters, axes, types.

One generator for all proofs of rules. A call is one equation with its operands, so that a rule sees
what it sees in a program, and what the primitive does is evaluated by JAX alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback

from ppgen import _derivatives, _jax
from ppgen._evaluation import control_flow
from ppgen._staging import primitives
from primitive_calls.algebra import (
    _callback,
    _conv,
    _dot,
    _eigh,
    _fft,
    _householder,
    _matrices,
    _positive,
    _qr,
    _solve,
    _svd,
    _triangular,
    _window,
)
from primitive_calls.axes import (
    _arg,
    _broadcast,
    _concatenate,
    _cumulative,
    _iota,
    _pad,
    _reduction,
    _reshape,
    _rev,
    _slice,
    _sort,
    _split,
    _squeeze,
    _stack,
    _tile,
    _top_k,
    _transpose,
    _unstack,
)
from primitive_calls.devices import _COLLECTIVES, _companion, _implicit, _sharded
from primitive_calls.elementwise import _ERROR, _FUNCTIONS, _own
from primitive_calls.indices import _dynamic_slice, _dynamic_update_slice, _gather, _scatter
from primitive_calls.operands import Maker, _all, a_shape, naryop, reals, unary

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


def exists(name: str) -> bool:
    """Whether this JAX, or ppgen, has a primitive of this name."""
    return name in _all()


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
