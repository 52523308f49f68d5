"""The evidence lower bound with another weight of the divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.errors import SiteError


@claims("lower bound", "the log evidence", gradient="unbiased", but="no bound with beta < 1")
def beta_elbo(model: Program, guide: Program, *, beta: float) -> Callable[..., Float[Array, ""]]:
    r"""The ELBO, with its divergence from the prior multiplied by `beta`.

    .. math:: E_{q(z)}[\log p(x \mid z)] - \beta\, \mathrm{KL}(q(z) \,\|\, p(z))

    *A lower bound* on the log evidence for :math:`\beta \ge 1`, below the ELBO by
    :math:`(\beta - 1)` divergences. For :math:`\beta < 1` it is *not a bound* of the evidence.
    Value and gradients are *unbiased* for it. A larger `beta` makes z carry less information about
    x and follow the prior more closely. Report the `elbo` of a model that was fitted with it.

    Args:
        model: As for `elbo`; its latent sites are z, its observed ones (and factors) x.
        guide: As for `elbo`.
        beta: The weight, not negative: 1 is the ELBO.

    Returns:
        A function of the common arguments: one draw, in nats.

    Raises:
        ValueError: `beta` is negative.
        SiteError: A density is estimated, so it cannot be separated into prior and likelihood.

    References:
        Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed, Lerchner. beta-VAE: learning
        basic visual concepts with a constrained variational framework. ICLR 2017.

    Examples:
        >>> import jax, numpyro, ppgen
        >>> import numpyro.distributions as dist
        >>> def model(x):
        ...     z = numpyro.sample("z", dist.Normal(0, 1))
        ...     numpyro.sample("x", dist.Normal(z, 1), obs=x)
        >>> def guide(x):
        ...     numpyro.sample("z", dist.Normal(0, 1))  # the prior: no divergence
        >>> draws = [
        ...     ppgen.expectation(beta_elbo(model, guide, beta=beta))(jax.random.key(0), 1.0)
        ...     for beta in (0.0, 1.0, 4.0)
        ... ]
        >>> bool(draws[0] == draws[1] == draws[2])
        True
    """
    if not beta >= 0:
        raise ValueError(f"beta must not be negative, and is {beta}")

    def bound(*args: Any) -> Float[Array, ""]:
        drawn = ppgen.simulate(guide)(*args)
        scored = ppgen.assess(model)(drawn, *args)
        if not (drawn.exact and scored.exact):
            raise SiteError(
                "a density is estimated: its terms belong to no site",
                instead="elbo, which needs their sum only",
            )
        given = [t for name, t in scored.log_probs.items() if name not in scored.choices]
        log_likelihood = sum(map(jnp.sum, given), jnp.zeros(()))
        log_prior = scored.log_density - log_likelihood
        return log_likelihood + beta * (log_prior - drawn.log_density)

    return bound
