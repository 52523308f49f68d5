"""Evaluates jaxprs in NumPy on many lanes at once, without compiling anything.

XLA takes seconds to compile a random program, which runs in milliseconds. Here loops are Python's,
and calls are inlined. Random keys are 64-bit numbers of a counter-based generator.
"""

# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special as special

from ppgen import _jax
from ppgen.testing._lane_axes import aligned, full, lanes_of, rank
from ppgen.testing._lane_rules import RULES

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = 10_000

Choose = Callable[[Any, Sequence[Any]], list[Any]]


class Unsupported(Exception):
    """A program that cannot be evaluated here; it says nothing about the program."""


def mix(x: Any) -> Any:
    """A hash of 64-bit numbers (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):  # which is what makes it a hash
        x = np.asarray(x).astype(np.uint64) + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


class Lanes:
    """An evaluator of jaxprs.

    Attributes:
        double: compute in float64 what the jaxpr has in float32.
        choose: makes the random choices of a staged program; `None` where there are none left.
    """

    def __init__(self, *, double: bool = False, choose: Choose | None = None) -> None:
        self.double, self.choose = double, choose

    def __call__(self, jaxpr: Any, args: Sequence[Any]) -> list[Any]:
        """The outputs of a jaxpr, of arguments with their lanes in front."""
        jaxpr, consts = _jax.open_jaxpr(jaxpr)
        env: dict[Any, np.ndarray] = {}

        def read(v: Any) -> Any:
            return self._constant(v.val) if isinstance(v, _jax.Literal) else env[v]

        env.update(zip(jaxpr.constvars, map(self._constant, consts), strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        last = _last_uses(jaxpr)
        for i, eqn in enumerate(jaxpr.eqns):
            outs = self._equation(eqn, [read(v) for v in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))
            for v in last[i]:
                env.pop(v, None)
        return [read(v) for v in jaxpr.outvars]

    def _constant(self, x: Any) -> Any:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = np.asarray(jax.random.key_data(x)).astype(np.uint64)
            return mix(mix(data[..., 0]) ^ data[..., -1])
        return self._typed(np.asarray(x))

    def _typed(self, x: Any, dtype: Any = None) -> Any:
        dtype = x.dtype if dtype is None else dtype
        if self.double and dtype == np.float32:
            dtype = np.float64
        return x if x.dtype == dtype else x.astype(dtype)

    def _equation(self, eqn: Any, values: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        outs = RULES[name](eqn, *values) if name in RULES else NotImplemented
        if outs is not NotImplemented:
            pass
        elif name in _KEYS:
            if self.choose is not None and name in ("random_bits", "random_gamma"):
                raise Unsupported("draws from a raw key")
            outs = _KEYS[name](eqn, *values)
        elif name in _CONTROL:
            outs = _CONTROL[name](self, eqn, values)
        elif name in ("random_choice", "sample_site", "fresh_key"):
            if self.choose is None:
                raise Unsupported(f"{name} outside of a staged program")
            outs = self.choose(eqn, values)
        elif inner := _jax.subjaxprs(eqn):
            outs = self(inner[0], values)
        else:
            outs = _by_jax(eqn, values, self.double)
        outs = outs if isinstance(outs, (list, tuple)) else [outs]
        return [self._as(x, v) for x, v in zip(outs, eqn.outvars, strict=True)]

    def _as(self, x: Any, v: Any) -> Any:
        dtype = v.aval.dtype
        return x if jnp.issubdtype(dtype, jax.dtypes.extended) else self._typed(x, dtype)

    def scan(self, eqn: Any, values: list[Any]) -> list[Any]:
        consts, carried = _jax.scan_counts(eqn)
        length, body = eqn.params["length"], eqn.params["jaxpr"]
        carry = values[consts : consts + carried]
        xs = values[consts + carried :]
        of_xs = eqn.invars[consts + carried :]
        steps = range(length)[::-1] if eqn.params["reverse"] else range(length)
        ys: dict[int, list[Any]] = {}
        for k in steps:
            one = [np.take(x, k, axis=-rank(v)) for x, v in zip(xs, of_xs, strict=True)]
            out = self(body, [*values[:consts], *carry, *one])
            carry, ys[k] = out[:carried], out[carried:]
        stacked = []
        for j, v in enumerate(eqn.outvars[carried:]):
            own = v.aval.shape[1:]
            parts = [ys[k][j] for k in range(length)]
            if not parts:
                stacked.append(np.zeros(v.aval.shape, v.aval.dtype))
                continue
            lanes = np.broadcast_shapes(*(p.shape[: p.ndim - len(own)] for p in parts))
            stacked.append(np.stack([full(p, own, lanes) for p in parts], axis=-1 - len(own)))
        return [*carry, *stacked]

    def cond(self, eqn: Any, values: list[Any]) -> list[Any]:
        branches = eqn.params["branches"]
        index = np.clip(values[0].astype(int), 0, len(branches) - 1)
        taken = np.unique(index)
        if len(taken) == 1:
            return self(branches[int(taken[0])], values[1:])
        each = [self(b, values[1:]) if i in taken else None for i, b in enumerate(branches)]
        outs = []
        for j, v in enumerate(eqn.outvars):
            at, out = (
                index.reshape(
                    (
                        *index.shape,
                        *(1,) * rank(v),
                    )
                ),
                None,
            )
            for i, of_branch in enumerate(each):
                if of_branch is not None:
                    out = of_branch[j] if out is None else np.where(at == i, of_branch[j], out)
            outs.append(out)
        return outs

    def while_loop(self, eqn: Any, values: list[Any]) -> list[Any]:
        p = eqn.params
        m, n = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        carry = values[n:]
        # Under `vmap` the predicate has the axes that lead what is carried.
        of_going = rank(_jax.open_jaxpr(p["cond_jaxpr"])[0].outvars[0])
        for _ in range(_STEPS):
            (going,) = self(p["cond_jaxpr"], [*values[:m], *carry])
            if not np.any(going):
                return carry
            new = self(p["body_jaxpr"], [*values[m:n], *carry])
            carry = (
                new
                if np.all(going)
                else [
                    np.where(going.reshape((*going.shape, *(1,) * (rank(v) - of_going))), a, b)
                    for a, b, v in zip(new, carry, eqn.outvars, strict=True)
                ]
            )
        raise Unsupported(f"a loop of more than {_STEPS} steps")


_CONTROL = {"scan": Lanes.scan, "cond": Lanes.cond, "while": Lanes.while_loop}


@functools.lru_cache(maxsize=512)
def _last_uses(jaxpr: Any) -> list[list[Any]]:
    """For each equation, the variables that are not read after it."""
    seen = {v for v in jaxpr.outvars if not isinstance(v, _jax.Literal)}
    out: list[list[Any]] = []
    for eqn in reversed(jaxpr.eqns):
        done = [v for v in eqn.invars if not isinstance(v, _jax.Literal) and v not in seen]
        done += [v for v in eqn.outvars if v not in seen]
        seen.update(v for v in eqn.invars if not isinstance(v, _jax.Literal))
        out.append(list(dict.fromkeys(done)))
    return out[::-1]


def _by_jax(eqn: Any, values: list[Any], double: bool = False) -> Any:
    """A primitive without a rule here, evaluated by JAX, lane by lane."""
    if any(jnp.issubdtype(v.aval.dtype, jax.dtypes.extended) for v in eqn.invars):
        raise Unsupported(f"{eqn.primitive.name} of a key")
    lanes = lanes_of(eqn, values)
    count = math.prod(lanes)
    flat = [
        np.ascontiguousarray(full(x, v.aval.shape, lanes)).reshape((count, *v.aval.shape))
        for x, v in zip(values, eqn.invars, strict=True)
    ]
    if not double:
        flat = [x.astype(v.aval.dtype) for x, v in zip(flat, eqn.invars, strict=True)]
    with jax.enable_x64(double):  # slopes need all of the precision that the values have
        out = jax.vmap(lambda *xs: _jax.bind(eqn, xs))(*flat)
    return [
        np.asarray(x).reshape(
            (
                *lanes,
                *v.aval.shape,
            )
        )
        for x, v in zip(out, eqn.outvars, strict=True)
    ]


def _random_bits(eqn: Any, key: Any) -> Any:
    width, shape = eqn.params["bit_width"], eqn.params["shape"]
    counter = np.arange(int(np.prod(shape)), dtype=np.uint64).reshape(shape)
    key = key.reshape(
        (
            *key.shape,
            *(1,) * len(shape),
        )
    )
    bits = mix(key + np.uint64(0x5851F42D4C957F2D) + counter * _GOLDEN)
    return (bits >> np.uint64(64 - width)).astype(f"uint{width}")


def _random_split(eqn: Any, key: Any) -> Any:
    shape = eqn.params["shape"]
    counter = np.arange(1, 1 + int(np.prod(shape)), dtype=np.uint64).reshape(shape)
    return mix(
        key.reshape(
            (
                *key.shape,
                *(1,) * len(shape),
            )
        )
        ^ mix(counter)
    )


def _random_gamma(eqn: Any, key: Any, alpha: Any) -> Any:
    # One key may serve several elements.
    more = eqn.invars[1].aval.shape[rank(eqn.invars[0]) :]
    counter = np.arange(math.prod(more), dtype=np.uint64).reshape(more)
    key = key.reshape((*key.shape, *(1,) * len(more))) + counter * _GOLDEN
    u = ((mix(key ^ _GOLDEN) >> np.uint64(11)) + 0.5) * 2.0**-53
    x = special.gammaincinv(alpha.astype(float), u)
    return np.log(x) if eqn.params["log_space"] else x


def _fold_in(eqn: Any, key: Any, data: Any) -> Any:
    key, data = aligned(eqn, [key, data])
    return mix(key ^ mix(data.astype(np.uint64) * np.uint64(3) + np.uint64(7)))


def _unwrap(eqn: Any, key: Any) -> Any:
    return np.stack([key >> np.uint64(32), key & np.uint64(0xFFFFFFFF)], axis=-1)


_KEYS: dict[str, Callable[..., Any]] = {
    "random_bits": _random_bits,
    "random_split": _random_split,
    "random_gamma": _random_gamma,
    "random_fold_in": _fold_in,
    "random_seed": lambda eqn, seed: mix(seed.astype(np.uint64) + np.uint64(11)),
    "random_unwrap": _unwrap,
    "random_wrap": lambda eqn, data: (
        (data[..., 0].astype(np.uint64) << np.uint64(32)) | data[..., -1].astype(np.uint64)
    ),
}


def keys(count: int, seed: int) -> Any:
    """One key for each lane."""
    return mix(mix(np.uint64(seed)) ^ mix(np.arange(count, dtype=np.uint64)))
