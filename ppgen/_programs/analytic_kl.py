"""Kullback-Leibler divergences in closed form, site by site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions.kl import kl_divergence

from ppgen._programs.simulate import matched, staged_program, traced
from ppgen._staging.mutable_state import keep_state
from ppgen._staging.primitives import SiteSpec
from ppgen._staging.sites import Given, site_specs
from ppgen.annotations import Program
from ppgen.claims import claims


@claims("unbiased", "the evidence lower bound, by the sum of the terms", gradient="unbiased")
def analytic_kl(model: Program, guide: Program) -> Callable[..., dict[str, Array]]:
    """Terms of log p(x, z) − log q(z) for one run of the guide, in closed form where one is known.

    For a site whose distributions under guide and model have a registered divergence, the term is
    −KL(q(z_i | ...) ‖ p(z_i | ...)), given what the guide drew before it: the expectation of the
    difference of log densities, so that the sum of all terms has the same mean and less variance.
    *Unbiased*. Where it would not be the expectation (the model has drawn something before z_i that
    the guide draws after it, a mask, different scales, a loop), or no divergence is known, the term
    is the difference of the log densities.

    Args:
        model: a program with the same arguments as the guide.
        guide: a program that draws the latent choices.

    Returns:
        A function of the common arguments: terms by site, in nats, of the site's batch shape. Not
        log weights: only their sum, linearly, means something.

    Raises:
        ChoiceMismatchError: model and guide do not match.

    References:
        Kingma, Welling, *Auto-Encoding Variational Bayes*, ICLR 2014, appendix B.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def model():
        ...     numpyro.sample("z", dist.Normal(0.0, 1.0))
        >>> def guide():
        ...     numpyro.sample("z", dist.Normal(1.0, 1.0))
        >>> terms = ppgen.seed(ppgen.analytic_kl(model, guide))(jax.random.key(0))
        >>> float(terms["z"])
        -0.5
    """

    def run(*args: Any, **kwargs: Any) -> dict[str, Array]:
        proposed = staged_program(guide, *args, **kwargs)
        scored = staged_program(model, *args, **kwargs)
        specs = site_specs(scored.jaxpr)
        ours, theirs = {}, {}
        q = traced(proposed, Given({}, seen=ours))
        p = traced(scored, Given(matched(q, specs), seen=theirs))
        keep_state(q.state)
        keep_state(p.state)
        order = [n for n, s in site_specs(proposed.jaxpr).items() if not s.observed]
        model_order = [n for n, s in specs.items() if not s.observed]
        before = {n: set(model_order[:i]) for i, n in enumerate(model_order)}
        terms: dict[str, Array] = {}
        closed = set()
        for i, name in enumerate(order):
            if name in ours and name in theirs and before[name] <= set(order[:i]):
                divergence = _divergence(ours[name], theirs[name])
                if divergence is not None:
                    terms[name] = -divergence
                    closed.add(name)
        for sign, trace in ((1, p), (-1, q)):
            for name, log_prob in trace.log_probs.items():
                if name not in closed:
                    terms[name] = (
                        terms[name] + sign * log_prob if name in terms else sign * log_prob
                    )
        return terms

    return run


def _divergence(one: Any, other: Any) -> Array | None:
    (q, q_spec, _), (p, p_spec, _) = one, other
    if q_spec.masked or p_spec.masked:
        return None
    scales = [_scale(spec, operands) for _, spec, operands in (one, other)]
    if scales[0] is not scales[1] and not _equal(*scales):
        return None
    try:
        divergence = kl_divergence(q, p)
    except NotImplementedError:  # NumPyro has no closed form for this pair
        return None
    return divergence if scales[0] is None else divergence * scales[0]


def _scale(spec: SiteSpec, operands: list[Any]) -> Any:
    return operands[-1] if spec.has_scale else None


def _equal(one: Any, other: Any) -> bool:
    known = not any(x is None or isinstance(x, jax.core.Tracer) for x in (one, other))
    return known and bool(jnp.array_equal(one, other))
