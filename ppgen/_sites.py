"""Interpreting the sites of a staged program: give them values, collect values and densities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen._choose import bind_choice
from ppgen._errors import ControlFlowError, SiteError
from ppgen._primitives import DENSITY_SCOPE, SiteSpec, equations, over_lanes
from ppgen.densities import log_prob


class Sites(NamedTuple):
    """What a run of a program produced, by site.

    Attributes:
        choices: the values of latent sites.
        log_probs: elementwise log densities in nats, masked and scaled, of every site.
    """

    choices: dict[str, Array]
    log_probs: dict[str, Array]


def site_specs(jaxpr: Any) -> dict[str, SiteSpec]:
    """The sites of a staged program, in order of first appearance."""
    found: dict[str, SiteSpec] = {}
    for eqn in equations(jaxpr):
        if eqn.primitive.name == "sample_site":
            found.setdefault(eqn.params["spec"].choice.name, eqn.params["spec"])
    return found


def has_sites(eqn: _jax.Eqn) -> bool:
    """Whether an equation is a site or calls a jaxpr that has one."""
    return eqn.primitive.name == "sample_site" or any(
        site_specs(inner) for inner in _jax.subjaxprs(eqn)
    )


def run_sites(jaxpr: Any, args: Sequence[Any], given: Mapping[str, Any]) -> tuple[list, Sites]:
    """Run a staged program.

    Args:
        jaxpr: closed jaxpr.
        args: its inputs.
        given: values of latent sites; the others are drawn.

    Returns:
        The outputs of the jaxpr, and its sites.
    """
    jaxpr, consts = _jax.open_jaxpr(jaxpr)
    env: dict[_jax.Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    sites = Sites({}, {})
    for eqn in jaxpr.eqns:
        values = [v.val if isinstance(v, _jax.Literal) else env[v] for v in eqn.invars]
        if has_sites(eqn):
            with _jax.at_line_of(eqn):
                rule = _RULES.get(eqn.primitive.name, _refuse)
                out, new = rule(eqn, values, given)
            _merge(sites, new)
        else:
            out = _jax.bind(eqn, values)
        env.update(zip(eqn.outvars, out, strict=True))
    outs = [v.val if isinstance(v, _jax.Literal) else env[v] for v in jaxpr.outvars]
    return outs, sites


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


def _site(eqn: _jax.Eqn, operands: list[Any], given: Mapping[str, Any]):
    spec: SiteSpec = eqn.params["spec"]
    lanes, mapped = eqn.params["lanes"], eqn.params["mapped"]
    name, where = spec.choice.name, spec.choice.where
    end = spec.num_leaves + spec.num_estimator
    latent = not spec.observed
    if not latent:
        value = over_lanes(
            lambda _, ops: ops[0], lanes, mapped[end : end + 1], None, operands[end : end + 1]
        )
        end += 1
    elif name in given:
        value = jnp.asarray(given[name])
        expected = lanes + spec.choice.shape
        if value.shape != expected:
            raise SiteError(
                f"the given value has shape {value.shape}, the site has {expected}",
                site=name,
                where=where,
                instead="the value that `simulate` gives for this site, or one of that shape",
            )
    else:
        own = [*spec.order, *range(spec.num_leaves, end)]
        value = bind_choice(
            spec.choice, lanes, tuple(mapped[i] for i in own), [operands[i] for i in own]
        )
    choices = {name: value} if latent else {}
    if spec.density is None:
        return [value], Sites(choices, {})

    def density(_, operands, value):
        dist = spec.density.build(operands[: spec.num_leaves])
        logp = log_prob(dist, value)
        rest = operands[spec.num_leaves :]
        if spec.has_mask:
            logp = jnp.where(rest[0], logp, jnp.zeros((), logp.dtype))
        return logp * rest[-1] if spec.has_scale else logp

    own = [*range(spec.num_leaves), *range(end, len(operands))]
    with jax.named_scope(DENSITY_SCOPE):
        logp = over_lanes(
            density,
            lanes,
            tuple(mapped[i] for i in own),
            None,
            [operands[i] for i in own],
            value,
        )
    return [value], Sites(choices, {name: logp})


def _call(eqn: _jax.Eqn, values: list[Any], given: Mapping[str, Any]):
    return run_sites(_jax.subjaxprs(eqn)[0], values, given)


def _remat(eqn: _jax.Eqn, values: list[Any], given: Mapping[str, Any]):
    run = jax.checkpoint(
        lambda values, given: run_sites(_jax.subjaxprs(eqn)[0], values, given),
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return run(values, dict(given))


def _scan(eqn: _jax.Eqn, values: list[Any], given: Mapping[str, Any]):
    body = eqn.params["jaxpr"]
    consts, carried = _jax.scan_counts(eqn)
    inside = {name: given[name] for name in site_specs(body) if name in given}
    length = eqn.params["length"]
    for name, value in inside.items():
        if jnp.shape(value)[:1] != (length,):
            raise SiteError(
                f"the given value has shape {jnp.shape(value)}, but the site is in a scan of "
                f"length {length}, which stacks its values along axis 0",
                site=name,
                where=site_specs(body)[name].choice.where,
                instead="the value that `simulate` gives for this site",
            )

    def step(carry, xs):
        xs, given = xs
        out, sites = run_sites(body, [*values[:consts], *carry, *xs], given)
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


def _cond(eqn: _jax.Eqn, values: list[Any], given: Mapping[str, Any]):
    branches = [
        lambda ops, inside, jaxpr=jaxpr: run_sites(jaxpr, ops, inside)
        for jaxpr in eqn.params["branches"]
    ]
    index, *operands = values
    names = set().union(*(site_specs(jaxpr) for jaxpr in eqn.params["branches"]))
    inside = {name: given[name] for name in names if name in given}
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


def _refuse(eqn: _jax.Eqn, values: list[Any], given: Mapping[str, Any]):
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
    "jit": _call,
    "pjit": _call,
    "closed_call": _call,
    "core_call": _call,
    "remat2": _remat,
    "checkpoint": _remat,
    "scan": _scan,
    "cond": _cond,
}
