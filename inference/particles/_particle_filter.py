"""The result of a particle filter, and the paths in it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, PyTree

import ppgen


class Trajectory(eqx.Module):
    """The latent choices of one path through time, or of several.

    Attributes:
        initial: the choices of the program of the initial state, by site; empty where the state
            was given as a value.
        choices: the choices of the steps, by site, each of shape `(T, ...)`; of K paths,
            `(T, K, ...)`, and `initial` `(K, ...)`.
    """

    initial: dict[str, Array]
    choices: dict[str, Array]


class ParticleFilter(eqx.Module):
    """One run of a particle filter with K particles over T steps.

    Attributes:
        log_evidence: in nats; its exponential is an *unbiased* estimate of the evidence (itself a
            lower *bound* in expectation). After `conditional_smc` the reciprocal of that is
            unbiased for the reciprocal.
        log_increments: what each step adds to it, `(T,)`: estimates of log p(x_t | x_<t).
        states: the last states, each array with a leading axis of the particles.
        log_weights: normalised log weights of the last states, `(K,)`.
        ancestors: `(T, K)`: from which particle before the step each particle of a step comes.
        ess: effective sample sizes after each step, `(T,)`, between 1 and K. *Heuristic*.
        steps: the choices of the particles as they were made, `(T, K, ...)` by site. See
            `trajectories` for whole paths.
    """

    log_evidence: Float[Array, ""]
    log_increments: Float[Array, " t"]
    states: PyTree
    log_weights: Float[Array, " k"]
    ancestors: Int[Array, "t k"]
    ess: Float[Array, " t"]
    steps: Trajectory

    def trajectories(self) -> Trajectory:
        """The paths that lead to the last states, traced back: of shape `(T, K, ...)`.

        With `log_weights` they *approach* the posterior of the whole path as K grows; their early
        steps have few distinct values.
        """
        return self._back(jnp.arange(self.log_weights.shape[0]))

    def draw_trajectory(self) -> Trajectory:
        """One of the paths, by its weight. It draws: call it within `ppgen.seed`, say."""
        return self._back(ppgen.draw(dist.Categorical(logits=self.log_weights), name="trajectory"))

    def _back(self, last: Int[Array, "..."]) -> Trajectory:
        def step(index: Array, inputs: tuple[Array, dict[str, Array]]):
            parents, choices = inputs
            return parents[index], jax.tree.map(lambda x: x[index], choices)

        inputs = (self.ancestors, self.steps.choices)
        first, choices = jax.lax.scan(step, last, inputs, reverse=True)
        return Trajectory(jax.tree.map(lambda x: x[first], self.steps.initial), choices)
