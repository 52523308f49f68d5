"""From a distribution to a random choice in the program being staged."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution

from ppgen import _jax
from ppgen._distributions.edges import is_point_mass
from ppgen._distributions.own_classes import has_own_density, has_own_sampler
from ppgen._distributions.pathwise import has_pathwise_derivative
from ppgen._distributions.rebuild import flatten
from ppgen._distributions.sample_shape import sample_shape
from ppgen._distributions.supports import range_of
from ppgen._distributions.wrappers import (
    is_discrete,
    plain,
    split_event,
    without_masks,
)
from ppgen._settings import current
from ppgen._staging.primitives import (
    OWN_SAMPLER_SCOPE,
    SAMPLER_SCOPE,
    SITE_SCOPE,
    ChoiceSpec,
    Lanes,
    Mapped,
    choice_p,
    fresh_key_p,
    mark,
    over_lanes,
)
from ppgen._user_lines import user_line
from ppgen.errors import EstimatorError, SiteError
from ppgen.estimators._base import AbstractEstimator
from ppgen.estimators._reparameterize import Reparameterize
from ppgen.estimators._score_function import ScoreFunction

staging_frames: set[Any] = set()
"""Code whose frames begin a staging, the boundary for `in_loop`."""

_DEFAULTS = (Reparameterize(), ScoreFunction())


def fresh_key(where: str | None = None) -> Array:
    """A fresh typed PRNG key, unique in the program."""
    dtype = _key_dtype(_jax.default_key_type())
    return fresh_key_p.bind(lanes=(), dtype=dtype, looped=in_loop(), where=where or user_line())


@functools.cache
def _key_dtype(impl: str) -> Any:
    with jax.ensure_compile_time_eval():
        return jax.eval_shape(lambda: jax.random.key(0, impl=impl)).dtype


def in_loop() -> bool:
    """Whether the body of a loop is being staged, within the innermost staging."""
    return _jax.in_loop(staging_frames.__contains__)


def estimator_for(dist: Distribution, asked: Any, *, name: str, where: str) -> AbstractEstimator:
    """The estimator of a site: chosen by name, by the site itself, or by default; checked."""
    # Each rule is told of the site, so that it can report names that match no site.
    found = [rule(name) for rule in current().estimators]
    asked = next((each for each in found if each is not None), asked)
    if asked is None:
        asked = _DEFAULTS[0] if has_pathwise_derivative(dist) else _DEFAULTS[1]
    if asked == "auto":
        from ppgen.estimators._automatic import automatic_estimator

        asked = automatic_estimator(name, dist)
    if not isinstance(asked, AbstractEstimator):
        raise EstimatorError(
            f"expected a gradient estimator, got {asked!r}",
            site=name,
            where=where,
            instead='infer={"grad": ppgen.ScoreFunction()} (an instance, not a class)',
        )
    if (reason := asked.misfit(dist)) is not None:
        raise EstimatorError(
            f"{type(asked).__name__}() does not fit: {reason}",
            site=name,
            where=where,
            instead="ScoreFunction(), which fits every distribution with a density"
            if not isinstance(asked, ScoreFunction)
            else None,
        )
    if not asked.differentiable and is_point_mass(dist):
        # A point mass is not random: its value carries the whole derivative.
        return _DEFAULTS[0]
    return asked


def split_arrays(tree: Any) -> tuple[list[Any], Any]:
    """The array leaves of an estimator, and a function that puts them back."""
    arrays, static = eqx.partition(tree, eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    return leaves, lambda new: eqx.combine(jax.tree.unflatten(treedef, list(new)), static)


def describe_choice(
    dist: Distribution, estimator: AbstractEstimator, *, name: str, where: str
) -> tuple[ChoiceSpec, list[Any], list[Any]]:
    """The static part of a choice and its operands: the distribution's and the estimator's."""
    # A mask changes the density only, not the draw.
    dist, reinterpreted = split_event(without_masks(dist))
    leaves, structure = flatten(dist)
    estimator_leaves, rebuild = split_arrays(estimator)
    sample = sample_shape(dist, leaves)
    has_sampler = sample is not None
    if sample is None:
        dtype = jnp.result_type(int if is_discrete(dist) else float)
        sample = jax.ShapeDtypeStruct(dist.batch_shape + dist.event_shape, dtype)
    relaxed = estimator.relaxed and not jnp.issubdtype(sample.dtype, jnp.inexact)
    spec = ChoiceSpec(
        name=name,
        where=where,
        dist=structure,
        num_dist=len(leaves),
        estimator=rebuild,
        template=estimator,
        shape=sample.shape,
        dtype=jnp.dtype(jnp.result_type(float)) if relaxed else sample.dtype,
        batch=tuple(dist.batch_shape),
        family=_family(dist),
        event=reinterpreted + dist.event_dim,
        default=any(estimator is default for default in _DEFAULTS),
        looped=in_loop(),
        has_sampler=has_sampler,
        own_density=has_own_density(dist),
        own_sampler=has_own_sampler(dist),
        point=is_point_mass(dist),
        atomic=is_discrete(dist) and not relaxed,
        within=range_of(dist),
    )
    return spec, leaves, estimator_leaves


def _family(dist: Distribution) -> str:
    """The class of a distribution as its author wrote it."""
    # How it is parameterised is part of NumPyro's class names, but not of what users call.
    return type(plain(dist)).__name__.removesuffix("Probs").removesuffix("Logits")


def bind_choice(spec: ChoiceSpec, lanes: Lanes, mapped: Mapped, operands: list[Any]) -> Array:
    """Make the choice: in place where its estimator is a differentiable sample."""
    if not spec.has_sampler:
        raise SiteError(
            f"{spec.family} has a density but no sampler, so this site cannot be drawn",
            site=spec.name,
            where=spec.where,
            instead="a given value: by a guide (ppgen.inference.elbo), "
            "ppgen.log_density(program)(choices) or handlers.condition",
        )
    if not (spec.template.in_place and current().in_place):
        with jax.named_scope(SITE_SCOPE + spec.name), jax.named_scope(SAMPLER_SCOPE):
            return choice_p.bind(*operands, spec=spec, lanes=lanes, mapped=mapped)

    def sample(key, operands):
        dist, rest = spec.dist.build(operands[: spec.num_dist]), operands[spec.num_dist :]
        return spec.estimator(rest)(key, dist).value

    # A user's class is looked into, unless that was asked not to be done.
    doubted = spec.own_sampler and not (
        spec.template.biased or getattr(spec.template, "assume_smooth", False)
    )
    scope = OWN_SAMPLER_SCOPE if doubted else SAMPLER_SCOPE
    with jax.named_scope(SITE_SCOPE + spec.name), jax.named_scope(scope):
        value = over_lanes(sample, lanes, mapped, fresh_key(spec.where), operands)
    return mark(
        value,
        "pathwise",
        spec.name,
        spec.where,
        batch=lanes + spec.batch,
        event=spec.event,
        dist=spec.family,
        default=spec.default,
        estimator=type(spec.template).__name__,
        smooth=bool(getattr(spec.template, "assume_smooth", False)),
        exogenous=bool(getattr(spec.template, "exogenous", False)),
        biased=spec.template.biased,
        within=spec.within,
        point=spec.point,
    )
