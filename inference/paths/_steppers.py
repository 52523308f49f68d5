"""Steps that remember nothing: Euler and Maruyama's, ancestral, noising ones and Langevin's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ppgen.annotations import Program
from ppgen.inference.paths._algebra import Decoder, coefficients, ratio
from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._solve import score_of
from ppgen.inference.paths._steps import Counted, Step, Stepper


def euler_maruyama(fields: Callable[[Array, Any], Any], epsilon: Any = 0.0) -> Stepper:
    r"""Steps of the equation of `solve`: drift v + εs, noise √(2ε).

    The error of the final distribution is of first order in the step size.

    Args:
        fields: as for `solve`. If they have an `.exchange`, steps can be guided.
        epsilon: a number, or a function of the time; zero, as a Python number, is Euler's method
            for the ODE.

    Returns:
        A stepper for `Chain`. Times may increase or decrease.

    Raises:
        PathError: on a call, if ε > 0 and there is no score.
    """
    ode = isinstance(epsilon, (int, float)) and epsilon == 0

    def step(x: Array, t: Any, after: Any) -> Step:
        found, passed = fields(x, t), jnp.abs(after - t)
        size: Any = epsilon(t) if callable(epsilon) else epsilon
        mean = x + (after - t) * found.velocity
        if not ode:
            mean = mean + passed * size * score_of(found)
        exchange = found.exchange
        pull = None if exchange is None else (after - t) * exchange + passed * size
        return Step(mean, 0.0 if ode else jnp.sqrt(2 * size * passed), pull)

    return Counted(step, 1)


def ancestral(decoder: Decoder, eta: float = 1.0, *, large: bool = False) -> Stepper:
    r"""Steps towards data that are exact if the data given a point are known: DDPM and DDIM.

    Each step is drawn from the law of :math:`x_s` given :math:`x_t` and the expected data
    :math:`\hat x_1`. Its standard deviation κ is scaled by `eta`:

    .. math:: x_s = \alpha_s \hat x_1 + \sigma_s \mu + \sqrt{\sigma_s^2 - \kappa^2}\,
              (\hat x_0 - \mu) + \kappa \tau z.

    At `eta = 0` it is DDIM, an ODE solver, for noise of any law; else noise is N(μ, τ²).

    Args:
        decoder: from `decode`.
        eta: between 0 and 1.
        large: whether the variance of the noise is what the noising process adds from s to t: κ²
            with σ_t in place of σ_s. At `eta = 1` the large variance is optimal for normal data of
            unit variance, the small one for a single datum; the mean is the same.

    Returns:
        A stepper for `Chain`, towards data: `alpha / sigma` must increase.

    Raises:
        PathError: on a call, if `eta > 0` and noise is not normal.

    References:
        Ho, Jain, Abbeel. Denoising diffusion probabilistic models. NeurIPS 2020. Song, Meng, Ermon.
        Denoising diffusion implicit models. ICLR 2021.
    """
    ode = isinstance(eta, (int, float)) and eta == 0

    def step(x: Array, t: Any, after: Any) -> Step:
        found, to = decoder(x, t), decoder.coefficients(after, x)
        at = found.coefficients
        if ode:
            mean = to.alpha * found.x1 + to.sigma * found.x0
            kept, spread, kappa = to.sigma, 1.0, 0.0
        else:
            loc, spread = at.normal()
            # The part of the noise at t that was added since s.
            fresh = 1 - (at.alpha * to.sigma / (to.alpha * at.sigma)) ** 2
            share = eta * jnp.sqrt(jnp.maximum(fresh, 0.0))
            kappa = share * to.sigma
            kept = jnp.sqrt(jnp.maximum(to.sigma**2 - kappa**2, 0.0))
            mean = to.alpha * found.x1 + to.sigma * loc + kept * (found.x0 - loc)
            kappa = share * at.sigma if large else kappa
        pull = None
        if at.noise is not None:
            # Expected data and noise move with the score by Tweedie's formula.
            variance = at.noise[1] ** 2
            pull = variance * at.sigma * (to.alpha * ratio(at.sigma, at.alpha) - kept)
        return Step(mean, 0.0 if ode else kappa * spread, pull)

    return Counted(step, 1)


def noising(bridge: Program, args: tuple[Any, ...] = ()) -> Stepper:
    r"""Steps from data to noise: the Markov process that has the path's law at each time.

    Args:
        bridge: as for `coefficients`, with normal noise.
        args: what to call the bridge with.

    Returns:
        A stepper for `Chain`, with times at which `alpha / sigma` decreases.

    Raises:
        PathError: on a call, if noise is not normal.
    """

    def step(x: Array, t: Any, after: Any) -> Step:
        at, to = (coefficients(bridge)(s, x, *args) for s in (t, after))
        loc, scale = at.normal()
        ratio = to.alpha / at.alpha
        variance = to.sigma**2 - (ratio * at.sigma) ** 2
        mean = ratio * x + (to.sigma - ratio * at.sigma) * loc
        return Step(mean, scale * jnp.sqrt(jnp.maximum(variance, 0.0)), None)

    return Counted(step, 0)


def langevin(
    fields: Callable[[Array, Any], Any], size: Any = None, *, snr: float | None = None
) -> Stepper:
    r"""Langevin steps at the time where an interval ends: correctors, which do not move in time.

    .. math:: x \leftarrow x + \epsilon s(x, t') + \sqrt{2 \epsilon}\, z

    leaves the law of the path at t' as it is, up to errors of first order in ε, and pulls points
    towards it that are not of that law. After a predictor, `(ancestral(decoder), langevin(decoder,
    0.01))` is a predictor-corrector sampler; a corrector may be repeated.

    Args:
        fields: of a point and a time, with a `.score`. Times must end where there still is one.
        size: ε, a number or a function of the time.
        snr: instead of `size`, a ratio r of the norms of noise and score: ε = 2 r² d / ‖s‖², of d
            elements and the score *of this point alone*. (Where the norms are means over a batch,
            as is common, samples depend on their neighbours.)

    Returns:
        A stepper, with one evaluation for each step.

    Raises:
        PathError: neither or both of `size` and `snr`; on a call, there is no score.

    References:
        Song et al. Score-based generative modeling through stochastic differential equations. ICLR
        2021.
    """
    if (size is None) == (snr is None):
        raise PathError("a Langevin step has a size, or a ratio of norms", instead="size=0.01")

    def step(x: Array, t: Any, after: Any) -> Step:
        score = score_of(fields(x, after))
        if snr is None:
            epsilon: Any = size(after) if callable(size) else size
        else:
            # Where the score vanishes, so does the step: none is better than an infinite one.
            norm = jnp.sum(score**2)
            flat = norm == 0
            epsilon = jnp.where(flat, 0.0, 2 * snr**2 * x.size / jnp.where(flat, 1.0, norm))
        return Step(x + epsilon * score, jnp.sqrt(2 * jnp.asarray(epsilon, x.dtype)), epsilon)

    return Counted(step, 1)
