"""An estimate of n particles, and the same estimate of each half of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from ppgen import _jax
from ppgen._analysis.analyse import Analysis, analyse
from ppgen._analysis.propagation import is_elementwise
from ppgen._expectation import checked_cost
from ppgen._interpret import dependent, needed
from ppgen._lowering.lower import lower
from ppgen._settings import settings
from ppgen._staging.primitives import equations, is_random
from ppgen._staging.replay import Drawn, draws_of, run
from ppgen._staging.stage import stage
from ppgen.densities import log_prob
from ppgen.errors import EstimatorError

_INSTEAD = (
    "a family whose n particles are independent draws of one law, such as "
    "`lambda n: iwelbo(model, guide, particles=n)`, or a function of means over `jax.vmap`"
)


# What makes of what is the same for every particle something that is not, or a random number.
_UNEVEN = frozenset(
    "iota pad concatenate stack dynamic_update_slice scatter scatter-add scatter-mul scatter-min "
    "scatter-max cumsum cumprod cummax cummin cumlogsumexp random_bits random_split".split()
)
# What does not, besides what works element by element.
_EVEN = frozenset("broadcast_in_dim reshape squeeze transpose".split())


class Member:
    """The estimate of some number of particles, staged."""

    def __init__(self, estimate: Callable[[], Any], particles: int) -> None:
        """Stage `estimate()`, an estimate of so many particles."""
        self.particles = particles
        staged = stage(lambda: checked_cost(estimate()), in_place=False).jaxpr
        with settings(in_place=False):
            self.jaxpr = lower(staged, sampling=True)
        self.draws = draws_of(self.jaxpr)

    def value(self) -> Array:
        """The estimate, with draws of its own."""
        (value,), _ = run(self.jaxpr, ())
        return value


def halved(whole: Member, half: Member) -> tuple[Array, Array]:
    """The estimate of all particles, and the mean of the estimates of either half of them.

    Raises:
        EstimatorError: the particles are not independent draws of one law, as far as can be seen.
    """
    axes = _particle_axes(whole.draws, half.draws, whole.particles)
    _check_independent(whole, half)
    _check_same_law(whole, half)
    (value,), draws = run(whole.jaxpr, ())
    of_halves = []
    for start in (0, half.particles):
        own = [_part(x, axis, start, half.particles) for x, axis in zip(draws, axes, strict=True)]
        of_halves.append(run(half.jaxpr, (), own)[0][0])
    return value, (of_halves[0] + of_halves[1]) / 2


def _part(x: Array, axis: int | None, start: int, size: int) -> Array:
    return x if axis is None else jax.lax.slice_in_dim(x, start, start + size, axis=axis)


def _particle_axes(whole: list[Drawn], half: list[Drawn], particles: int) -> list[int | None]:
    """Along which axis of each draw the particles lie; `None` for one that all of them share."""
    if [(d.name, d.dtype) for d in whole] != [(d.name, d.dtype) for d in half]:
        raise EstimatorError(
            f"with {particles} particles it draws {[d.name for d in whole]}, with half as many "
            f"{[d.name for d in half]}",
            instead=_INSTEAD,
        )
    found = [_axis(a.shape, b.shape, a.name, particles) for a, b in zip(whole, half, strict=True)]
    for drawn, axis in zip(whole, found, strict=True):
        if axis is not None and axis >= len(drawn.shape) - drawn.dependent:
            raise EstimatorError(
                "its particles are parts of one value of a distribution, which may depend on each "
                "other",
                site=drawn.name,
                instead=_INSTEAD,
            )
    return found


def _axis(whole: tuple[int, ...], half: tuple[int, ...], name: str, particles: int) -> int | None:
    if len(whole) == len(half):
        different = [k for k, (n, m) in enumerate(zip(whole, half, strict=True)) if n != m]
        if not different:
            return None
        (k, *more) = different
        if not more and whole[k] == 2 * half[k]:
            return k
    raise EstimatorError(
        f"with {particles} particles its draw has shape {whole}, with half as many {half}",
        site=name,
        instead=_INSTEAD,
    )


def _check_independent(whole: Member, half: Member) -> None:
    """Refuse draws of a particle that depend on those of others."""
    a, b = (_analysed(m) for m in (whole, half))
    along = [
        None if one.together else _axis(one.shape, other.shape, one.name, whole.particles)
        for one, other in zip(a.choices, b.choices, strict=True)
    ]
    for index, upstream in a.upstream.items():
        choice, own = a.choices[index], along[index]
        for other in upstream.choices():
            if (axis := along[other]) is None:
                continue
            # Its own axes are counted without those of the loops around it.
            place = None if own is None else own - choice.looped
            there = upstream.aligned.get(other)
            if there is None or there[axis] != (place, "="):
                raise EstimatorError(
                    f"what {choice.name!r} draws depends on {a.choices[other].name!r} of other "
                    "particles, so that half of the particles are not a smaller set of them",
                    site=choice.name,
                    where=choice.specs[0].where,
                    instead=_INSTEAD,
                )


def _analysed(member: Member) -> Analysis:
    return analyse(member.jaxpr, allow_biased=True, strict=False)


def _check_same_law(whole: Member, half: Member) -> None:
    """Refuse draws whose distribution differs between particles, or with their number."""
    (eqns, consts), (others, other_consts) = (_law(m.jaxpr) for m in (whole, half))
    same = len(eqns) == len(others) and len(consts) == len(other_consts)
    for (a, fixed), (b, _) in zip(eqns, others, strict=False):
        same = same and a.primitive is b.primitive and _numbers(a) == _numbers(b)
        if _shapes(a) != _shapes(b):
            # Of what draws influence, the influences tell.
            known = a.primitive.name in _EVEN or is_elementwise(a)
            same = same and (known if fixed else a.primitive.name not in _UNEVEN)
    if not same or not all(map(_same_constant, consts, other_consts)):
        raise EstimatorError(
            f"what each of {whole.particles} particles draws does not have the law of each of "
            f"{half.particles}, as far as can be seen",
            instead=_INSTEAD,
        )


def _law(jaxpr: Any) -> tuple[list[tuple[_jax.Eqn, bool]], list[Any]]:
    """What parameters of draws are computed by: equations and constants, those of densities too.

    With each equation comes whether it is known that no draw influences it.
    """
    opened, consts = _jax.open_jaxpr(jaxpr)
    random = [e for e in opened.eqns if is_random(e)]
    upstream = needed(opened, [v for e in random for v in e.invars])
    # Noise from a key is no choice: of that, the influences do not tell.
    chosen = [e for e in random if e.primitive.name != "fresh_key"]
    influenced = dependent(opened, [v for e in chosen for v in e.outvars]).equations
    eqns: list[tuple[_jax.Eqn, bool]] = []
    for eqn in opened.eqns:
        if is_random(eqn):
            eqns += [(e, False) for e in (eqn, *_inside(eqn))]
        elif id(eqn) in upstream.equations:
            fixed = id(eqn) not in influenced
            inside = [(e, fixed) for e in _inside(eqn)]
            eqns += [(eqn, fixed and not inside), *inside]
    used = [c for v, c in zip(opened.constvars, consts, strict=True) if v in upstream.variables]
    for eqn in [e for e, _ in eqns if e.primitive.name == "random_choice"]:
        opened, consts = _jax.open_jaxpr(_density(eqn))
        eqns += [(e, False) for own in opened.eqns for e in (own, *_inside(own))]
        used += consts
    return eqns, used


def _inside(eqn: _jax.Eqn) -> Iterator[_jax.Eqn]:
    for inner in _jax.subjaxprs(eqn):
        yield from equations(inner)


def _density(eqn: _jax.Eqn) -> Any:
    """The density of a choice, in which all that its distribution holds is seen."""
    spec, n = eqn.params["spec"], eqn.params["spec"].num_dist
    values = jax.ShapeDtypeStruct(spec.shape, spec.dtype)
    lanes = [sum(flags) for flags in eqn.params["mapped"][:n]]
    shapes = [v.aval.shape[k:] for v, k in zip(eqn.invars[:n], lanes, strict=True)]
    leaves = [
        jax.ShapeDtypeStruct(s, v.aval.dtype) for s, v in zip(shapes, eqn.invars[:n], strict=True)
    ]
    return jax.make_jaxpr(lambda x, *leaves: log_prob(spec.dist.build(leaves), x))(values, *leaves)


def _numbers(eqn: _jax.Eqn) -> list[Any]:
    """The literals among the operands of an equation, and the numbers among its parameters."""
    literals = [float(v.val) if isinstance(v, _jax.Literal) else None for v in eqn.invars]
    return literals + [p for p in eqn.params.values() if isinstance(p, int | float | str)]


def _shapes(eqn: _jax.Eqn) -> list[tuple[int, ...]]:
    return [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]


def _same_constant(a: Any, b: Any) -> bool:
    """Whether two constants are the same, but for the length of an axis along which both are so."""
    if a is b:
        return True
    if any(isinstance(x, jax.core.Tracer) for x in (a, b)) or np.ndim(a) != np.ndim(b):
        return False
    a, b = np.asarray(a), np.asarray(b)
    first = a[
        tuple(slice(1) if n != m else slice(None) for n, m in zip(a.shape, b.shape, strict=True))
    ]
    return bool(np.all(a == first) and np.all(b == first))
