"""Losses on preferred or real data that use a model's own density as the reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.objectives import detached

Choices = Mapping[str, Any] | ppgen.Trace


@claims(
    "unbiased",
    "the negative log likelihood of the vote",
    gradient="unbiased",
    but="heuristic where a density is estimated",
)
def dpo(
    program: Program, reference: Program, *, beta: float | int
) -> Callable[..., Float[Array, ""]]:
    r"""Direct preference optimisation, for a pair of which one was preferred to the other.

    .. math:: -\log \sigma\Big(\beta \log \frac{p_\theta(y^+)}{p_{ref}(y^+)}
              - \beta \log \frac{p_\theta(y^-)}{p_{ref}(y^-)}\Big),

    the negative log likelihood of the vote where the reward is r = β log p_θ / p_ref, up to a
    constant. Its minimum over all laws is the maximum of `kl_regularized_reward` with the voters'
    reward, in the model of Bradley and Terry. *Unbiased* (it draws nothing) for exact densities;
    *heuristic* where a density is itself estimated, for the logarithm of σ is not linear.

    Args:
        program: p_θ, a program of arguments `*args`.
        reference: p_ref, a program of the same arguments, which must hold learned arguments fixed:
            `lambda params, *rest: program(initial, *rest)`.
        beta: β > 0, the weight of the divergence from the reference.

    Returns:
        `loss(preferred, rejected, *args)`, of one pair of choices as for `ppgen.log_density`.

    Raises:
        ChoiceMismatchError: the choices are not those of both programs.

    References:
        Rafailov, Sharma, Mitchell, Ermon, Manning, Finn. Direct preference optimization: your
        language model is secretly a reward model. NeurIPS 2023.

    Examples:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import dpo
        >>> def program(logits):
        ...     numpyro.sample("y", dist.Categorical(logits=logits))
        >>> start = jnp.zeros(3)
        >>> loss = dpo(program, lambda _: program(start), beta=0.5)
        >>> print(f"{loss({'y': 2}, {'y': 0}, start):.4f}")  # log 2
        0.6931
    """
    ratio = _log_ratio(program, reference)

    def loss(preferred: Choices, rejected: Choices, *args: Any) -> Float[Array, ""]:
        return jax.nn.softplus(-beta * (ratio(preferred, *args) - ratio(rejected, *args)))

    return loss


@claims(
    "unbiased",
    "the loss of the discriminator",
    gradient="unbiased",
    but="heuristic where a density is estimated",
)
def ddo(
    program: Program, reference: Program, *, alpha: float | int = 1.0, beta: float | int = 1.0
) -> Callable[..., Float[Array, ""]]:
    r"""Direct discriminative optimisation: a model as the discriminator of data and a reference.

    .. math:: -E_{data}[\log \sigma(\beta r_\theta(x))]
              - \alpha E_{x \sim p_{ref}}[\log \sigma(-\beta r_\theta(x))],
              \qquad r_\theta = \log \frac{p_\theta}{p_{ref}}.

    For α = β = 1 it is smallest at the law of the data; in general, over all functions r, at
    p_ref^{1 − 1/β} (p_data / α)^{1/β}, which is normalised for one α only: for others there need
    not be a minimum, and the best checkpoint of a short run becomes the next reference. At θ = ref
    the loss is (1 + α) log 2 and its gradient β/2 times that of the negative log likelihood, zero
    at a maximum of the likelihood. *Unbiased*, value and gradients, for exact densities;
    *heuristic* where a density is itself estimated.

    Args:
        program: p_θ, a program of arguments `*args`.
        reference: p_ref, as for `dpo`; it is drawn from, and not differentiated.
        alpha: α > 0, the weight of draws from the reference.
        beta: β > 0.

    Returns:
        `loss(choices, *args)`, of one datum as for `ppgen.log_density` and one draw of the
        reference.

    Raises:
        ChoiceMismatchError: the choices are not those of both programs.

    References:
        Zheng, Chen, Chen, He, Liu, Zhu, Zhang. Direct discriminative optimization: your
        likelihood-based visual generative model is secretly a GAN discriminator. ICML 2025.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import ddo
        >>> def program(loc):
        ...     numpyro.sample("x", dist.Normal(loc, 1))
        >>> loss = ppgen.expectation(ddo(program, lambda _: program(0.0)), draws=10_000)
        >>> value, slope = jax.value_and_grad(loss, argnums=2)(jax.random.key(0), {"x": 1.0}, 0.0)
        >>> print(f"{value:.4f} {slope:.1f}")  # 2 log 2, and minus half of the score
        1.3863 -0.5
    """
    fixed = detached(reference)
    ratio = _log_ratio(program, fixed)

    def loss(choices: Choices, *args: Any) -> Float[Array, ""]:
        fake = ppgen.simulate(fixed)(*args)
        at_fake = _log_density(program, fake, *args) - fake.log_density
        return _discriminate(ratio(choices, *args), at_fake, alpha, beta)

    return loss


@claims(
    "upper bound",
    "`ddo` with a difference of bounds for the log ratio",
    gradient="unbiased",
    but="that this difference is the log ratio is heuristic",
)
def ddo_jensen(
    noise: Callable[[Any], Any],
    denoising: Callable[[Any, Any, Any], Float[Array, ""]],
    *,
    alpha: float | int = 1.0,
    beta: float | int = 1.0,
) -> Callable[..., Float[Array, ""]]:
    r"""`ddo` for models with a bound on their density: diffusion, flow matching, VAEs.

    With a loss ℓ_θ(x, ε) whose mean over ε bounds −log p_θ(x), and the *same* ε for both models,

    .. math:: r_\theta(x) \approx E_\varepsilon[\Delta], \qquad
              \Delta = \ell_{ref}(x, \varepsilon) - \ell_\theta(x, \varepsilon), \qquad
              -\log \sigma(\beta E[\Delta]) \le E[-\log \sigma(\beta \Delta)],

    and likewise for the other term. So it is an *upper bound* on the loss with the difference of
    the two bounds for r, and *unbiased* for that upper bound; that this difference is the log ratio
    is *heuristic*. Sharing ε removes most of the variance of Δ, and so most of the gap.

    Args:
        noise: `noise(x)` draws ε, with `ppgen.draw`: a time and a Gaussian, say.
        denoising: `denoising(params, x, ε)`, the loss ℓ of one datum in nats, weights included.
        alpha: As for `ddo`.
        beta: As for `ddo`.

    Returns:
        `loss(params, reference, real, fake)`, of two parameters, one datum and one draw of the
        reference model. `reference` and `fake` are not differentiated.

    References:
        As for `ddo`.
    """

    def loss(params: Any, reference: Any, real: Any, fake: Any) -> Float[Array, ""]:
        def ratio(x: Any) -> Any:
            shared = noise(x)
            return detached(denoising)(reference, x, shared) - denoising(params, x, shared)

        return _discriminate(ratio(real), ratio(jax.lax.stop_gradient(fake)), alpha, beta)

    return loss


def _discriminate(real: Any, fake: Any, alpha: float, beta: float | int) -> Float[Array, ""]:
    return jax.nn.softplus(-beta * real) + alpha * jax.nn.softplus(beta * fake)


def _log_ratio(program: Program, reference: Program) -> Callable[..., Float[Array, ""]]:
    def ratio(choices: Choices, *args: Any) -> Float[Array, ""]:
        return _log_density(program, choices, *args) - _log_density(reference, choices, *args)

    return ratio


def _log_density(program: Program, choices: Choices, *args: Any) -> Float[Array, ""]:
    trace = ppgen.assess(program)(choices, *args)
    trace.refuse_subsampled(
        "the loss is not linear in it, and would be biased for that of all data",
        instead="the whole plate",
    )
    return trace.log_density
