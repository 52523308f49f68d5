"""Programs with some of their sites integrated out."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen._interpret import follow
from ppgen._log_weights import log_mean_exp
from ppgen._programs.estimated import (
    bind_estimated,
    check_particles,
    check_proposal,
    inner,
    log_weight_of_drawn,
    stack,
    total,
)
from ppgen._staging.primitives import CALLS, SiteSpec
from ppgen._staging.sites import has_sites, site_specs
from ppgen._user_lines import user_line
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.errors import SiteError


@claims(
    "unbiased",
    "the density, where values are given",
    gradient="unbiased",
    but="where they are drawn, it is the reciprocal that is unbiased: bounds stay bounds",
)
def marginal(
    program: Program,
    keep: Sequence[str] | str,
    *,
    proposal: Program | None = None,
    particles: int = 1,
) -> Program:
    r"""Integrate sites out of a program, and keep the others.

    For kept sites x and the others u, with K = `particles` and a proposal q,

    .. math:: \hat p(x) = \frac1K \sum_{k=1}^K \frac{p(x, u_k)}{q(u_k \mid x)}, \qquad
              u_1, \dots, u_K \sim q(\cdot \mid x).

    `log_density` gives the logarithm of an *unbiased* estimate of the density of x (so a lower
    *bound* on its logarithm, in expectation). `simulate` runs the program, and keeps u as the first
    of the K particles: the reciprocal of that estimate is *unbiased* for 1/p(x) (so its logarithm
    is an upper bound on log p(x)). Either way a variational objective that contains it stays a
    bound on the same side. Particles are vectorised.

    Args:
        program: any program. Where its density is evaluated and its return value used, that value
            must depend on kept sites only.
        keep: names of the sites that stay, or globs (`"z_*"`). If no site is kept, what remains is
            a factor: the estimated density of all that the program observes.
        proposal: `proposal(kept, *args)`, with `kept` a dict of the kept sites by name, draws the
            other sites; any program, itself with an estimated density if need be. By default the
            program itself proposes: the others are drawn as it draws them, `kept` held fixed.
        particles: K, in `simulate` the retained one included.

    Returns:
        A program of the same arguments, with the sites `keep`. Conditioning on all of them makes
        it a factor.

    Raises:
        SiteError: no site of a name in `keep`; a subsampled plate inside; a plate, mask or scale
            around it; or it is to be simulated while what it observes depends on what it integrates
            out (`normalize` it first).
        ChoiceMismatchError: the proposal does not draw the other sites.
        ValueError: fewer than one particle.

    References:
        Becker et al., *Probabilistic Programming with Programmable Variational Inference*, PLDI
        2024. Ranganath, Tran, Blei, *Hierarchical Variational Models*, ICML 2016 (K = 1). Sobolev,
        Vetrov, *Importance Weighted Hierarchical Variational Inference*, NeurIPS 2019.

    Example:
        The estimate is unbiased: here p(x=0) is 0.2821, the density of N(0, 2).

        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> def program():
        ...     u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("x", dist.Normal(u, 1.0))
        >>> p = ppgen.log_density(ppgen.marginal(program, ["x"], particles=10_000))
        >>> estimate = jnp.exp(ppgen.seed(p)(jax.random.key(0), {"x": 0.0}))
        >>> bool(abs(estimate - 0.2821) < 0.01)
        True
    """
    check_particles("marginal", particles)
    patterns = [keep] if isinstance(keep, str) else list(keep)

    def run(*args: Any, **kwargs: Any) -> Any:
        where = user_line()
        joint = inner(lambda: program(*args, **kwargs))
        for pattern in patterns:
            if not fnmatch.filter(joint.latent, pattern):
                raise SiteError(
                    "the program has no latent site of this name to keep",
                    site=pattern,
                    where=where,
                    instead=f"some of {sorted(joint.latent)}",
                )
        kept = [n for n in joint.latent if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
        others = [n for n in joint.latent if n not in kept]
        operands = list(joint.operands)
        split, proposed = len(operands), None
        if proposal is not None:
            reverse = proposal
            proposed = inner(
                lambda values: reverse(values, *args, **kwargs),
                {n: joint.values[n] for n in kept},
            )
            check_proposal(proposed, joint.latent, others, where)
            operands += proposed.operands
        outs_vary, observed_vary = _depends(joint.jaxpr, set(others))

        def check_simulated() -> None:
            if observed_vary:
                raise SiteError(
                    f"what this program observes depends on {others}, which are integrated out: "
                    "drawing from the program does not draw from the marginal",
                    site=others[0],
                    where=where,
                    instead="ppgen.marginal(ppgen.normalize(program, ...), keep=...)",
                )

        def weigh(operands: Sequence[Any], values: dict[str, Any]) -> Array:
            """The log weight of one fresh particle."""
            p, q = operands[:split], operands[split:]
            if proposed is None:
                return total(joint.run(p, values, unscored=frozenset(others))[1])
            _, drawn = proposed.run(q, {}, values)
            _, scored = joint.run(p, values | drawn.choices)
            return log_weight_of_drawn(total(scored), total(drawn))

        def score(operands: Sequence[Any], values: dict[str, Any]) -> tuple[list[Any], Array]:
            outs: list[Any] = [None] * len(outs_vary)
            if not all(outs_vary):
                outs, _ = joint.run(operands[:split], values)
                outs = [None if vary else o for o, vary in zip(outs, outs_vary, strict=True)]
            log_weights = jax.vmap(lambda _: weigh(operands, values))(jnp.arange(particles))
            return [*(values[n] for n in kept), *outs], log_mean_exp(log_weights)

        def simulate(operands: Sequence[Any]) -> tuple[list[Any], Array]:
            p, q = operands[:split], operands[split:]
            unscored = others if proposed is None else ()
            outs, sites = joint.run(p, {}, unscored=frozenset(unscored))
            values = {n: sites.choices[n] for n in kept}
            log_weight = total(sites)
            if proposed is not None:
                retained = {n: sites.choices[n] for n in others}
                log_weight -= total(proposed.run(q, retained, values)[1])
            if particles > 1:
                fresh = jax.vmap(lambda _: weigh(operands, values))(jnp.arange(particles - 1))
                log_weight = log_mean_exp(stack(log_weight, fresh))
            return [*values.values(), *outs], log_weight

        def evaluate(operands: Sequence[Any], values: dict[str, Any] | None):
            return simulate(operands) if values is None else score(operands, values)

        return bind_estimated(
            "marginal",
            joint,
            {n: joint.latent[n] for n in kept},
            operands,
            evaluate,
            check_simulated=check_simulated,
        )

    return run


def _depends(jaxpr: Any, names: set[str], tainted: Sequence[bool] = ()) -> tuple[list[bool], bool]:
    """Which outputs depend on the sites `names`, other sites held fixed.

    Args:
        jaxpr: a staged program.
        names: sites.
        tainted: for each of its inputs, whether it depends on them; by default none does.

    Returns:
        For each output whether it does, and whether any observed site or factor does.
    """
    jaxpr, _ = _jax.open_jaxpr(jaxpr)
    observed = False

    def equation(eqn: _jax.Eqn, flags: list[bool]) -> list[bool]:
        nonlocal observed
        outs = [any(flags)] * len(eqn.outvars)
        if eqn.primitive.name in ("sample_site", "estimated_program"):
            spec = eqn.params["spec"]
            sites = {spec.choice.name: spec} if isinstance(spec, SiteSpec) else spec.sites
            latent = [n for n, s in sites.items() if not s.observed]
            observed |= any(flags) and len(latent) < max(len(sites), 1)
            chosen = bool(names.intersection(latent))
            # The values of latent sites are held fixed, unless they are among `names`.
            held = len(sites) if latent else 0
            outs = [chosen or (any(flags) and i >= held) for i in range(len(outs))]
        elif eqn.primitive.name in CALLS:
            outs, inside = _depends(_jax.subjaxprs(eqn)[0], names, flags)
            observed |= inside
        elif has_sites(eqn):
            # Whatever goes into a loop or a branch may reach all of it.
            bodies = [_jax.open_jaxpr(j)[0] for j in _jax.subjaxprs(eqn)]
            if any(flags) or any(names.intersection(site_specs(j)) for j in bodies):
                outs = [True] * len(outs)
                observed |= any(_depends(j, names, [True] * len(j.invars))[1] for j in bodies)
        return outs

    env = follow(jaxpr, tainted or [False] * len(jaxpr.invars), equation, nothing=False)
    return env.read(jaxpr.outvars), observed
