"""Rewards of programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

Program = Callable[..., Any]


def expected_reward(
    program: Program, reward: Callable[[Any], Float[Array, ""]]
) -> Callable[..., Float[Array, ""]]:
    r"""The reward of what a program returns, to be maximised in expectation.

    .. math:: E_{x \sim p_\theta}[r(x)].

    *Unbiased*, value and gradients: the pathwise derivative through the reward where choices are
    reparameterised, the policy gradient (the score function) where they are not.

    Args:
        program: Any program.
        reward: Of what it returns, a real scalar. It may depend on other arrays, which get their
            derivatives too.

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
