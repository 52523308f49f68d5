"""Interpretation of the sites of a staged program: given values, collected densities."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import Distribution

from ppgen import _jax
from ppgen._distributions.hidden_parameters import without_hidden_parameters
from ppgen._distributions.wrappers import as_single_precision, without_masks
from ppgen._interpret import interpret, needed
from ppgen._sampling.log_scale import log_prob_on_scale
from ppgen._staging.choice import bind_choice
from ppgen._staging.coordinates import recalled
from ppgen._staging.primitives import (
    DENSITY_SCOPE,
    OWN_DENSITY_SCOPE,
    RANDOM,
    SITE_SCOPE,
    SITES,
    EstimatedSpec,
    SiteSpec,
    equations,
    equations_of,
    has_any,
    mark,
    over_lanes,
)
from ppgen._staging.transformed import bind_transformed
from ppgen._tracebacks import at_site
from ppgen.densities import log_prob, masked_log_prob
from ppgen.errors import ControlFlowError, SiteError

ANYWHERE = (-math.inf, math.inf)


class Sites(NamedTuple):
    """The values and log densities of a run of a program, by site.

    Attributes:
        choices: the values of latent sites.
        log_probs: elementwise log densities in nats, masked and scaled, of every site.
    """

    choices: dict[str, Array]
    log_probs: dict[str, Array]


def site_specs(jaxpr: Any, *, hidden: bool = False) -> dict[str, SiteSpec]:
    """The sites of a staged program, in order of first appearance; or those that are hidden."""
    found: dict[str, SiteSpec] = {}
    for eqn in equations_of(jaxpr, SITES):
        if eqn.primitive.name == "sample_site":
            if eqn.params["spec"].hidden != hidden:
                continue
            found.setdefault(eqn.params["spec"].choice.name, eqn.params["spec"])
        elif not hidden:
            for name, spec in eqn.params["spec"].sites.items():
                found.setdefault(name, spec)
    return found


def has_sites(eqn: _jax.Eqn, *, hidden: bool = True) -> bool:
    """Whether an equation is a site or calls a jaxpr that has one, which may be hidden or not."""
    if not has_any(eqn, SITES):
        return False
    name = eqn.primitive.name
    if name == "estimated_program" or (
        name == "sample_site" and (hidden or not eqn.params["spec"].hidden)
    ):
        return True
    bodies = (_jax.open_jaxpr(inner)[0] for inner in _jax.subjaxprs(eqn))
    return any(has_sites(e, hidden=hidden) for body in bodies for e in body.eqns)


def has_estimate(jaxpr: Any) -> bool:
    """Whether the density of a program is estimated anew in each run.

    This is so if it has an estimated density inside, or if a density depends on a draw that is not
    a site.
    """
    eqns = _jax.open_jaxpr(jaxpr)[0].eqns
    scored = [eqn for eqn in eqns if has_sites(eqn, hidden=False)]
    upstream = needed(jaxpr, [v for eqn in scored for v in eqn.invars]).equations
    relevant = [eqn for eqn in eqns if id(eqn) in upstream or has_sites(eqn, hidden=False)]
    inner = [jaxpr for eqn in relevant for jaxpr in _jax.subjaxprs(eqn)]
    relevant += [eqn for jaxpr in inner for eqn in equations(jaxpr)]
    found = {eqn.primitive.name for eqn in relevant}
    sites = (eqn for eqn in relevant if eqn.primitive.name == "sample_site")
    if any(eqn.params["spec"].hidden for eqn in sites):
        return True
    return not found.isdisjoint(RANDOM - {"sample_site"})


class Given(NamedTuple):
    """The given values of a run, and options.

    Attributes:
        values: values of latent sites; the others are drawn.
        unscored: latent sites without a log density, because the program itself proposes them: the
            log densities that there are then sum up to a log weight.
        seen: takes the distributions, specs and operands of latent sites, but of those in
            loops, branches and mapped functions.
    """

    values: Mapping[str, Any]
    unscored: frozenset[str] = frozenset()
    seen: dict[str, tuple[Distribution, SiteSpec, list[Any]]] | None = None


def run_sites(
    jaxpr: Any, args: Sequence[Any], given: Given, consts: Sequence[Any] | None = None
) -> tuple[list, Sites]:
    """Run a staged program.

    Args:
        jaxpr: closed jaxpr.
        args: its inputs.
        given: values of latent sites.
        consts: the jaxpr's constants, instead of those that it holds.

    Returns:
        The outputs of the jaxpr, and its sites. An output is `None` that depends on what a program
        with an estimated density integrates out, where it was given values.
    """
    sites = Sites({}, {})

    def equation(eqn: _jax.Eqn, values: list[Any]) -> list[Any]:
        check_determined(values, jaxpr)
        if not has_sites(eqn):
            return _jax.bind(eqn, values)
        with _jax.at_line_of(eqn):
            rule = _RULES.get(eqn.primitive.name, _refuse)
            out, new = rule(eqn, values, given)
        _merge(sites, new)
        return out

    return interpret(jaxpr, args, equation, consts=consts), sites


def check_determined(values: Sequence[Any], jaxpr: Any) -> None:
    """Refuse to use a value that was integrated out."""
    if not any(v is None for v in values):
        return
    spec = next(equations_of(jaxpr, {"estimated_program"})).params["spec"]
    raise SiteError(
        "what this program returns depends on sites that it integrates out, which have no values "
        "where its density is evaluated",
        site=spec.name,
        where=spec.where,
        instead="a return value that depends on kept sites only, or more names in `keep`",
    )


def _merge(into: Sites, new: Sites) -> None:
    for name in new.log_probs.keys() | new.choices.keys():
        if name in into.log_probs or name in into.choices:
            raise SiteError(
                "two sites of one program have the same name",
                site=name,
                instead="a name of its own for each site, or handlers.scope around a repeated part",
            )
    into.choices.update(new.choices)
    into.log_probs.update(new.log_probs)


def _instead_of(given: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Advice for a value of the wrong shape: a batch of values is that of programs of one datum."""
    extra = len(given) - len(expected)
    if extra > 0 and given[extra:] == expected:
        return (
            "jax.vmap of the objective over a batch, as ppgen.inference.per_batch(objective) does, "
            f"if the axes {given[:extra]} are those of a batch; or a value of the site's shape"
        )
    return "the value that `simulate` gives for this site, or one of that shape"


def _site(eqn: _jax.Eqn, operands: list[Any], given: Given):
    spec: SiteSpec = eqn.params["spec"]
    lanes, mapped = eqn.params["lanes"], eqn.params["mapped"]
    name, where = spec.choice.name, spec.choice.where
    end = spec.num_leaves + spec.num_estimator
    latent, drawn_logp, finer = not spec.observed, None, None
    if not latent:
        value = over_lanes(
            lambda _, ops: ops[0], lanes, mapped[end : end + 1], None, operands[end : end + 1]
        )
        end += 1
    elif name in given.values:
        value = jnp.asarray(given.values[name])
        expected = lanes + spec.choice.shape
        if value.shape != expected:
            raise SiteError(
                f"the given value has shape {value.shape}, the site has {expected}",
                site=name,
                where=where,
                instead=_instead_of(value.shape, expected),
            )
        if spec.density is not None:
            own = operands[: spec.num_leaves]
            finer = recalled(given.values[name], lambda: spec.density.build(own))
        if spec.fixed:
            _check_minibatch(value, operands[0], spec)
    elif spec.fixed:
        value = over_lanes(lambda _, ops: ops[0], lanes, mapped[:1], None, operands[:1])
    elif spec.before is not None:
        value, drawn_logp = bind_transformed(spec, lanes, mapped, operands)
    else:
        own = [*spec.order, *range(spec.num_leaves, end)]
        value = bind_choice(
            spec.choice, lanes, tuple(mapped[i] for i in own), [operands[i] for i in own]
        )
    choices = {name: value} if latent and not spec.hidden else {}
    if spec.density is None:
        return [value], Sites(choices, {})

    def own_density(operands, value, drawn):
        if drawn:
            return drawn[0]
        dist = without_masks(spec.density.build(operands[: spec.num_leaves]))
        if finer is not None:
            return log_prob_on_scale(dist, value)
        return log_prob(dist, as_single_precision(value))

    def density(_, operands, value, *drawn):
        rest = operands[spec.num_leaves :]
        dist = spec.density.build(operands[: spec.num_leaves])
        if drawn or finer is not None:
            if spec.has_mask and not drawn:
                dist = without_hidden_parameters(dist, rest[0])
            logp = drawn[0] if drawn else log_prob_on_scale(dist, value)
            logp = jnp.where(rest[0], logp, jnp.zeros((), logp.dtype)) if spec.has_mask else logp
        elif spec.has_mask:
            logp = masked_log_prob(dist, as_single_precision(value), rest[0])
        else:
            logp = log_prob(dist, as_single_precision(value))
        return logp * rest[-1] if spec.has_scale else logp

    if latent and name in given.unscored:
        if not (spec.masked or spec.has_scale):
            return [value], Sites(choices, {})
        # A mask or a scale is not part of the distribution of the draw.
        scaled = density

        def density(_, operands, value, *drawn):
            return scaled(_, operands, value, *drawn) - own_density(operands, value, drawn)

    scored = value if finer is None else finer
    if finer is None and spec.within != ANYWHERE and jnp.issubdtype(value.dtype, jnp.inexact):
        # The density jumps to zero at the end of its support.
        scored = mark(value, "scored", name, where, within=spec.within)
    own = [*range(spec.num_leaves), *range(end, len(operands))]
    scope = OWN_DENSITY_SCOPE if spec.choice.own_density else DENSITY_SCOPE
    scopes = jax.named_scope(SITE_SCOPE + name), jax.named_scope(scope)
    with scopes[0], scopes[1], at_site(name, where):
        logp = over_lanes(
            density,
            lanes,
            tuple(mapped[i] for i in own),
            None,
            [operands[i] for i in own],
            scored,
            *([] if drawn_logp is None else [drawn_logp]),
        )
    if given.seen is not None and latent and not lanes:
        given.seen[name] = (spec.density.build(operands[: spec.num_leaves]), spec, operands)
    return [value], Sites(choices, {name: logp})


def _check_minibatch(value: Any, given: Any, spec: SiteSpec) -> None:
    """Refuse a minibatch that differs from the given one, where both are known."""
    if isinstance(value, jax.core.Tracer) or isinstance(given, jax.core.Tracer):
        return
    if not np.array_equal(value, given):
        raise SiteError(
            f"the plate is given the minibatch {given} here, and {value} elsewhere",
            site=spec.choice.name,
            where=spec.choice.where,
            instead="the same indices in model and guide, or in the guide alone",
        )


def _call(eqn: _jax.Eqn, values: list[Any], given: Given):
    return run_sites(_jax.subjaxprs(eqn)[0], values, given)


def _estimated(eqn: _jax.Eqn, operands: list[Any], given: Given):
    spec: EstimatedSpec = eqn.params["spec"]
    lanes, mapped = eqn.params["lanes"], eqn.params["mapped"]
    latent = [name for name, site in spec.sites.items() if not site.observed]
    known = {name: jnp.asarray(given.values[name]) for name in latent if name in given.values}
    unscored = given.unscored.intersection(latent)
    for some in (known, unscored):
        if some and len(some) < len(latent):
            raise SiteError(
                f"{sorted(some)} are to have values of their own, apart from the other sites of a "
                f"program whose sites {latent} have one density",
                site=spec.name,
                where=spec.where,
                instead="all of them or none: in `keep`, in a proposal, or in `choices`",
            )
    simulated = bool(latent) and not known
    determined = []

    def lane(_, operands, values):
        results, density = spec.evaluate(operands, None if simulated else values)
        determined[:] = [x is not None for x in results]
        return [x for x in results if x is not None], density

    found, density = over_lanes(lane, lanes, mapped, None, operands, known)
    left = iter(found)
    results = [next(left) if d else None for d in determined]
    values: dict[str, Any] = dict(zip(spec.sites, results, strict=False))
    choices = {name: values[name] for name in latent}
    if unscored:
        return results, Sites(choices, {})
    return results, Sites(choices, {spec.name: density})


def _remat(eqn: _jax.Eqn, values: list[Any], given: Given):
    inner = _jax.subjaxprs(eqn)[0]

    def body(values, known):
        outs, sites = run_sites(inner, values, given._replace(values=known, seen=None))
        check_determined(outs, inner)
        return outs, sites

    run = jax.checkpoint(body, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])
    return run(values, dict(given.values))


def _scan(eqn: _jax.Eqn, values: list[Any], given: Given):
    body = eqn.params["jaxpr"]
    consts, carried = _jax.scan_counts(eqn)
    specs = site_specs(body) | site_specs(body, hidden=True)
    inside = {name: given.values[name] for name in specs if name in given.values}
    length = eqn.params["length"]
    for name, value in inside.items():
        if jnp.shape(value)[:1] != (length,):
            raise SiteError(
                f"the given value has shape {jnp.shape(value)}, but the site is in a scan of "
                f"length {length}, which stacks its values along axis 0",
                site=name,
                where=specs[name].choice.where,
                instead="the value that `simulate` gives for this site",
            )

    def step(carry, xs):
        xs, known = xs
        args = [*values[:consts], *carry, *xs]
        out, sites = run_sites(body, args, given._replace(values=known, seen=None))
        check_determined(out, body)
        return out[:carried], (out[carried:], sites)

    init, xs = values[consts : consts + carried], values[consts + carried :]
    carry, (ys, sites) = jax.lax.scan(
        step,
        init,
        (xs, inside),
        length=length,
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*carry, *ys], sites


def _cond(eqn: _jax.Eqn, values: list[Any], given: Given):

    def run(jaxpr, operands, known):
        outs, sites = run_sites(jaxpr, operands, given._replace(values=known, seen=None))
        check_determined(outs, jaxpr)
        return outs, sites

    branches = [functools.partial(run, jaxpr) for jaxpr in eqn.params["branches"]]
    index, *operands = values
    branched = eqn.params["branches"]
    names = {n for j in branched for hidden in (False, True) for n in site_specs(j, hidden=hidden)}
    inside = {name: given.values[name] for name in names if name in given.values}
    shapes = [jax.eval_shape(branch, operands, inside)[1] for branch in branches]
    log_probs = [x for sites in shapes for x in sites.log_probs.values()]
    dtype = jnp.result_type(*log_probs) if log_probs else jnp.result_type(float)
    fill: dict[str, Any] = {}
    for sites in shapes:
        for name, value in sites.choices.items():
            if name in fill and (fill[name].shape, fill[name].dtype) != (value.shape, value.dtype):
                raise SiteError(
                    f"the branches of a cond give the site values of different shapes or types: "
                    f"{fill[name]} and {value}",
                    site=name,
                    instead="a different name for the site in each branch",
                )
            fill[name] = value

    def padded(branch):
        def run(operands, inside):
            out, sites = branch(operands, inside)
            choices = {
                name: sites.choices.get(name, jnp.zeros(value.shape, value.dtype))
                for name, value in fill.items()
            }
            # Only the taken branch has a density, of shapes that may differ between branches.
            total = sum(map(jnp.sum, sites.log_probs.values()), jnp.zeros((), dtype))
            return out, choices, total.astype(dtype)

        return run

    out, choices, total = jax.lax.switch(index, [padded(b) for b in branches], operands, inside)
    label = "|".join(dict.fromkeys(n for s in shapes for n in s.log_probs))
    return out, Sites(choices, {label: total} if label else {})


def _refuse(eqn: _jax.Eqn, values: list[Any], given: Given):
    inner = [spec for jaxpr in _jax.subjaxprs(eqn) for spec in site_specs(jaxpr).values()]
    loop = eqn.primitive.name == "while"
    raise ControlFlowError(
        "a site in a while_loop has no fixed number of values to record"
        if loop
        else f"a site inside {eqn.primitive.name} is not supported",
        site=inner[0].choice.name,
        where=inner[0].choice.where,
        instead="jax.lax.scan over the largest number of steps with a mask, or ppgen.draw, which "
        "is not recorded"
        if loop
        else "the site outside of the function with the custom derivative",
    )


_RULES = {
    "sample_site": _site,
    "estimated_program": _estimated,
    "jit": _call,
    "pjit": _call,
    "closed_call": _call,
    "core_call": _call,
    "remat2": _remat,
    "checkpoint": _remat,
    "scan": _scan,
    "cond": _cond,
}
