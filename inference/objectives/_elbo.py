"""The evidence lower bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.objectives._detached import detached


@claims("lower bound", "the log evidence", gradient="unbiased")
def elbo(
    model: Program, guide: Program, *, analytic_kl: bool = False
) -> Callable[..., Float[Array, ""]]:
    r"""The evidence lower bound.

    For latent choices z, drawn by the guide, and observations x in the model,

    .. math:: \mathrm{ELBO} = E_{q(z)}[\log p(x, z) - \log q(z)]
              = \log p(x) - \mathrm{KL}(q(z) \,\|\, p(z \mid x)) \le \log p(x).

    *A lower bound* on the log evidence, exact where the guide is the posterior. The value and the
    gradients that `ppgen.expectation` makes of it are *unbiased* for the bound, for any mix of
    continuous and discrete choices in the guide.

    Args:
        model: A program with the same arguments as the guide. It must contain every site of the
            guide and no other latent site.
        guide: A program that draws the latent choices.
        analytic_kl: Whether to use closed forms of the Kullback-Leibler divergence, site by site,
            where they are known: the same mean, less variance.

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
        if analytic_kl:
            terms = ppgen.analytic_kl(model, guide)(*args)
            return sum(map(jnp.sum, terms.values()), jnp.zeros(()))
        trace = ppgen.simulate(guide)(*args)
        return ppgen.log_density(model)(trace, *args) - trace.log_density

    return bound


@claims(
    "lower bound",
    "the log evidence",
    gradient="unbiased",
    but="second derivatives are not those of the bound",
)
def sticking_the_landing(model: Program, guide: Program) -> Callable[..., Float[Array, ""]]:
    r"""The evidence lower bound with a gradient that vanishes at the posterior.

    .. math:: E_{q_\phi(z)}[\log p(x, z) - \log q_{\bar\phi}(z)], \qquad \bar\phi = \phi
              \text{ held fixed},

    has the value of the ELBO and, in expectation, its gradient, because the term that is left out
    has mean zero. Where choices are reparameterised and the guide is the posterior, its variance is
    zero.

    *A lower bound* whose gradient is *unbiased*; second derivatives are not those of the ELBO.

    Args:
        model: As for `elbo`.
        guide: As for `elbo`; its parameters must be among its arguments.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    Raises:
        SiteError: The density of the guide is estimated.

    References:
        Roeder, Wu, Duvenaud. Sticking the landing: simple, lower-variance gradient estimators for
        variational inference. NeurIPS 2017.
    """
    draw = ppgen.importance(model, guide, density=detached(guide), linear=True)

    def bound(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        return runs.total(runs.log_weights)

    return bound
