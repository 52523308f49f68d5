"""Markov kernels that leave a density invariant, for annealed importance sampling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array, Float

import ppgen

LogDensity = Callable[[Float[Array, " n"]], Float[Array, ""]]


class AbstractKernel(eqx.Module):
    """A Markov transition on R^n.

    Implementing a kernel: `__call__` draws, with `ppgen.draw`, a new position whose law leaves
    `log_density` (in nats, not normalised) *exactly* invariant. It is run under `jax.vmap` and in
    `jax.lax.scan`.
    """

    @abstractmethod
    def __call__(
        self, log_density: LogDensity, position: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """The next position, and the acceptance rate of the proposed moves."""


class RandomWalk(AbstractKernel):
    """Random-walk Metropolis: normal steps, accepted by the ratio of densities. *Exact*.

    Attributes:
        scale: standard deviation of a step, a number or one for each coordinate.
        steps: how many steps make a transition.

    References:
        Metropolis et al., *Equation of State Calculations by Fast Computing Machines*, 1953.
    """

    scale: ArrayLike
    steps: int = eqx.field(static=True, default=1)

    def __call__(
        self, log_density: LogDensity, position: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """See the class."""

        def step(carry: tuple[Array, Array], _: None):
            old, log_old = carry
            noise = ppgen.draw(dist.Normal(jnp.zeros_like(old), 1.0), name="step")
            new = old + self.scale * noise
            log_new = log_density(new)
            accepted = _accept(log_new - log_old)
            kept = jax.tree.map(
                lambda a, b: jnp.where(accepted > 0, a, b), (new, log_new), (old, log_old)
            )
            return kept, accepted

        start = (position, log_density(position))
        (last, _), accepted = jax.lax.scan(step, start, None, length=self.steps)
        return last, jnp.mean(accepted)


class HamiltonianMonteCarlo(AbstractKernel):
    """Hamiltonian Monte Carlo with the leapfrog integrator and a Metropolis test. *Exact*.

    Attributes:
        step_size: of the integrator, a number or one for each coordinate.
        steps: how many leapfrog steps make a transition.

    References:
        Neal, *MCMC Using Hamiltonian Dynamics*, 2011.
    """

    step_size: ArrayLike
    steps: int = eqx.field(static=True, default=5)

    def __call__(
        self, log_density: LogDensity, position: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """See the class."""
        slope = jax.grad(log_density)
        momentum = ppgen.draw(dist.Normal(jnp.zeros_like(position), 1.0), name="momentum")

        def leapfrog(carry: tuple[Array, Array, Array], _: None):
            x, p, g = carry
            p = p + 0.5 * self.step_size * g
            x = x + self.step_size * p
            g = slope(x)
            return (x, p + 0.5 * self.step_size * g, g), None

        start = (position, momentum, slope(position))
        (new, end, _), _ = jax.lax.scan(leapfrog, start, None, length=self.steps)
        gained = log_density(new) - log_density(position)
        accepted = _accept(gained - 0.5 * (jnp.sum(end**2) - jnp.sum(momentum**2)))
        return jnp.where(accepted > 0, new, position), accepted


def _accept(log_ratio: Float[Array, ""]) -> Float[Array, ""]:
    """One with probability `min(1, exp(log_ratio))`, and zero otherwise, also where it is NaN."""
    u = ppgen.draw(dist.Uniform(0.0, 1.0), name="acceptance")
    # As a float, so that a gradient through the decision is refused: it jumps.
    return (jnp.log(u) < log_ratio).astype(float)
