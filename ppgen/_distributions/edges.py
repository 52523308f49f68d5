"""The ends of supports, and their dependence on parameters.

NumPyro gives as the support of a transformed distribution the codomain of the last transform:
"real" for a shifted exponential. So ends are followed through transforms, mixtures and wrappers
here, and their dependence is read off their computation, not off the identity of objects.
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
from ppgen._distributions.wrappers import is_discrete
from ppgen._interpret import needed

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
    if _supported_as_its_class(d):
        return frozenset()
    leaves, structure = flatten(d)
    if not any(map(is_real_array, leaves)):
        return frozenset()

    def found(*leaves: Any) -> list[Any]:
        return [jnp.asarray(e) for e in _ends(structure.build(leaves)) if is_real_array(e)]

    jaxpr, _ = _jax.open_jaxpr(jax.make_jaxpr(found)(*leaves))
    reached = needed(jaxpr, jaxpr.outvars, stop=("stop_gradient",)).variables
    moving = (i for i, v in enumerate(jaxpr.invars) if v in reached and is_real_array(leaves[i]))
    return frozenset(moving)


def _supported_as_its_class(d: Any) -> bool:
    """Whether the support is an attribute of the class, and so no function of any parameter.

    Most are, and to read off what a support moves with takes a trace for each site.
    """
    while isinstance(d, _WRAPPERS):
        d = d.base_dist
    if isinstance(d, (MixtureGeneral, MixtureSameFamily, TransformedDistribution)):
        return False
    if "support" in vars(d):
        return False
    support = next((vars(c)["support"] for c in type(d).__mro__ if "support" in vars(c)), None)
    # A support that depends on parameters is a property, in NumPyro one that is a constraint, too.
    return isinstance(support, constraints.Constraint) and not isinstance(support, property)


def ends_somewhere(d: Distribution) -> bool:
    """Whether a transformed distribution has an end of its support that is not infinite."""
    inner: Any = d
    while isinstance(inner, _WRAPPERS):
        inner = inner.base_dist
    if not isinstance(inner, TransformedDistribution) or inner.event_dim:
        return False
    return not all(isinstance(e, (int, float)) and math.isinf(e) for e in _ends(inner))


def is_point_mass(d: Distribution) -> bool:
    """Whether `d` is a point mass, perhaps a transformed one: it is not random."""
    return isinstance(_innermost(d), Delta)


def mixes_point_masses(d: Distribution, may_move: Callable[[Any], bool] | None = None) -> bool:
    """Whether `d` is a mixture with point masses whose density is not enough.

    It is not enough for a point mass beside components with a density, which cannot be compared;
    nor among points of which one moves.

    Args:
        d: any distribution.
        may_move: whether a number of a point may have a derivative; by default, if it is an array.
    """
    may_move = may_move or is_real_array
    inner: Any = _innermost(d)
    if isinstance(inner, MixtureSameFamily):
        component: Any = inner.component_distribution
        return is_point_mass(component) or mixes_point_masses(component, may_move)
    if not isinstance(inner, MixtureGeneral):
        return False
    parts = inner.component_distributions
    points = [p for p in parts if is_point_mass(p)]
    if any(mixes_point_masses(p, may_move) for p in parts):
        return True
    if points and not all(is_point_mass(p) or is_discrete(p) for p in parts):
        return True
    return any(may_move(x) for p in points for x in flatten(p)[0])


def _innermost(d: Any) -> Any:
    while isinstance(d, (*_WRAPPERS, TransformedDistribution)):
        d = d.base_dist
    return d


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
    except NotImplementedError:  # a user's distribution that does not declare it
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
