"""Rewards of programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.claims import claims


@claims("unbiased", "the expected reward", gradient="unbiased")
def expected_reward(
    program: Program, reward: Callable[[Any], Float[Array, ""]]
) -> Callable[..., Float[Array, ""]]:
    r"""The expected reward of what a program returns, to be maximised.

    .. math:: E_{x \sim p_\theta}[r(x)].

    *Unbiased*, value and gradients: the pathwise derivative through the reward where choices are
    reparameterised, the policy gradient (the score function) where they are not.

    Args:
        program: Any program.
        reward: A function of what the program returns, to a real scalar. Arrays that it closes over
            are differentiated too. For a reward without derivatives, see `ppgen.black_box`.

    Returns:
        A function of the program's arguments: one draw of the reward.

    References:
        Williams. Simple statistical gradient-following algorithms for connectionist reinforcement
        learning. Machine Learning 8, 1992.

    Examples:
        >>> import jax, numpyro, ppgen
        >>> import numpyro.distributions as dist
        >>> def policy(p):
        ...     return numpyro.sample("act", dist.Bernoulli(p), infer={"grad": ppgen.Enumerate()})
        >>> g = ppgen.expectation(expected_reward(policy, lambda act: 3.0 * act))
        >>> round(float(jax.grad(g, argnums=1)(jax.random.key(0), 0.2)), 4)
        3.0
    """

    def objective(*args: Any) -> Float[Array, ""]:
        return reward(program(*args))

    return objective


@claims(
    "unbiased",
    "the expected reward less the divergence",
    gradient="unbiased",
    but="a lower bound where a density is estimated",
)
def kl_regularized_reward(
    program: Program,
    reference: Program,
    reward: Callable[[Any], Float[Array, ""]],
    *,
    beta: float | int,
) -> Callable[..., Float[Array, ""]]:
    r"""The expected reward less a divergence from a reference program, to be maximised.

    .. math:: E_{x \sim p_\theta}[r(x)] - \beta\, \mathrm{KL}(p_\theta \,\|\, p_{ref})
              = \beta \log Z - \beta\, \mathrm{KL}(p_\theta \,\|\, p_{ref}\, e^{r / \beta} / Z),

    largest at the reference tilted by r/β. *Unbiased*, value and gradients; a *lower bound*, in
    expectation, where a density is itself estimated. It is β times the `elbo` of the guide
    `program` under the model `tilt(reference, -r/β)`.

    Args:
        program: p_θ, a program of arguments `*args`.
        reference: p_ref, a program of the same arguments and sites, which must hold learned
            arguments fixed: `lambda params, *rest: program(initial, *rest)`.
        reward: A function of what the program returns, to a real scalar, as for `expected_reward`.
        beta: β, the price of a nat of divergence.

    Returns:
        A function of the common arguments: one draw.

    Raises:
        ChoiceMismatchError: The programs do not have the same sites.

    References:
        Jaques, Gu, Bahdanau, Hernández-Lobato, Turner, Eck. Sequence tutor: conservative
        fine-tuning of sequence generation models with KL-control. ICML 2017.

    Examples:
        At the optimum, every draw is β log Z:

        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import kl_regularized_reward
        >>> def program(logits):
        ...     return numpyro.sample("x", dist.Categorical(logits=logits))
        >>> r, start, beta = jnp.array([0.0, 1.0, 3.0]), jnp.zeros(3), 2.0
        >>> f = kl_regularized_reward(program, lambda _: program(start), lambda x: r[x], beta=beta)
        >>> best = f"{ppgen.expectation(f)(jax.random.key(0), r / beta):.4f}"
        >>> best == f"{beta * (jax.nn.logsumexp(r / beta) - jnp.log(3)):.4f}"
        True
    """

    def objective(*args: Any) -> Float[Array, ""]:
        trace = ppgen.simulate(program)(*args)
        divergence = trace.log_density - ppgen.log_density(reference)(trace, *args)
        return reward(trace.value) - beta * divergence

    return objective
