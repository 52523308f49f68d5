"""Objectives of variational inference, each a few lines of the language.

An objective is a function `(*args) -> scalar` that draws: give it to `ppgen.expectation`, to `fit`,
add to it, scale it, `jax.vmap` it over data. Bounds are returned as bounds, to be maximised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen


def elbo(model: Callable[..., Any], guide: Callable[..., Any]) -> Callable[..., Float[Array, ""]]:
    r"""The evidence lower bound.

    For latent choices z, drawn by the guide, and observations x in the model,

    .. math:: \mathrm{ELBO} = E_{q(z)}[\log p(x, z) - \log q(z)]
              = \log p(x) - \mathrm{KL}(q(z) \,\|\, p(z \mid x)) \le \log p(x).

    *A lower bound* on the log evidence, exact where the guide is the posterior. The value and the
    gradients that `ppgen.expectation` makes of it are *unbiased* for the bound, whatever mix of
    continuous and discrete choices the guide makes.

    Args:
        model: A program with the same arguments as the guide. It must contain every site of the
            guide and no other latent site.
        guide: A program that draws the latent choices.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    References:
        Jordan, Ghahramani, Jaakkola, Saul. An introduction to variational methods for graphical
        models. Machine Learning 37, 1999.

    Examples:
        For `z ~ N(0, 1)`, `x ~ N(z, 1)` and the posterior as the guide, every draw is the log
        evidence:

        >>> import jax, numpyro, ppgen
        >>> import numpyro.distributions as dist
        >>> def model(x):
        ...     z = numpyro.sample("z", dist.Normal(0, 1))
        ...     numpyro.sample("x", dist.Normal(z, 1), obs=x)
        >>> def guide(x):
        ...     numpyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> bound = ppgen.expectation(elbo(model, guide))
        >>> print(f"{bound(jax.random.key(0), 1.0):.4f}")
        -1.5155
    """

    def bound(*args: Any) -> Float[Array, ""]:
        trace = ppgen.simulate(guide)(*args)
        return ppgen.log_density(model)(trace, *args) - trace.log_density

    return bound


def iwelbo(
    model: Callable[..., Any], guide: Callable[..., Any], *, particles: int
) -> Callable[..., Float[Array, ""]]:
    r"""The importance-weighted evidence lower bound of K = `particles` draws.

    .. math:: \mathrm{IWELBO}_K = E_{z_1, \dots, z_K \sim q}\Big[\log \frac{1}{K} \sum_{k=1}^K
              \frac{p(x, z_k)}{q(z_k)}\Big], \qquad
              \mathrm{ELBO} = \mathrm{IWELBO}_1 \le \mathrm{IWELBO}_K \le \log p(x).

    *A lower bound* on the log evidence that grows with K and reaches it as K grows, if the weights
    are bounded. The value and the gradients that `ppgen.expectation` makes of it are *unbiased* for
    the bound.

    It is one bound on all that one call observes. For a bound on each of many data, which is
    tighter, write the programs for one datum and take `jax.vmap` of the objective.

    Args:
        model: A program with the same arguments as the guide. It must contain every site of the
            guide and no other latent site.
        guide: A program that draws the latent choices.
        particles: K, the draws inside the logarithm.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    Raises:
        ValueError: If `particles` is less than 1.

    References:
        Burda, Grosse, Salakhutdinov. Importance weighted autoencoders. ICLR 2016.
    """
    if particles < 1:
        raise ValueError(f"iwelbo needs at least one particle, not {particles}")
    draw = elbo(model, guide)

    def bound(*args: Any) -> Float[Array, ""]:
        # Each lane of a vmap has its own randomness, so K lanes are K independent log weights.
        log_weights = jax.vmap(lambda _: draw(*args))(jnp.arange(particles))
        return jax.nn.logsumexp(log_weights) - jnp.log(particles)

    return bound
