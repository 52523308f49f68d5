"""Importance sampling, and resampling from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree

import ppgen
from ppgen._log_weights import normalized
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.posteriors._arviz_data import ParetoSmoothed, pareto_smoothed


class ImportanceSamples(eqx.Module):
    """K runs of a guide, weighted to represent the posterior of a model.

    Attributes:
        choices: the latent choices by site, each with a leading axis of the runs.
        log_weights: normalised log weights, `(K,)`.
        log_evidence: in nats; its exponential is an *unbiased* estimate of the evidence (itself a
            lower *bound* in expectation).
    """

    choices: dict[str, Array]
    log_weights: Float[Array, " k"]
    log_evidence: Float[Array, ""]

    @property
    def ess(self) -> Float[Array, ""]:
        """The effective sample size, between 1 and K: Kish's, of the weights. *Heuristic*."""
        return jnp.exp(-jax.nn.logsumexp(2 * self.log_weights))

    def psis(self) -> ParetoSmoothed:
        """Pareto-smoothed weights and their k-hat, by ArviZ, outside of JAX's transformations."""
        return pareto_smoothed(self.log_weights)

    def expect(self, f: Callable[[dict[str, Array]], PyTree]) -> PyTree:
        """The weighted mean of `f(choices)` over the runs, for any pytree of arrays.

        *Biased*, by O(1/K): the weights are normalised by their own sum.
        """
        weights = jnp.exp(self.log_weights)
        return jax.tree.map(lambda x: jnp.tensordot(weights, x, 1), jax.vmap(f)(self.choices))

    def resample(self, samples: int) -> dict[str, Array]:
        """Draw runs with replacement, by their weights: choices with a leading axis of `samples`.

        Their law *approaches* the posterior as K grows. It draws: call it within `ppgen.seed`.
        """
        law = dist.CategoricalLogits(logits=self.log_weights, validate_args=False)
        index = ppgen.draw(law.expand((samples,)), name="resampled")
        return jax.tree.map(lambda x: x[index], self.choices)

    def for_arviz(self) -> tuple[dict[str, Array], dict[str, Array], bool]:
        """For `to_arviz`: the draws, their statistics, and whether the first axis is of chains."""
        k_hat = jnp.full(self.log_weights.shape, self.psis().k_hat)
        return self.choices, {"log_weight": self.log_weights, "k_hat": k_hat}, False


@claims(
    "unbiased",
    "the evidence, by the mean weight",
    gradient="unbiased",
    but="expectations under the posterior are biased by O(1/particles)",
)
def importance_sampling(
    model: Program, guide: Program, *, particles: int
) -> Callable[..., ImportanceSamples]:
    """Weighted samples of the posterior, and an estimate of the evidence.

    The mean weight is *unbiased* for the evidence, so that its logarithm is a lower bound.
    One weight belongs to a whole run. Where latents are independent of each other given the data (a
    plate over data), take `jax.vmap` of the result over data instead: the weights are then far more
    even.

    Args:
        model: a program with the same arguments as the guide. It must contain every site of the
            guide and no other latent site. Its density may be estimated.
        guide: a program that draws the latent choices; or `ppgen.normalize(...)` of one.
        particles: K, the number of runs. They are vectorised.

    Returns:
        A function of the common arguments that returns `ImportanceSamples`. It draws: call it
        within `ppgen.seed`, `ppgen.expectation` or a program.

    Raises:
        ChoiceMismatchError: model and guide do not match.
        SiteError: a subsampled plate, whose scaled log density gives no unbiased weight.
        ValueError: fewer than one particle.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import importance_sampling
        >>> def model(x):
        ...     z = numpyro.sample("z", dist.Normal(0, 1))
        ...     numpyro.sample("x", dist.Normal(z, 1), obs=x)
        >>> def guide(x):
        ...     numpyro.sample("z", dist.Normal(0, 2))
        >>> run = ppgen.seed(importance_sampling(model, guide, particles=20_000))
        >>> found = run(jax.random.key(0), 1.0)  # exactly: -1.5155, and N(0.5, 0.5)
        >>> print(f"{found.log_evidence:.1f} {found.expect(lambda z: z['z']):.1f}")
        -1.5 0.5
    """
    runs = ppgen.importance(model, guide, particles=particles)

    def run(*args: Any) -> ImportanceSamples:
        found = runs(*args)
        for trace in (found.model, found.guide):
            trace.refuse_subsampled(
                "its exponential is not an unbiased weight", instead="the whole plate"
            )
        # Where all sites share plates there is a weight for each element of them.
        each = found.log_weights.reshape(particles, -1)
        log_weights = jnp.sum(each, axis=1)
        log_weights, total = normalized(log_weights)
        return ImportanceSamples(found.model.choices, log_weights, total - math.log(particles))

    return run


@claims("biased", "draws from the posterior", but="less so with more particles")
def sir(
    model: Program, guide: Program, *, particles: int, samples: int
) -> Callable[..., dict[str, Array]]:
    """Sampling-importance-resampling: unweighted draws, approximately from the posterior.

    *Biased*; their law approaches the posterior as `particles` grows. All come from one set of
    particles, so they are not independent, and contain duplicates. `ppgen.normalize(model,
    proposal=guide, particles=K)` is the same sampler as a program with a density, for use in an
    ELBO, for example.

    Args:
        model: as for `importance_sampling`.
        guide: as for `importance_sampling`.
        particles: how many runs of the guide there are to draw from.
        samples: how many to draw.

    Returns:
        A function of the common arguments that returns choices by site, each with a leading axis
        of `samples`. It draws: call it within `ppgen.seed` or a program.

    References:
        Rubin, *The Calculation of Posterior Distributions by Data Augmentation: Comment*, JASA
        1987.
    """
    weighted = importance_sampling(model, guide, particles=particles)
    return lambda *args: weighted(*args).resample(samples)
