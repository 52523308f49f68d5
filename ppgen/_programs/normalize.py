"""Posteriors of unnormalised programs, by sampling-importance-resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ppgen._programs.candidates import Candidate, bind_resampled
from ppgen._programs.estimated import (
    check_particles,
    check_proposal,
    inner,
    log_weight_of_drawn,
    total,
)
from ppgen._staging.sites import has_estimate
from ppgen._user_lines import user_line
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.errors import SiteError


@claims(
    "unbiased",
    "the density of what is drawn, where values are given",
    gradient="unbiased",
    but="where they are drawn, its reciprocal; the draws approach those of the posterior",
)
def normalize(program: Program, *, proposal: Program | None = None, particles: int) -> Program:
    r"""The posterior of an unnormalised program: one that observes, has factors, or is tilted.

    With K = `particles` and a proposal q over its latent sites z, it draws

    .. math:: z_1, \dots, z_K \sim q, \qquad j \sim \mathrm{Categorical}(w), \qquad
              w_k = \frac{\tilde p(z_k)}{q(z_k)}, \qquad
              \hat p(z) = \frac{\tilde p(z)}{\frac1K \sum_k w_k},

    and keeps z_j. This law, that of sampling-importance-resampling, *approaches* the posterior as K
    grows; for K = 1 it is the proposal. For the density of *this* law, not of the posterior,
    `log_density` gives an *unbiased* estimate (z is one of the K, the others are drawn anew), and
    `simulate` one whose reciprocal is *unbiased* for the reciprocal. So every objective that
    contains it is right for the sampler that is used, at any K. Particles are vectorised.

    The index j is a random choice, named `"z | index"` after the sites, whose estimator can be set
    by `with_estimators`: the score function by default, or `Enumerate()`.

    Args:
        program: any program with latent sites.
        proposal: `proposal(*args)` draws the same latent sites; any program, itself with an
            estimated density if need be. By default the program itself proposes: its latent sites
            are drawn without regard to what it observes.
        particles: K; in both `simulate` and `log_density` the particle that is kept or scored is
            one of them.

    Returns:
        A program of the same arguments and the same latent sites, without observed ones.

    Raises:
        SiteError: no latent site, a subsampled plate inside, or a plate, mask or scale around it;
            or an estimated density inside, and no proposal.
        ChoiceMismatchError: the proposal does not draw the same sites.
        ValueError: fewer than one particle.

    References:
        Becker et al., *Probabilistic Programming with Programmable Variational Inference*, PLDI
        2024. Andrieu, Doucet, Holenstein, *Particle Markov Chain Monte Carlo Methods*, JRSS B 2010.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def program():
        ...     z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=1.0)
        ...     return z
        >>> posterior = ppgen.normalize(program, particles=100)
        >>> mean = ppgen.expectation(posterior, draws=1_000)(jax.random.key(0))
        >>> bool(abs(mean - 0.5) < 0.1)
        True
    """
    check_particles("normalize", particles)

    def run(*args: Any, **kwargs: Any) -> Any:
        where = user_line()
        joint = inner(lambda: program(*args, **kwargs))
        names = list(joint.latent)
        if not names:
            raise SiteError(
                "a program without latent sites has no posterior",
                where=where,
                instead="the program as it is",
            )
        operands = list(joint.operands)
        split, proposed = len(operands), None
        if proposal is not None:
            proposer = proposal
            proposed = inner(lambda: proposer(*args, **kwargs))
            check_proposal(proposed, joint.latent, names, where)
            operands += proposed.operands
        elif has_estimate(joint.jaxpr):
            raise SiteError(
                "the program has an estimated density inside, or one that depends on a draw which "
                "is not a site, and the estimate has to be the one that weighted the particle: the "
                "program cannot propose for itself",
                site=names[0],
                where=where,
                instead="a proposal of its own: ppgen.normalize(program, proposal=..., ...)",
            )

        def propose(operands: Sequence[Any]) -> Candidate:
            p, q = operands[:split], operands[split:]
            if proposed is None:
                outs, sites = joint.run(p, {}, unscored=frozenset(names))
                return Candidate(sites.choices, outs, total(sites), None)
            _, drawn = proposed.run(q, {})
            outs, scored = joint.run(p, drawn.choices)
            log_p = total(scored)
            log_weight = log_weight_of_drawn(log_p, total(drawn))
            return Candidate(drawn.choices, outs, log_weight, log_p)

        def weigh(operands: Sequence[Any], values: dict[str, Any]) -> Candidate:
            p, q = operands[:split], operands[split:]
            outs, scored = joint.run(p, values)
            log_p = total(scored)
            if proposed is None:
                log_weight = total(joint.run(p, values, unscored=frozenset(names))[1])
            else:
                log_weight = log_p - total(proposed.run(q, values)[1])
            return Candidate(values, outs, log_weight, log_p)

        return bind_resampled("normalize", joint, operands, particles, propose, weigh)

    return run
