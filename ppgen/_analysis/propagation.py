"""How one equation carries influence from its operands to its results, a rule for each primitive.

A rule maps (equation, influences of the operands) to the influence of its result, or a list where
there are several results. Negative axes are the time axes of the scans around an equation; no
operation on arrays moves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex

from ppgen import _jax
from ppgen._analysis.influence import NONE, Alignment, Influence, join
from ppgen._analysis.parameters import rule_name

Rule = Callable[[_jax.Eqn, Sequence[Influence]], Influence]


def _kept(axes: Callable[[int], int | None], influence: Influence) -> Influence:
    def move(axis: int, mode: str) -> Alignment:
        new = axis if axis < 0 else axes(axis)
        return None if new is None else (int(new), mode)  # vmap leaves NumPy integers behind

    return influence.move(move)


def _shape(eqn: _jax.Eqn, i: int = 0) -> tuple[int, ...]:
    return eqn.invars[i].aval.shape


def _elementwise(eqn, ins):
    new = eqn.outvars[0].aval.shape

    def moved(i: Influence, old: tuple[int, ...]) -> Influence:
        if not i.aligned or old == new:
            return i
        if len(old) != len(new):  # a scalar predicate, say
            return i.jumbled()
        # The batching rules of JAX leave axes of length one that stretch against another operand.
        return _kept(lambda k: k if old[k] == new[k] else None, i)

    return join(*(moved(i, _shape(eqn, n)) for n, i in enumerate(ins)))


def _without(
    axes: Iterable[SupportsIndex], *, keep_rank: bool = False
) -> Callable[[int], int | None]:
    dropped = [int(a) for a in axes]  # vmap leaves NumPy integers behind

    def axis(k: int) -> int | None:
        if k in dropped:
            return None
        return k if keep_rank else k - sum(d < k for d in dropped)

    return axis


def _reduce(eqn, ins):
    return join(*(_kept(_without(eqn.params["axes"]), i) for i in ins))


def _broadcast(eqn, ins):
    where = eqn.params["broadcast_dimensions"]
    shape, new = _shape(eqn), eqn.params["shape"]
    # Stretching an axis of length one leaves every element depending on the one there was.
    moved = _kept(lambda k: where[k] if shape[k] == new[where[k]] else None, ins[0])
    return join(moved, *(i.jumbled() for i in ins[1:]))


def _reshape(eqn, ins):
    new = eqn.outvars[0].aval.shape
    # It may transpose first, as `jnp.reshape(x, shape, order="F")` does.
    order = eqn.params.get("dimensions")
    order = range(len(_shape(eqn))) if order is None else order
    old = [_shape(eqn)[k] for k in order]

    def starts(shape):
        # Axes of one length are followed by the number of elements before them.
        product, found = 1, {}
        for k, size in enumerate(shape):
            found.setdefault((product, size), k)
            product *= size
        return found

    places = starts(new)

    def axis(k: int) -> int | None:
        at = list(order).index(k)
        return places.get((math.prod(old[:at]), old[at]))

    return _kept(axis, ins[0])


def _transpose(eqn, ins):
    order = list(eqn.params["permutation"])
    return _kept(order.index, ins[0])


def _squeeze(eqn, ins):
    return _kept(_without(eqn.params["dimensions"]), ins[0])


def _same_size(eqn, ins):
    """Axes that keep their length keep their alignment (slices, pads); indices mix."""
    old, new = _shape(eqn), eqn.outvars[0].aval.shape
    moved = _kept(lambda k: k if old[k] == new[k] else None, ins[0])
    return join(moved, *(i.jumbled() for i in ins[1:]))


def _pad(eqn, ins):
    padded = [k for k, p in enumerate(eqn.params["padding_config"]) if tuple(p) != (0, 0, 0)]
    return join(_kept(_without(padded, keep_rank=True), ins[0]), ins[1].jumbled())


def _dynamic_update_slice(eqn, ins):
    whole, part = _shape(eqn, 0), _shape(eqn, 1)
    moved = [_kept(lambda k: k if whole[k] == part[k] else None, i) for i in ins[:2]]
    return join(*moved, *(i.jumbled() for i in ins[2:]))


def _concatenate(eqn, ins):
    axis = _without([eqn.params["dimension"]], keep_rank=True)
    return join(*(_kept(axis, i) for i in ins))


def _split(eqn, ins):
    axis = _without([eqn.params["axis"]], keep_rank=True)
    return [_kept(axis, ins[0])] * len(eqn.outvars)


def _sort(eqn, ins):
    axis = _without([eqn.params["dimension"]], keep_rank=True)
    return [join(*(_kept(axis, i) for i in ins))] * len(eqn.outvars)


def _top_k(eqn, ins):
    axis = _without([eqn.params["axis"] % len(_shape(eqn))], keep_rank=True)
    return [_kept(axis, ins[0])] * len(eqn.outvars)


def _rev(eqn, ins):
    return _kept(_without(eqn.params["dimensions"], keep_rank=True), ins[0])


def _cumulative(eqn, ins):
    along, toward = eqn.params["axis"], ">" if eqn.params["reverse"] else "<"

    def move(axis: int, mode: str) -> Alignment:
        if axis != along:
            return axis, mode
        return (axis, toward) if mode in ("=", toward) else None

    return ins[0].move(move)


def _dot(eqn, ins):
    (contract, batch) = eqn.params["dimension_numbers"]
    lhs, rhs = len(_shape(eqn, 0)), len(_shape(eqn, 1))
    free = [
        [k for k in range(rank) if k not in (*contract[side], *batch[side])]
        for side, rank in ((0, lhs), (1, rhs))
    ]
    moved = []
    for side, i in enumerate(ins):
        places = [*batch[side], *([None] * len(free[0]) if side else []), *free[side]]
        moved.append(_kept(lambda k, p=places: p.index(k) if k in p else None, i))
    return join(*moved)


def _conv(eqn, ins):
    numbers = eqn.params["dimension_numbers"]
    plain = eqn.params["batch_group_count"] == 1
    batch, out = numbers.lhs_spec[0], numbers.out_spec[0]
    lhs = _kept(lambda k: out if k == batch and plain else None, ins[0])
    return join(lhs, ins[1].jumbled())


def _gather(eqn, ins):
    d = eqn.params["dimension_numbers"]
    shape, sizes = _shape(eqn), eqn.params["slice_sizes"]
    rank = len(eqn.outvars[0].aval.shape)
    # Results have the axes of the indices (less the last, the index vector), in order, around the
    # axes of the slices.
    index_axes = [k for k in range(rank) if k not in d.offset_dims]
    indices = _kept(lambda k: index_axes[k] if k < len(index_axes) else None, ins[1])
    gone = (*d.collapsed_slice_dims, *d.operand_batching_dims)
    slices = dict(zip([k for k in range(len(shape)) if k not in gone], d.offset_dims, strict=True))

    def operand(k: int) -> int | None:
        if k in d.operand_batching_dims:
            paired = d.start_indices_batching_dims[d.operand_batching_dims.index(k)]
            return index_axes[paired]
        return slices[k] if k in slices and sizes[k] == shape[k] else None

    return join(_kept(operand, ins[0]), indices)


def _matrix(eqn, ins):
    """Linear algebra: everything but the last two axes is a batch."""
    outs = []
    for v in eqn.outvars:
        rank = len(v.aval.shape)
        batch = min(len(_shape(eqn, n)) for n in range(len(eqn.invars))) - 2
        moved = [_kept(lambda k, b=batch: k if k < b else None, i) for i in ins]
        outs.append(join(*moved) if rank >= batch else join(*(i.jumbled() for i in ins)))
    return outs


def _implicit(eqn, ins):
    """A sample that moves implicitly: it was drawn from the parameters, but that path is frozen."""
    return join(ins[0], *(i._replace(mixed=0, aligned={}) for i in ins[1:]))


def mixing(eqn: _jax.Eqn, ins: Sequence[Influence]) -> list[Influence]:
    """The rule that is always sound: everything depends on everything."""
    return [join(*(i.jumbled() for i in ins))] * len(eqn.outvars)


_ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
conj convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor
ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le lgamma log log1p log2 logistic lt
max min mul ne neg nextafter not one_minus_square or polygamma population_count pow real
reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left
shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
zeta marker weighed expected shielded counting undifferentiable optimization_barrier
sharding_constraint
"""

RULES: dict[str, Any] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(
        "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax "
        "argmin".split(),
        _reduce,
    ),
    **dict.fromkeys("cumsum cumprod cummax cummin cumlogsumexp".split(), _cumulative),
    **dict.fromkeys("slice dynamic_slice".split(), _same_size),
    **dict.fromkeys("cholesky triangular_solve".split(), _matrix),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "pad": _pad,
    "dynamic_update_slice": _dynamic_update_slice,
    "concatenate": _concatenate,
    "split": _split,
    "sort": _sort,
    "top_k": _top_k,
    "rev": _rev,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "implicit": _implicit,
}


def is_elementwise(eqn: _jax.Eqn) -> bool:
    """Whether every element of the results depends on one element of each operand."""
    return RULES.get(rule_name(eqn)) is _elementwise


def propagate(eqn: _jax.Eqn, ins: Sequence[Influence]) -> list[Influence]:
    """The influence on each result of an equation that calls no jaxpr."""
    if all(i is NONE for i in ins):
        return [NONE] * len(eqn.outvars)
    out = RULES.get(rule_name(eqn), mixing)(eqn, ins)
    return out if isinstance(out, list) else [out] * len(eqn.outvars)
