"""Rules of influence against what primitives do: which results change when one element does."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppgen import _jax
from ppgen._analysis import propagation
from ppgen._analysis.influence import Influence

SHAPES = [(3, 4), (4, 3, 2), (1, 3), (3, 1, 2), (0, 2), (3,)]


@dataclasses.dataclass
class Case:
    """A function of arrays, and the arrays, of which those of floats are perturbed."""

    fn: Any
    args: list[Any]


def draw(rng: np.random.Generator, kind: str) -> Case:
    shape = SHAPES[rng.integers(len(SHAPES))]
    x = np.asarray(rng.permutation(int(np.prod(shape))).reshape(shape), np.float32) + 0.5
    axis = int(rng.integers(len(shape)))
    reverse = bool(rng.integers(2))
    if kind in CUMULATIVE:
        return Case(lambda x: getattr(lax, kind)(x, axis, reverse=reverse), [x])
    if kind in REDUCTIONS:
        axes = tuple(a for a in range(x.ndim) if rng.integers(2) or a == axis)
        return Case(lambda x: REDUCTIONS[kind](x, axis=axes), [x + (x.size == 0)])
    if kind == "top_k":
        k = int(rng.integers(shape[axis] + 1))
        return Case(lambda x: lax.top_k(x, k, axis=axis)[0], [x])
    if kind == "sort":
        return Case(lambda x: lax.sort([x, x], dimension=axis, num_keys=1), [x])
    if kind == "transpose":
        order = rng.permutation(x.ndim).tolist()
        return Case(lambda x: lax.transpose(x, order), [x])
    if kind == "rev":
        return Case(lambda x: lax.rev(x, (axis,)), [x])
    if kind == "reshape":
        new = (x.size,) if rng.integers(2) else shape[::-1]
        return Case(lambda x: lax.reshape(x, new), [x])
    if kind == "broadcast_in_dim":
        where = sorted(rng.choice(x.ndim + 1, x.ndim, replace=False).tolist())
        new = [2] * (x.ndim + 1)
        for k, w in enumerate(where):
            new[w] = shape[k] if shape[k] != 1 or rng.integers(2) else 3
        return Case(lambda x: lax.broadcast_in_dim(x, new, where), [x])
    if kind == "slice":
        start = [int(rng.integers(n + 1)) for n in shape]
        strides = rng.integers(1, 3, x.ndim).tolist()
        return Case(lambda x: lax.slice(x, start, shape, strides), [x])
    if kind == "pad":
        config = [(int(rng.integers(-1, 2)), int(rng.integers(2)), int(rng.integers(2)))] * x.ndim
        if 0 in shape:
            config = [(1, 0, 0)] * x.ndim
        return Case(lambda x, v: lax.pad(x, v, config), [x, np.float32(0.25)])
    if kind == "concatenate":
        return Case(lambda x, y: lax.concatenate([x, y], axis), [x, x + 100])
    if kind == "split":
        sizes = [shape[axis] // 2, shape[axis] - shape[axis] // 2]
        return Case(lambda x: lax.split(x, sizes, axis), [x])
    if kind == "squeeze":
        return Case(lambda x: lax.squeeze(x[None, :, None], (0, 2)), [x])
    if kind == "select_n":
        return Case(lambda x, y: lax.select_n(x > 2, x, y), [x, x + 100])
    if kind == "dot_general":
        batch = [a for a in range(x.ndim) if a != axis and rng.integers(2)]
        numbers = (((axis,), (axis,)), (batch, batch))
        return Case(lambda x, y: lax.dot_general(x, y, numbers), [x, x + 1])
    if kind == "gather":
        index = rng.integers(-1, shape[axis] + 1, 3)
        mode = ["clip", "fill", "wrap"][rng.integers(3)] if x.size else "fill"
        return Case(lambda x: jnp.take(x, index, axis, mode=mode), [x])
    if kind == "dynamic_slice":
        sizes = [int(rng.integers(n + 1)) for n in shape]
        return Case(lambda x: lax.dynamic_slice(x, [0] * x.ndim, sizes), [x])
    assert kind == "dynamic_update_slice"
    part = x[tuple(slice(int(rng.integers(n + 1))) for n in shape)]
    return Case(lambda x, y: lax.dynamic_update_slice(x, y + 50, [0] * x.ndim), [x, part])


CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
REDUCTIONS = {"reduce_sum": jnp.sum, "reduce_prod": jnp.prod}
KINDS = (
    *CUMULATIVE,
    *REDUCTIONS,
    *"top_k sort transpose rev reshape broadcast_in_dim slice pad concatenate split".split(),
    *"squeeze select_n dot_general gather dynamic_slice dynamic_update_slice".split(),
)


def wrongs(case: Case) -> list[str]:
    """Where an element changed that, by the rules, does not depend on the one that was changed."""
    args = [jnp.asarray(a) for a in case.args]
    jaxpr, consts = _jax.open_jaxpr(jax.make_jaxpr(case.fn)(*args))
    base = [np.asarray(y) for y in jax.tree.leaves(case.fn(*args))]
    found = []
    for i, x in enumerate(args):
        env: dict[Any, Influence] = {v: Influence() for v in (*jaxpr.constvars, *jaxpr.invars)}
        env[jaxpr.invars[i]] = Influence(aligned={0: tuple((k, "=") for k in range(x.ndim))})
        if not x.ndim:
            env[jaxpr.invars[i]] = Influence(mixed=1)
        for eqn in _flat(jaxpr):
            ins = [Influence() if isinstance(v, _jax.Literal) else env[v] for v in eqn.invars]
            one = [j if j.choices() else propagation.NONE for j in ins]
            env.update(zip(eqn.outvars, propagation.propagate(eqn, one), strict=True))
        if not x.size:
            continue
        rows = np.repeat(np.asarray(x)[None], x.size, 0).reshape(x.size, -1)
        rows += 1000.0 * np.eye(x.size, dtype=rows.dtype)
        mapped = [0 if k == i else None for k in range(len(args))]
        changed = [*args[:i], rows.reshape(x.size, *x.shape), *args[i + 1 :]]
        news = jax.tree.leaves(jax.vmap(case.fn, mapped)(*changed))
        for n, at in enumerate(np.ndindex(x.shape)):
            for v, old, new in zip(jaxpr.outvars, base, news, strict=True):
                new = np.asarray(new)[n]
                differs = ~((old == new) | (np.isnan(old) & np.isnan(new)))
                for out in np.argwhere(differs):
                    found += _unforeseen(env[v], at, out)
    return found


def _flat(jaxpr):
    for eqn in jaxpr.eqns:
        assert not _jax.subjaxprs(eqn), f"{eqn.primitive} hides the primitive"
        yield eqn


def _unforeseen(influence: Influence, at, out) -> list[str]:
    if influence.mixed:
        return []
    if 0 not in influence.aligned:
        return [f"{out} changed, which nothing influences"]
    for a, place in zip(at, influence.aligned[0], strict=True):
        if place is None:
            continue
        b = out[place[0]]
        if not {"=": a == b, "<": a <= b, ">": a >= b}[place[1]]:
            return [f"{at} changed {tuple(out)}, not as {influence.aligned[0]}"]
    return []


def found_by(kind: str, draws: int) -> list[str]:
    rng = np.random.default_rng(0)
    with jax.disable_jit():
        return [w for _ in range(draws) for w in wrongs(draw(rng, kind))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_foresees_every_change(kind):
    assert not found_by(kind, 4)


def test_a_planted_rule_is_found(monkeypatch):
    planted = lambda eqn, ins: [ins[0]] * len(eqn.outvars)  # noqa: E731
    for kind in ("top_k", "sort", "rev", "cumsum"):
        monkeypatch.setitem(propagation.RULES, kind, planted)
        assert found_by(kind, 4), kind
