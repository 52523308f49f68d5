"""The log evidence without a bias, for maximum likelihood without a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.objectives._importance_weighted import iwelbo


@claims(
    "unbiased",
    "the importance-weighted bound of the last level",
    gradient="unbiased",
    but="the log evidence, but for the bias that the bound has with the particles of that level",
)
def log_evidence(
    model: Program,
    guide: Program,
    *,
    base: int = 1,
    levels: int = 10,
    rate: float = 1.5,
    form: Literal["single", "roulette"] = "single",
) -> Callable[..., Float[Array, ""]]:
    r"""The log evidence, by importance weights, with a random number of particles.

    `ppgen.debias` of `iwelbo`: with on average a few particles, value and gradient have the
    expectation of the bound of `base * 2**levels` particles, of which
    :math:`\log p(x) - O(1 / (base \cdot 2^{levels}))` is left if the weights have a variance. So
    the model's gradient is that of maximum likelihood, and the guide's is nearly zero in
    expectation: fit the guide by a bound of its own.

    *Unbiased* for that bound, as are its gradients; it is to be *maximised*, and a single value may
    lie far above or below it. It is worth while if the guide is close to the posterior: the
    variance is that of the logarithm of weights. `ppgen.decay` measures whether it is finite.

    Args:
        model: As for `iwelbo`.
        guide: As for `iwelbo`.
        base: The particles that every run draws.
        levels: How often they may be doubled.
        rate: How fast levels become rare, between 1 and 2.
        form: As of `ppgen.debias`.

    Returns:
        A function of the common arguments: one draw of the log evidence, in nats.

    Raises:
        ValueError: As for `ppgen.debias`.

    References:
        Luo et al. SUMO: unbiased estimation of log marginal probability for latent variable models.
        ICLR 2020. Ishikawa, Goda. Efficient debiased evidence estimation by multilevel Monte Carlo
        sampling. UAI 2021.
    """

    def family(particles: int) -> Callable[..., Any]:
        return iwelbo(model, guide, particles=particles)

    return ppgen.debias(family, base=base, levels=levels, rate=rate, form=form)
