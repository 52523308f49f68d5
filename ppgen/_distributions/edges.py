"""Where a support ends, and what those ends move with.

NumPyro says of a transformed distribution what the last transform can give at most: "real" of a
shifted exponential. So ends are followed through transforms, mixtures and wrappers here, and what
they depend on is read off their computation, not off which object is which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import (
    Delta,
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    MixtureGeneral,
    MixtureSameFamily,
    TransformedDistribution,
    constraints,
    transforms,
)

from ppgen import _jax
from ppgen._distributions.rebuild import flatten

_WRAPPERS = (ExpandedDistribution, Independent, MaskedDistribution)
_INDEPENDENT = type(constraints.independent(constraints.real, 1))
_REAL = type(constraints.real)
_REARRANGING = (
    transforms.IdentityTransform,
    transforms.PermuteTransform,
    transforms.ReshapeTransform,
)

Ends = list[Any]
"""Numbers, perhaps infinite, or arrays."""


def edges_move_with(d: Distribution) -> frozenset[int]:
    """Which of the leaves of `flatten(d)` the ends of the support of `d` depend on continuously."""
    leaves, structure = flatten(d)
    if not any(map(is_real_array, leaves)):
        return frozenset()

    def found(*leaves: Any) -> list[Any]:
        return [jnp.asarray(e) for e in _ends(structure.build(leaves)) if is_real_array(e)]

    jaxpr, _ = _jax.open_jaxpr(jax.make_jaxpr(found)(*leaves))
    reached = {v for v in jaxpr.outvars if not isinstance(v, _jax.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if reached.intersection(eqn.outvars) and eqn.primitive.name != "stop_gradient":
            reached.update(v for v in eqn.invars if not isinstance(v, _jax.Literal))
    moving = (i for i, v in enumerate(jaxpr.invars) if v in reached and is_real_array(leaves[i]))
    return frozenset(moving)


def ends_somewhere(d: Distribution) -> bool:
    """Whether a transformed distribution has an end of its support that is not infinite."""
    inner: Any = d
    while isinstance(inner, _WRAPPERS):
        inner = inner.base_dist
    if not isinstance(inner, TransformedDistribution) or inner.event_dim:
        return False
    return not all(isinstance(e, (int, float)) and math.isinf(e) for e in _ends(inner))


def has_point_mass(d: Distribution) -> bool:
    """Whether `d` is a point mass, or a mixture of one with something that has a density."""
    inner: Any = d
    while isinstance(inner, (*_WRAPPERS, TransformedDistribution)):
        inner = inner.base_dist
    if isinstance(inner, MixtureGeneral):
        points = [has_point_mass(c) for c in inner.component_distributions]
        return any(points) and not all(
            point or _discrete(c)
            for c, point in zip(inner.component_distributions, points, strict=True)
        )
    if isinstance(inner, MixtureSameFamily):
        return has_point_mass(inner.component_distribution)
    return isinstance(inner, Delta)


def _discrete(d: Distribution) -> bool:
    support: Any = d.support
    return support is not None and bool(support.is_discrete)


def _ends(d: Any) -> Ends:
    if isinstance(d, _WRAPPERS):
        return _ends(d.base_dist)
    if isinstance(d, MixtureGeneral):
        return [e for c in d.component_distributions for e in _ends(c)]
    if isinstance(d, MixtureSameFamily):
        return _ends(d.component_distribution)
    if isinstance(d, TransformedDistribution):
        ends = _ends(d.base_dist)
        for transform in d.transforms:
            ends = _through(transform, ends)
        return ends
    try:
        return _of_constraint(d.support)
    except NotImplementedError:  # a user's distribution that does not say
        return []


def _of_constraint(constraint: Any) -> Ends:
    while isinstance(constraint, _INDEPENDENT):
        constraint = constraint.base_constraint
    if constraint is None or isinstance(constraint, _REAL):
        return [-math.inf, math.inf]
    held = [x for x in jax.tree.leaves(constraint) if is_real_array(x)]
    if held:
        return held
    ends = [getattr(constraint, f"{side}_bound", None) for side in ("lower", "upper")]
    known = [e for e in ends if isinstance(e, (int, float))]
    if known:
        return known + [math.inf] * (len(known) == 1)
    return [0.0, 1.0]  # a simplex, a sphere: nothing of it moves


def _through(transform: Any, ends: Ends) -> Ends:
    """The ends after a transform."""
    if isinstance(transform, transforms.ComposeTransform):
        for part in transform.parts:
            ends = _through(part, ends)
        return ends
    if isinstance(transform, _REARRANGING):
        return ends
    if isinstance(transform, transforms.AffineTransform):
        return [_affine(transform.loc, transform.scale, e) for e in ends]
    for kind, low, high, value in _SCALAR:
        if type(transform) is kind:
            return [_scalar(e, low, high, value) for e in ends]
    if type(transform) is transforms.PowerTransform and all(
        isinstance(e, (int, float)) and e in (0, 1, math.inf) for e in ends
    ):
        return ends
    own = [x for x in flatten(transform)[0] if is_real_array(x)]
    if all(isinstance(e, (int, float)) and math.isinf(e) for e in ends):
        return _of_constraint(transform.codomain)
    return [*ends, *own]


def _affine(loc: Any, scale: Any, end: Any) -> Any:
    if isinstance(end, (int, float)):
        if math.isinf(end):
            return end
        if end == 0:
            return loc
    return loc + scale * end


def _scalar(end: Any, low: float, high: float, value: Callable[[Any], Any]) -> Any:
    if isinstance(end, (int, float)) and math.isinf(end):
        return high if end > 0 else low
    return value(end)


_SCALAR: Sequence[tuple[type, float, float, Callable[[Any], Any]]] = (
    (transforms.ExpTransform, 0.0, math.inf, jnp.exp),
    (transforms.SigmoidTransform, 0.0, 1.0, jax.nn.sigmoid),
    (transforms.SoftplusTransform, 0.0, math.inf, jax.nn.softplus),
)


def is_real_array(x: Any) -> bool:
    """Whether `x` is an array of floating-point (or complex) numbers, which have derivatives."""
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
