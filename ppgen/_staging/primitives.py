"""The six primitives that a staged program is written in.

- `fresh_key`: a PRNG key that is unique in the program.
- `random_choice`: a random choice whose estimator needs more than a differentiable sample.
- `sample_site`: a NumPyro site of a program: latent or observed, with its mask and scale.
- `estimated_program`: a program within another whose density is estimated.
- `marker`: an identity that names a value for the soundness pass and the reports.
- `assume_continuous`: an identity that exempts a value from the check for discontinuities.
- `transformed`: an identity in its first operand, which a distribution's transforms have made of
  the second and of their parameters, the others; how they did is not looked into.

Under `vmap` each of the first four gains a *lane* axis, mapped operands or not, so that every lane
has its own randomness. Distributions are not batched themselves (a vmapped NumPyro distribution
would keep a stale batch shape): the lanes are put back by `jax.vmap` where one is evaluated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen.errors import DerivativeError, SiteError

DENSITY_SCOPE, SAMPLER_SCOPE = "ppgen.log_prob", "ppgen.sample"
OWN_DENSITY_SCOPE, OWN_SAMPLER_SCOPE = "ppgen.own.log_prob", "ppgen.own.sample"
"""Named scopes of computations of distributions, as opposed to those of the user's program."""

SITE_SCOPE = "ppgen.site "
"""The prefix of a site's name in the named scopes of its draw and of its density."""

Lanes = tuple[int, ...]
Mapped = tuple[tuple[bool, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class ChoiceSpec:
    """Static facts about a random choice.

    Attributes:
        name: the site's name.
        where: the user's file and line.
        dist: rebuilds the distribution from the first `num_dist` operands.
        num_dist: how many operands those are.
        estimator: rebuilds the gradient estimator from the operands after them.
        template: the estimator with placeholders for its arrays, for its static attributes.
        shape: shape of one sample, without lanes.
        dtype: its dtype.
        batch: batch shape of the distribution, without lanes.
        family: the distribution's class, for reports.
        event: how many trailing axes of a sample are event axes of the site, for reports.
        default: whether the estimator is the default one, for reports.
        looped: whether it was drawn in the body of a loop.
        point: whether it is a point mass, and so not random.
        atomic: whether its values are counted, whichever type they have: it has no density.
        has_sampler: false where the distribution has only a density: its values are given.
        own_density: whether a user's class computes its density.
        own_sampler: whether a user's class draws it.
        within: the range of its values (`None` for an unknown bound).
    """

    name: str
    where: str
    dist: Any
    num_dist: int
    estimator: Callable[[Sequence[Array]], Any]
    template: Any
    shape: tuple[int, ...]
    dtype: Any
    batch: tuple[int, ...]
    family: str = ""
    event: int = 0
    default: bool = False
    looped: bool = False
    has_sampler: bool = True
    own_density: bool = False
    own_sampler: bool = False
    point: bool = False
    atomic: bool = False
    within: tuple[float | None, float | None] = (-math.inf, math.inf)


class Plate(NamedTuple):
    """A plate around a site.

    Attributes:
        name: its name.
        dim: its axis among those of the site's log density, counted from the right: negative.
        size: how many elements of it are there.
        scale: how many elements each of them represents: more than one if it is subsampled.
    """

    name: str
    dim: int
    size: int
    scale: float


class Before(NamedTuple):
    """A site that is made in two steps: a choice, and a map of it.

    Attributes:
        choice: the choice that is mapped.
        order: for each operand of its distribution, its position among the leaves of the site's.
        split: from the site's distribution to the one before the map, and the map.
    """

    choice: ChoiceSpec
    order: tuple[int, ...]
    split: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class SiteSpec:
    """Static facts about a site of a program.

    The operands are the distribution's leaves, the estimator's, and then the observed value, the
    mask and the scale, each where there is one.

    Attributes:
        choice: the site as a random choice.
        order: for each operand of `choice.dist`, its position among the leaves of `density`.
        density: rebuilds the distribution whose density the site contributes (`None`: no density).
        num_leaves: how many operands `density` takes.
        num_estimator: how many operands the estimator takes.
        observed: whether the value is given.
        has_mask: whether a mask is the operand before the scale.
        has_scale: whether the last operand is a scale.
        masked: whether there is a mask on its density: that operand, or one inside of `density`.
        auxiliary: whether the model may lack this site of a guide.
        support: the constraint that the values satisfy.
        within: the range in which the density is positive (`None` for an unknown bound).
        plates: the plates around it, outermost first.
        fixed: whether it is the minibatch of a plate whose indices are given.
        hidden: whether it is hidden by `handlers.block`, except from given values.
        before: where the site draws and then transforms: the choice before that.
        substituted: whether a handler gives the value of a latent site, as NumPyro's `log_density`
            does of sites that were drawn elsewhere.
    """

    choice: ChoiceSpec
    order: tuple[int, ...]
    density: Any
    num_leaves: int
    num_estimator: int
    observed: bool
    has_mask: bool
    has_scale: bool
    masked: bool
    auxiliary: bool
    support: Any
    plates: tuple[Plate, ...] = ()
    fixed: bool = False
    hidden: bool = False
    within: tuple[float | None, float | None] = (-math.inf, math.inf)
    before: Before | None = None
    substituted: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class EstimatedSpec:
    """Static facts about a program whose density is estimated, such as a `marginal`.

    The results are the values of its sites, followed by the outputs of the program.

    Attributes:
        name: its sites, joined: the name of its log density.
        where: the user's file and line.
        sites: the sites that it has for the program around it, by name.
        results: shape and dtype of each result, without lanes.
        evaluate: `(operands, values of the latent sites or None) -> (results, log density)`, of one
            lane; it draws. A result that the given values do not determine is `None`.
        looped: whether it was called in the body of a loop.
    """

    name: str
    where: str
    sites: dict[str, SiteSpec]
    results: tuple[Any, ...]
    evaluate: Callable[[Sequence[Array], dict[str, Array] | None], tuple[list[Any], Array]]
    looped: bool = False


def over_lanes(
    fn: Callable, lanes: Lanes, mapped: Mapped, key: Array | None, operands: Sequence[Any], *more
) -> Any:
    """Apply `fn(key, operands, *more)` to every lane.

    Args:
        fn: the function of one lane.
        lanes: sizes of the lane axes, outermost first.
        mapped: for each operand, which of the lane axes lead its shape.
        key: a key, split into one for each lane; or `None`.
        operands: their lane axes lead, in order.
        *more: pytrees of arrays with all lane axes leading.
    """
    if not lanes:
        return fn(key, operands, *more)
    keys = None if key is None else jax.random.split(key, lanes)
    for level in reversed(range(len(lanes))):
        axes = [0 if flags[level] else None for flags in mapped]
        # Outer levels are applied last, so each level still sees its own axis in front.
        fn = jax.vmap(
            fn, (None if key is None else 0, axes, *(0 for _ in more)), axis_size=lanes[level]
        )
    return fn(keys, list(operands), *more)


def _batch_lanes(primitive: Callable, size: int, values, dims, params: dict[str, Any]):
    """Prepend a lane axis; operands without a batch dimension stay as they are."""
    mapped = params["mapped"]
    values = [v if d is None else jnp.moveaxis(v, d, 0) for v, d in zip(values, dims, strict=True)]
    mapped = tuple((d is not None, *flags) for d, flags in zip(dims, mapped, strict=True))
    out = primitive(*values, **(params | {"lanes": (size, *params["lanes"]), "mapped": mapped}))
    return out, 0


def _outside(what: str) -> Callable:
    def impl(*_, **params):
        spec = params.get("spec")
        choice = getattr(spec, "choice", spec)
        raise SiteError(
            f"{what} was drawn without randomness",
            site=getattr(choice, "name", None),
            where=getattr(choice, "where", None),
            instead="ppgen.seed(f)(key, ...) to run a program, or ppgen.expectation(f)(key, ...)",
        )

    return impl


def _no_derivative(primals, tangents, **params):
    choice = getattr(params["spec"], "choice", params["spec"])
    through = type(choice.template).__name__ + "()" if hasattr(choice, "template") else choice.name
    raise DerivativeError(
        f"a derivative was taken inside the program, through {through}",
        site=choice.name,
        where=choice.where,
        instead="jax.grad(ppgen.expectation(f), ...) outside of f, or Reparameterize() here",
    )


fresh_key_p = _jax.define_primitive(
    "fresh_key",
    abstract=lambda *, lanes, dtype, **_: _jax.random_value(lanes, dtype),
    batch=lambda size, values, dims, *, lanes, **params: (
        fresh_key_p.bind(lanes=(size, *lanes), **params),
        0,
    ),
    impl=_outside("a PRNG key"),
)

choice_p = _jax.define_primitive(
    "random_choice",
    abstract=lambda *_, spec, lanes, mapped: _jax.random_value(lanes + spec.shape, spec.dtype),
    batch=lambda size, values, dims, **params: _batch_lanes(
        choice_p.bind, size, values, dims, params
    ),
    impl=_outside("a random choice"),
    differentiate=_no_derivative,
)

site_p = _jax.define_primitive(
    "sample_site",
    abstract=lambda *_, spec, lanes, mapped: _jax.random_value(
        lanes + spec.choice.shape, spec.choice.dtype
    ),
    batch=lambda size, values, dims, **params: _batch_lanes(
        site_p.bind, size, values, dims, params
    ),
    impl=_outside("a site"),
    differentiate=_no_derivative,
)

estimated_p = _jax.define_primitive(
    "estimated_program",
    abstract=lambda *_, spec, lanes, mapped: [
        _jax.random_value(lanes + x.shape, x.dtype) for x in spec.results
    ],
    batch=lambda size, values, dims, **params: _all_in_front(
        _batch_lanes(estimated_p.bind, size, values, dims, params)[0]
    ),
    impl=_outside("a program"),
    differentiate=_no_derivative,
    multiple_results=True,
)


def _all_in_front(outs: list[Array]) -> tuple[list[Array], list[int]]:
    return outs, [0] * len(outs)


marker_p = _jax.define_marker("marker")
assume_continuous_p = _jax.define_marker("assume_continuous")
transformed_p = _jax.define_companion("transformed")


def mark(value: Any, kind: str, name: str, where: str, **details: Any) -> Array:
    """Name a value: `kind` is "pathwise", "log_prob" or "scored"."""
    value, more = jnp.asarray(value), tuple(details.items())
    return marker_p.bind(value, kind=kind, name=name, where=where, details=more)


CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
"""Names of the primitives that call a jaxpr as it is."""

SITES = frozenset({"sample_site", "estimated_program"})
"""Names of the primitives that are sites of a program."""

RANDOM = frozenset({"fresh_key", "random_choice"}) | SITES
"""Names of the primitives that need a key."""


def equations(jaxpr: Any) -> Iterator[_jax.Eqn]:
    """All equations of a jaxpr and of the jaxprs that it calls."""
    for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
        yield eqn
        for inner in _jax.subjaxprs(eqn):
            yield from equations(inner)


def equations_of(jaxpr: Any, names: Collection[str]) -> Iterator[_jax.Eqn]:
    """The equations of primitives of these names, here and in the jaxprs that it calls."""
    if _jax.primitives_in(jaxpr).isdisjoint(names):
        return
    for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
        if eqn.primitive.name in names:
            yield eqn
        for inner in _jax.subjaxprs(eqn):
            yield from equations_of(inner, names)


def has_any(eqn: _jax.Eqn, names: Collection[str]) -> bool:
    """Whether an equation is of one of these primitives, or calls a jaxpr that has such."""
    return eqn.primitive.name in names or any(
        not _jax.primitives_in(inner).isdisjoint(names) for inner in _jax.subjaxprs(eqn)
    )


def is_random(eqn: Any) -> bool:
    """Whether evaluating the equation needs a key, here or in a jaxpr that it calls."""
    return has_any(eqn, RANDOM)
