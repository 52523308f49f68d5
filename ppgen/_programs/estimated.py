"""Programs whose density is only estimated, as parts of other programs.

An *estimated* program draws its sites together with a weight w, E[1/w | sites] = 1/p(sites), and
scores given sites with an unbiased estimate of p(sites). Both logarithms then bound an objective
from the right side: E[log w] >= log p where it was drawn, E[log p̂] <= log p where it was given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.primitives import apply_stack

from ppgen import _jax
from ppgen._distributions.supports import agree
from ppgen._settings import current
from ppgen._staging.choice import in_loop
from ppgen._staging.primitives import EstimatedSpec, SiteSpec, estimated_p
from ppgen._staging.sites import Given, Sites, run_sites, site_specs
from ppgen._staging.stage import stage
from ppgen._user_lines import user_line
from ppgen.errors import ChoiceMismatchError, SiteError

Evaluate = Callable[[Sequence[Array], dict[str, Array] | None], tuple[list[Any], Array]]


class Inner(NamedTuple):
    """A staged program inside an estimated one, whose constants are operands of the latter.

    Attributes:
        jaxpr: the staged program; its inputs are values that it is conditioned on.
        unflatten: from its outputs to what it returned.
        latent: its latent sites.
        observed: whether it has observed sites or factors.
        values: shape and dtype of each latent site's value.
        outs: shape and dtype of each output.
    """

    jaxpr: Any
    unflatten: Callable[[list[Any]], Any]
    latent: dict[str, SiteSpec]
    observed: bool
    values: dict[str, Any]
    outs: list[Any]

    @property
    def operands(self) -> Sequence[Any]:
        """The constants."""
        return _jax.open_jaxpr(self.jaxpr)[1]

    def run(
        self, operands: Sequence[Any], known: dict[str, Any], inputs: Any = (), **options: Any
    ) -> tuple[list[Any], Sites]:
        """Run it on the constants `operands`, with the values of the sites `known`."""
        return run_sites(
            self.jaxpr, jax.tree.leaves(inputs), Given(known, **options), consts=operands
        )


def inner(program: Callable[..., Any], *inputs: Any) -> Inner:
    """Stage `program(*inputs)`, where the inputs may be shapes."""
    staged = stage(program, *inputs, recorded=True)
    specs = site_specs(staged.jaxpr)
    for name, spec in specs.items():
        if spec.density is None:
            raise SiteError(
                "a plate with subsampling scales the log density of its minibatch: the exponential "
                "of that is not an unbiased estimate of the density",
                site=name,
                where=spec.choice.where,
                instead="the whole plate here, and the subsampling in a plate around all of it",
            )
    shapes = jax.tree.leaves(inputs)
    outs, sites = jax.eval_shape(lambda *args: run_sites(staged.jaxpr, args, Given({})), *shapes)
    latent = {name: spec for name, spec in specs.items() if not spec.observed}
    observed = any(spec.observed for spec in specs.values())
    return Inner(staged.jaxpr, staged.unflatten, latent, observed, sites.choices, outs)


def total(sites: Sites) -> Array:
    """Sum of all log densities, in nats."""
    return sum(map(jnp.sum, sites.log_probs.values()), jnp.zeros(()))


def check_proposal(
    proposal: Inner, latent: dict[str, SiteSpec], names: Collection[str], where: str
) -> None:
    """Refuse a proposal that draws other sites than `names`, or on another support."""
    if proposal.observed:
        raise SiteError(
            "a proposal with observed sites or factors has no normalised density",
            where=where,
            instead="ppgen.normalize(proposal, ...)",
        )
    if set(proposal.latent) != set(names):
        missing, more = set(names) - set(proposal.latent), set(proposal.latent) - set(names)
        raise ChoiceMismatchError(
            f"the proposal must draw {sorted(names)}: "
            + (f"it lacks {sorted(missing)}" if missing else f"it draws {sorted(more)} too"),
            site=sorted(missing or more)[0],
            where=where,
            instead="ppgen.marginal(proposal, keep=[...]) to integrate sites out"
            if more
            else "a site of that name in the proposal",
        )
    for name in names:
        one, other = proposal.latent[name].support, latent[name].support
        if not agree(one, other):
            raise ChoiceMismatchError(
                f"the supports differ: proposed from {one}, scored on {other}",
                site=name,
                where=proposal.latent[name].choice.where,
                instead="a proposal on the same support",
            )


def check_particles(kind: str, particles: int) -> None:
    """Refuse less than one particle."""
    if particles < 1:
        raise ValueError(f"{kind} needs at least one particle, not {particles}")


def log_weight_of_drawn(log_p: Array, log_q: Array) -> Array:
    """Log p − log q of values that were drawn from q.

    Values that q cannot draw are evaluated too if the choice is summed over. They have weight zero,
    but ∞ − ∞ would make all other terms NaN.
    """
    return jnp.where(log_q == -jnp.inf, 0.0, log_p - log_q)


def stack(first: Any, rest: Any) -> Any:
    """`first` put in front of `rest`, along a leading axis, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def bind_estimated(
    kind: str,
    program: Inner,
    sites: dict[str, SiteSpec],
    operands: Sequence[Any],
    evaluate: Evaluate,
    *,
    check_simulated: Callable[[], None] = lambda: None,
) -> Any:
    """Call an estimated program: its latent sites `sites` become sites of the program around it.

    Args:
        kind: what made it, as "marginal", for errors.
        program: the program in it, whose return value is that of the call.
        sites: those of its latent sites that it has for the program around it.
        operands: what `evaluate` gets.
        evaluate: `(operands, values of all of `sites` or None) -> (outputs, log density)`; the
            outputs are the values of `sites` and those of `program`.
        check_simulated: raises where the sites cannot be drawn.

    Returns:
        What the program returned.
    """
    where = user_line()
    messages = {name: _announced(kind, name, spec, where) for name, spec in sites.items()}
    outer = {name: msg["name"] for name, msg in messages.items()}
    given = {n: jnp.asarray(m["value"]) for n, m in messages.items() if m["value"] is not None}
    if given and len(given) < len(sites):
        raise SiteError(
            f"{sorted(given)} have values here, the other sites of this {kind} program have not; "
            "they have one density together",
            site=sorted(given)[0],
            where=where,
            instead="ppgen.normalize(conditioned program, ...), which draws the others given these",
        )
    count = len(operands)

    def results(operands: Sequence[Any], values: dict[str, Any] | None):
        known = dict(zip(given, operands[count:], strict=False)) if given else None
        if not sites:
            known = {}
        elif values is not None and not given:
            known = {name: values[outer[name]] for name in sites}
        if known is None:
            check_simulated()
        return evaluate(operands[:count], known)

    operands = [*map(jnp.asarray, operands), *given.values()]
    if not current().densities_asked:
        outs = results(operands, None)[0]
    else:
        shapes = [program.values[name] for name in sites]
        spec = EstimatedSpec(
            name="|".join(outer.values()) or kind,
            where=where,
            sites={outer[n]: _renamed(s, outer[n], n in given) for n, s in sites.items()},
            results=(*shapes, *program.outs),
            evaluate=results,
            looped=in_loop(),
        )
        outs = estimated_p.bind(*operands, spec=spec, lanes=(), mapped=((),) * len(operands))
    return program.unflatten(outs[len(sites) :])


def _renamed(spec: SiteSpec, name: str, observed: bool) -> SiteSpec:
    choice = dataclasses.replace(spec.choice, name=name)
    return dataclasses.replace(spec, choice=choice, observed=observed)


class _Placeholder:
    """A placeholder for the distribution of a site that has none of its own."""

    def __init__(self, kind: str, site: str, where: str) -> None:
        self.kind, self.site, self.where = kind, site, where

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[None, list]:
        return None, []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise SiteError(
            f"a plate or mask around a {self.kind} program has no meaning: its sites have one "
            "density together, not one for each element",
            site=self.site,
            where=self.where,
            instead="jax.vmap of the program that calls it, or the plate inside of it",
        )


def _announced(kind: str, name: str, spec: SiteSpec, where: str) -> dict:
    """What the handlers around the call change about a site: another name, or a given value."""
    msg = {
        "type": "sample",
        "name": name,
        "fn": _Placeholder(kind, name, where),
        "args": (),
        "kwargs": {"rng_key": None, "sample_shape": ()},
        "value": None,
        "scale": None,
        "is_observed": False,
        "intermediates": [],
        "cond_indep_stack": [],
        "infer": {},
        # Not for the handler that binds sites.
        "ppgen": True,
    }
    msg = apply_stack(msg)
    if msg["scale"] is not None:
        raise SiteError(
            f"handlers.scale around a {kind} program: the exponential of a scaled log density is "
            "not unbiased",
            site=name,
            where=where,
            instead="the scale times ppgen.log_density(program)(...) in the objective",
        )
    return msg
