"""Programs as objects with a sampler and a density: `simulate` and `log_density`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ppgen._distributions.supports import Support, agree
from ppgen._staging.mutable_state import is_state_kept, keep_state
from ppgen._staging.primitives import Plate, SiteSpec, mark
from ppgen._staging.sites import Given, has_estimate, run_sites, site_specs
from ppgen._staging.stage import Staged, stage
from ppgen._tracebacks import boundary
from ppgen.annotations import Program
from ppgen.errors import ChoiceMismatchError, SiteError


class SiteFacts(NamedTuple):
    """Static facts about a latent site.

    Attributes:
        support: where its values lie.
        auxiliary: whether the model may lack it.
        has_density: false for the indices of a subsampled plate.
        where: the user's file and line.
        plates: the plates around it, outermost first.
        pathwise: whether it is drawn with a pathwise derivative.
        fixed: whether it is a minibatch whose indices are given.
        masked: whether there is a mask on its density.
    """

    support: Support
    auxiliary: bool
    has_density: bool
    where: str
    plates: tuple[Plate, ...]
    pathwise: bool
    fixed: bool = False
    masked: bool = False


class Trace(eqx.Module):
    """One run of a program.

    Attributes:
        choices: the values of the latent sites, and the indices of subsampled plates, by name. A
            site in a scan has its values stacked along axis 0; one under `vmap`, along the mapped
            axis.
        log_density: log density of `choices` in nats, observed sites and factors included; a
            scalar.
        value: what the program returned; `None` in place of anything that was integrated out.
        log_probs: the terms of `log_density` by site, observed ones included, masked and scaled:
            one for each element of the site's batch shape. Sites that only have a density together
            have one under their joined names.
        sites: static facts about each site of `choices`.
        plates: the plates around each term of `log_probs`, outermost first.
        exact: whether `log_density` is the density, not an estimate of it.
        state: new values of its `mutable` sites, where `with_state` asks for them.
    """

    choices: dict[str, Array]
    log_density: Array
    value: Any
    log_probs: dict[str, Array] = eqx.field(repr=False)
    sites: tuple[tuple[str, SiteFacts], ...] = eqx.field(static=True, repr=False)
    plates: tuple[tuple[str, tuple[Plate, ...]], ...] = eqx.field(static=True, repr=False)
    exact: bool = eqx.field(static=True, repr=False)
    state: dict[str, Any] = eqx.field(repr=False)

    def __getitem__(self, name: str) -> Array:
        """The value of the site `name`."""
        return self.choices[name]

    def refuse_subsampled(self, what: str, *, instead: str) -> None:
        """Refuse a log density that is an estimate because a plate is subsampled.

        Its mean over minibatches is the log density of all. So functions that are linear in it are
        unbiased, and others (an importance weight, which is an exponential of it; the loss of a
        classifier) are not.

        Args:
            what: what would be biased, as a clause.
            instead: what to write.

        Raises:
            SiteError: some term of the log density is scaled by a plate that is subsampled.
        """
        places = {name: facts.where for name, facts in self.sites}
        for name, plates in self.plates:
            for plate in plates:
                if plate.scale != 1.0:
                    raise SiteError(
                        f"the plate {plate.name!r} is subsampled, so that the log density is that "
                        f"of a minibatch, scaled: {what}",
                        site=name,
                        where=places.get(name),
                        instead=instead,
                    )


def simulate(program: Program) -> Callable[..., Trace]:
    """Run a program and record its choices.

    Args:
        program: any callable that uses NumPyro effects.

    Returns:
        A function of the program's arguments that returns a `Trace`. It draws: call it within
        `ppgen.seed`, `ppgen.expectation` or another program.

    Raises:
        SiteError: two sites of one name, or an effect that has no meaning here.
        ControlFlowError: a site where its values cannot be recorded, as in a `while_loop`.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def program(scale):
        ...     x = numpyro.sample("x", dist.Normal(0.0, scale))
        ...     return x + 1.0
        >>> trace = ppgen.seed(ppgen.simulate(program))(jax.random.key(0), 2.0)
        >>> bool(trace.value == trace["x"] + 1.0)
        True
    """

    @boundary
    def run(*args: Any, **kwargs: Any) -> Trace:
        staged = staged_program(program, *args, **kwargs)
        trace = traced(staged, Given({}))
        keep_state(trace.state)
        return trace

    return run


def assess(program: Program) -> Callable[..., Trace]:
    """Run a program on given choices, and record the run.

    Args:
        program: any callable that uses NumPyro effects.

    Returns:
        A function `(choices, *args) -> Trace`, with `choices` as for `log_density`.

    Raises:
        ChoiceMismatchError: a latent site without a value, a value without a site, or supports
            that differ.

    Example:
        >>> import numpyro, numpyro.distributions as dist, ppgen
        >>> def program():
        ...     x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(x, 1.0), obs=2.0)
        >>> trace = ppgen.assess(program)({"x": 0.0})
        >>> {name: round(float(lp), 4) for name, lp in trace.log_probs.items()}
        {'x': -0.9189, 'y': -2.9189}
    """

    @boundary
    def run(choices: Mapping[str, Any] | Trace, *args: Any, **kwargs: Any) -> Trace:
        staged = staged_program(program, *args, **kwargs)
        jaxpr = staged.jaxpr
        hidden = frozenset(site_specs(jaxpr, hidden=True))
        trace = traced(staged, Given(matched(choices, site_specs(jaxpr), hidden)))
        keep_state(trace.state)
        return trace

    return run


def staged_program(program: Program, *args: Any, **kwargs: Any) -> Staged:
    """Stage a program whose densities and new state will be needed."""
    return stage(lambda: program(*args, **kwargs), recorded=True, state=is_state_kept())


def traced(staged: Staged, given: Given) -> Trace:
    """The trace of one run of a staged program."""
    specs = site_specs(staged.jaxpr)
    outs, sites = run_sites(staged.jaxpr, (), given)
    facts = tuple(
        (
            name,
            SiteFacts(
                support=s.support,
                auxiliary=s.auxiliary,
                has_density=s.density is not None,
                where=s.choice.where,
                plates=s.plates,
                pathwise=s.choice.template is not None and s.choice.template.in_place,
                fixed=s.fixed,
                masked=s.masked,
            ),
        )
        for name, s in specs.items()
        if name in sites.choices
    )
    where = {name: specs[name].choice.where for name in specs}
    log_probs = {n: mark(lp, "log_prob", n, where.get(n, "")) for n, lp in sites.log_probs.items()}
    terms = [jnp.sum(lp) for lp in log_probs.values()]
    value, state = staged.both(outs)
    return Trace(
        choices=sites.choices,
        log_density=sum(terms[1:], terms[0]) if terms else jnp.zeros(()),
        value=value,
        log_probs=log_probs,
        sites=facts,
        plates=tuple((n, specs[n].plates if n in specs else ()) for n in sites.log_probs),
        exact=not has_estimate(staged.jaxpr),
        state=state,
    )


def log_density(program: Program) -> Callable[..., Array]:
    """Log density of a program's choices.

    Args:
        program: any callable that uses NumPyro effects.

    Returns:
        A function `(choices, *args) -> scalar` in nats, observed sites and factors included.
        `choices` is a dict by site or a `Trace` of another program, whose auxiliary sites are then
        left out and whose supports are compared. Indices of a subsampled plate may be absent:
        fresh ones are drawn, and the result is an unbiased estimate of the full sum.

    Raises:
        ChoiceMismatchError: a latent site without a value, a value without a site, or supports
            that differ.

    Example:
        >>> import numpyro, numpyro.distributions as dist, ppgen
        >>> def program():
        ...     numpyro.sample("x", dist.Normal(0.0, 1.0))
        >>> round(float(ppgen.log_density(program)({"x": 0.0})), 4)
        -0.9189
    """
    scored = assess(program)

    @boundary
    def score(choices: Mapping[str, Any] | Trace, *args: Any, **kwargs: Any) -> Array:
        return scored(choices, *args, **kwargs).log_density

    return score


def matched(
    choices: Mapping[str, Any] | Trace,
    specs: dict[str, SiteSpec],
    hidden: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The values in `choices` of a program's latent sites.

    Args:
        choices: values by name.
        specs: the program's sites.
        hidden: names of sites that are hidden, to which a value may be given all the same, but not
            one that another program drew and has a density of.

    Raises:
        ChoiceMismatchError: a latent site without a value, a value without a site, supports that
            differ, or a mask that one of the two programs has and the other has not.
    """
    given = dict(choices.choices if isinstance(choices, Trace) else choices)
    sources = dict(choices.sites) if isinstance(choices, Trace) else {}
    latent = {name: spec for name, spec in specs.items() if not spec.observed}
    for name in list(given):
        source = sources.get(name)
        if name in hidden and source is not None and name in specs:
            raise ChoiceMismatchError(
                "a site that handlers.block hides has this name too, and would get the value",
                site=name,
                where=source.where,
                instead="handlers.scope around the function that is given to scan or cond",
            )
        if name in hidden and name not in specs and source is None:
            continue
        if name not in latent:
            # Auxiliary sites of a guide, and its plate indices, need no partner in the model.
            if source is not None and (source.auxiliary or not source.has_density):
                del given[name]
                continue
            here = specs[name].choice.where if name in specs else None
            raise ChoiceMismatchError(
                "the site is observed in the program" if here else "the program has no such site",
                site=name,
                where=source.where if source is not None else here,
                instead=f"one of {sorted(latent)}; or, for a site that only a guide has, "
                "infer={'is_auxiliary': True}",
            )
        if source is not None and latent[name].fixed and not source.fixed:
            raise ChoiceMismatchError(
                "the program is given a minibatch, and the other one, whose choices it scores, "
                "draws its own",
                site=name,
                where=source.where,
                instead="the indices given to the program that draws (the guide)",
            )
        if source is not None and source.has_density and latent[name].masked != source.masked:
            scored = latent[name].masked
            here, there = ("scores", "draws") if scored else ("draws", "scores")
            bare = "drawn (the guide)" if scored else "scored (the model)"
            raise ChoiceMismatchError(
                f"the site is masked in the program that {here} it, and not in the one that "
                f"{there} it: a bound would not be one, because only one of the two densities has "
                "this term",
                site=name,
                where=source.where if scored else latent[name].choice.where,
                instead=f"the same mask where it is {bare}: with numpyro.handlers.mask(mask=mask)",
            )
        if source is not None and not agree(source.support, latent[name].support):
            raise ChoiceMismatchError(
                f"the supports differ: drawn from {source.support}, scored on "
                f"{latent[name].support}",
                site=name,
                where=source.where,
                instead="a distribution with the same support in guide and model",
            )
    for name, spec in latent.items():
        if name not in given and spec.density is not None:
            raise ChoiceMismatchError(
                "a latent site has no value: nothing draws it",
                site=name,
                where=spec.choice.where,
                instead=f"a site {name!r} in the guide, or an entry {name!r} in `choices`",
            )
        if name in given and _is_whole(given[name], spec):
            # An integer given as the value of a real variable: later operations were staged for
            # floats.
            given[name] = jnp.asarray(given[name]).astype(spec.choice.dtype)
    return given


def _is_whole(value: Any, spec: SiteSpec) -> bool:
    real = jnp.issubdtype(spec.choice.dtype, jnp.floating)
    return bool(real and not jnp.issubdtype(jnp.result_type(value), jnp.inexact))
