"""Importance-weighted runs of a guide under a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ppgen._programs.estimated import log_weight_of_drawn
from ppgen._programs.simulate import Trace, assess, matched, staged_program, traced
from ppgen._staging.mutable_state import collecting_state, keep_state
from ppgen._staging.primitives import Plate
from ppgen._staging.sites import Given, run_sites, site_specs
from ppgen._user_lines import user_line
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.errors import SiteError


class Importance(eqx.Module):
    """Independent runs of a guide, scored under a model.

    Attributes:
        guide: the runs; every array has a leading axis of the particles.
        model: the same choices under the model, likewise.
        log_weights: log p(x, z) − log q(z) in nats, of shape `(particles, *plates)`: where all
            sites of both programs share plates, there is one for each element, without the scale
            of subsampling.
        scale: how many elements of the shared plates each of them represents.
    """

    guide: Trace
    model: Trace
    log_weights: Array
    scale: float = eqx.field(static=True)

    @property
    def log_q(self) -> Array:
        """Log densities of the guide, of the shape of `log_weights`."""
        return self.by_element(self.guide)

    def by_element(self, trace: Trace) -> Array:
        """The log densities of other runs of model or guide, of the shape of `log_weights`."""
        return _by_element(trace, _shared(self.guide, self.model)) / self.scale

    def total(self, bounds: Array) -> Array:
        """The sum of `bounds`, one for each element, scaled to all elements of the plates."""
        return self.scale * jnp.sum(bounds)


@claims("unbiased", "the evidence, by the exponential of a log weight")
def importance(
    model: Program,
    guide: Program,
    *,
    particles: int = 1,
    density: Program | None = None,
    linear: bool = False,
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[..., Importance]:
    """Draw from a guide and score under a model, `particles` times: vectorised, never unrolled.

    The exponentials of the log weights are *unbiased* estimates of the evidence, also where the
    density of either program is itself estimated. Minibatch indices of subsampled plates are drawn
    once for all particles.

    Args:
        model: a program with the same arguments as the guide. It must contain every site of the
            guide and no other latent site.
        guide: a program that draws the latent choices.
        particles: how many runs.
        density: a program of the same sites to score the runs with instead of the guide, for other
            derivatives of the same number: the guide with its parameters held fixed, for example.
        linear: promise that the log weight of a single particle is added up and nothing else, as
            in the ELBO. It is then right on average where a plate is subsampled that does not
            contain all sites; its exponential is not.
        sharding: how the particles are divided over devices, along the first axis. As for
            `expectation`, it changes where they are computed, not their values.

    Returns:
        A function of the common arguments that returns an `Importance`. It draws: call it within
        `ppgen.expectation` or `ppgen.seed`.

    Raises:
        ChoiceMismatchError: model and guide do not match.
        SiteError: a subsampled plate that does not contain all sites, but for one particle and
            `linear`; or `density`, and a guide with an estimated density, which has to come from
            its own run.
        ValueError: fewer than one particle.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def model(x):
        ...     z = numpyro.sample("z", dist.Normal(0, 1))
        ...     numpyro.sample("x", dist.Normal(z, 1), obs=x)
        >>> def guide(x):
        ...     numpyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> runs = ppgen.seed(ppgen.importance(model, guide, particles=3))(jax.random.key(0), 1.0)
        >>> [f"{w:.4f}" for w in runs.log_weights]  # the guide is the posterior: all are log p(x)
        ['-1.5155', '-1.5155', '-1.5155']
    """
    if particles < 1:
        raise ValueError(f"importance needs at least one particle, not {particles}")

    def run(*args: Any, **kwargs: Any) -> Importance:
        proposed = staged_program(guide, *args, **kwargs)
        scored = staged_program(model, *args, **kwargs)
        specs = site_specs(scored.jaxpr)
        indices: dict[str, Any] = {}
        if any(spec.density is None for spec in site_specs(proposed.jaxpr).values()):
            _, sites = run_sites(proposed.jaxpr, (), Given({}))
            indices = {n: v for n, v in sites.choices.items() if n not in sites.log_probs}

        def one(_: Any) -> tuple[Trace, Trace]:
            drawn = traced(proposed, Given(indices))
            if density is not None:
                if not drawn.exact:
                    raise SiteError(
                        "the density of the guide is estimated: it has to come from the run that "
                        "drew the choices",
                        site=next(iter(drawn.choices), None),
                        where=user_line(),
                        instead="an objective that takes the guide as it is: elbo, iwelbo, renyi",
                    )
                state = drawn.state
                with collecting_state(bool(state)):
                    drawn = assess(density)(drawn, *args, **kwargs)
                drawn = eqx.tree_at(lambda t: t.state, drawn, state)
            return _numbers(drawn), _numbers(traced(scored, Given(matched(drawn, specs))))

        drawn, model_trace = jax.vmap(one)(jnp.arange(particles))
        for trace in (drawn, model_trace):
            # Every particle's update is as good as another's, and their mean need not be one.
            keep_state(jax.tree.map(lambda x: x[0], trace.state))
        plates = _shared(drawn, model_trace)
        if particles > 1 or not linear:
            _check_subsampling(drawn, model_trace, plates)
        scale = math.prod((plate.scale for plate in plates), start=1.0)
        log_p, log_q = _by_element(model_trace, plates), _by_element(drawn, plates)
        log_weights = log_weight_of_drawn(log_p, log_q)
        if sharding is not None:
            # XLA divides what leads to them alike.
            log_weights = jax.lax.with_sharding_constraint(log_weights, sharding)
        return Importance(drawn, model_trace, log_weights / scale, scale)

    return run


def _numbers(trace: Trace) -> Trace:
    """Without what the program returned, which need not consist of arrays."""
    return eqx.tree_at(lambda t: t.value, trace, None, is_leaf=lambda x: x is None)


def _shared(*traces: Trace) -> list[Plate]:
    """The plates around every term of all of the traces."""
    stacks = [plates for trace in traces for _, plates in trace.plates]
    if not stacks:
        return []
    return [plate for plate in stacks[0] if all(plate in stack for stack in stacks)]


def _by_element(trace: Trace, plates: list[Plate]) -> Array:
    """The log density of each particle and each element of `plates`, summed over all else."""
    total: Any = jnp.zeros(())
    for log_prob in trace.log_probs.values():
        kept = [0, *(log_prob.ndim + plate.dim for plate in plates)]
        rest = [axis for axis in range(log_prob.ndim) if axis not in kept]
        summed = tuple(range(len(kept), log_prob.ndim))
        total = total + jnp.sum(jnp.transpose(log_prob, (*kept, *rest)), axis=summed)
    return total


def _check_subsampling(drawn: Trace, scored: Trace, shared: list[Plate]) -> None:
    for name, plates in (*drawn.plates, *scored.plates):
        for plate in plates:
            if plate.scale != 1.0 and plate not in shared:
                raise SiteError(
                    f"the plate {plate.name!r} is subsampled and does not contain all sites: the "
                    "exponential of a scaled log density is not unbiased, so neither is a weight, "
                    "and a bound with several particles would not be one",
                    site=name,
                    where=dict(drawn.sites)[name].where if name in dict(drawn.sites) else None,
                    instead="one particle (the ELBO), the whole plate, or the plate around all "
                    "sites of model and guide",
                )
