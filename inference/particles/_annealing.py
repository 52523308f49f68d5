"""Annealed importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

import ppgen
from ppgen._log_weights import normalized
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.particles._kernels import AbstractKernel
from ppgen.inference.posteriors._unconstrained import Unconstrained


class AnnealedSamples(eqx.Module):
    """Weighted samples at the end of an annealing run, with K particles and N transitions.

    Attributes:
        choices: the latent choices by site, each with a leading axis of the particles.
        log_weights: normalised log weights, `(K,)`.
        log_evidence: in nats; its exponential is an *unbiased* estimate of the evidence (itself a
            lower *bound* in expectation).
        acceptance: the acceptance rate at each temperature, `(N,)`.
    """

    choices: dict[str, Array]
    log_weights: Float[Array, " k"]
    log_evidence: Float[Array, ""]
    acceptance: Float[Array, " n"]

    @property
    def ess(self) -> Float[Array, ""]:
        """The effective sample size of the weights, between 1 and K. *Heuristic*."""
        return jnp.exp(-jax.nn.logsumexp(2 * self.log_weights))

    def for_arviz(self) -> tuple[dict[str, Array], dict[str, Array], bool]:
        """For `to_arviz`: the draws, their statistics, and whether the first axis is of chains."""
        return self.choices, {"log_weight": self.log_weights}, False


@claims("unbiased", "the evidence, by the mean weight")
def ais(
    program: Program,
    proposal: Program,
    *,
    temperatures: ArrayLike | Sequence[float],
    kernel: AbstractKernel,
    particles: int,
) -> Callable[..., AnnealedSamples]:
    r"""Annealed importance sampling from a proposal q to the posterior of a program p.

    Along the geometric path :math:`\pi_\beta \propto q^{1-\beta} p^\beta`, with
    :math:`0 = \beta_0 < \dots < \beta_N = 1`, each particle starts at a draw of q, and at step n

    .. math:: w \leftarrow w \Big(\frac{p(x_{n-1})}{q(x_{n-1})}\Big)^{\beta_n - \beta_{n-1}}, \qquad
              x_n \sim \text{a transition that leaves } \pi_{\beta_n} \text{ invariant}.

    The mean of the weights is an *unbiased* estimate of the evidence, for any transitions and
    temperatures. Kernels work in unconstrained space, by NumPyro's bijections. Transitions are a
    `jax.lax.scan`, particles are vectorised. Acceptance is discontinuous, so `ppgen.expectation`
    refuses gradients through the run.

    Args:
        program: a program with continuous latents, that observes, or has factors.
        proposal: a program of the same arguments that draws the same sites.
        temperatures: the increasing inverse temperatures, of shape `(N,)`, the last of them 1 (and
            the zero before the first left out), as `jnp.linspace(0, 1, N + 1)[1:]`.
        kernel: `RandomWalk`, `HamiltonianMonteCarlo`, or another `AbstractKernel`.
        particles: K.

    Returns:
        A function of the common arguments that returns `AnnealedSamples`. It draws: call it within
        `ppgen.seed`.

    Raises:
        SiteError: a discrete latent, or a support that is not known in advance.
        DensityError: the density of one of the programs is itself an estimate.
        ChoiceMismatchError: the programs do not have the same sites.
        ValueError: temperatures that do not increase to 1; fewer than one particle.

    References:
        Neal, *Annealed Importance Sampling*, Statistics and Computing 2001.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import RandomWalk, ais
        >>> def model(x):
        ...     z = numpyro.sample("z", dist.Normal(0, 1))
        ...     numpyro.sample("x", dist.Normal(z, 0.1), obs=x)
        >>> def prior(x):
        ...     numpyro.sample("z", dist.Normal(0, 1))
        >>> betas = jnp.linspace(0, 1, 51)[1:] ** 3
        >>> run = ais(model, prior, temperatures=betas, kernel=RandomWalk(0.3, 3), particles=500)
        >>> found = ppgen.seed(run)(jax.random.key(0), 1.5)
        >>> print(f"{found.log_evidence:.1f}")  # exactly: -2.04
        -2.0
    """
    if particles < 1:
        raise ValueError(f"ais needs at least one particle, not {particles}")
    betas = np.asarray(temperatures, float)
    rising = betas.ndim == 1 and len(betas) > 0 and np.all(np.diff(betas, prepend=0.0) > 0)
    if not rising or not math.isclose(betas[-1], 1.0, rel_tol=1e-6):
        raise ValueError(f"temperatures must increase, from above 0 to 1; they are {betas}")
    betas[-1] = 1.0

    def run(*args: Any) -> AnnealedSamples:
        space = Unconstrained(program, *args)
        log_p = space.log_density(program, *args)
        log_q = space.log_density(proposal, *args)

        def one(_: Any) -> tuple[Array, Array, Array]:
            start = space.unconstrain(ppgen.simulate(proposal)(*args).choices)

            def anneal(carry: tuple[Array, Array], inputs: tuple[Array, Array]):
                (u, log_weight), (beta, rise) = carry, inputs
                log_weight = log_weight + rise * (log_p(u) - log_q(u))
                path = lambda u: _tempered(log_q(u), 1 - beta) + beta * log_p(u)  # noqa: E731
                u, accepted = kernel(path, u)
                return (u, log_weight), accepted

            inputs = (jnp.asarray(betas), jnp.asarray(np.diff(betas, prepend=0.0)))
            inputs = jax.tree.map(lambda x: x.astype(start.dtype), inputs)
            (u, log_weight), accepted = jax.lax.scan(
                anneal, (start, jnp.zeros((), start.dtype)), inputs
            )
            return u, log_weight, accepted

        u, log_weights, accepted = jax.vmap(one)(jnp.arange(particles))
        log_weights, total = normalized(log_weights)
        return AnnealedSamples(
            choices=jax.vmap(space.constrain)(u),
            log_weights=log_weights,
            log_evidence=total - math.log(particles),
            acceptance=jnp.mean(accepted, axis=0),
        )

    return run


def _tempered(log_q: Array, power: Array) -> Array:
    """`power * log_q`, and zero at power zero, even where the guide has no density."""
    return jnp.where(power > 0, power * jnp.where(power > 0, log_q, 0.0), 0.0)
