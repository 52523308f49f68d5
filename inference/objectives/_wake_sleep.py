"""Objectives that fit a guide to the model's posterior: forward divergences and wake-sleep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

import ppgen
from ppgen._log_weights import log_mean_exp, self_normalized
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.objectives._detached import detached


@claims(
    "biased",
    "the cross entropy of the posterior and the guide",
    gradient="biased",
    but="by O(1/particles)",
)
def forward_kl(
    model: Program, guide: Program, *, particles: int
) -> Callable[..., Float[Array, ""]]:
    r"""The cross entropy of the posterior and the guide, by self-normalised importance sampling.

    .. math:: -\sum_{k=1}^K \tilde w_k \log q(z_k), \qquad z_1, \dots, z_K \sim q, \qquad
              \tilde w_k = \frac{w_k}{\sum_j w_j},

    equal to KL(p(z | x) ‖ q(z)) up to a constant as K grows. Draws and weights are held fixed: the
    gradient needs no estimator for discrete choices.

    A *loss*, *biased* at finite K (by O(1/K)) and consistent.

    Args:
        model: As for `iwelbo`.
        guide: As for `iwelbo`; its parameters must be among its arguments.
        particles: K.

    Returns:
        A function of the common arguments: one draw of the loss, in nats.

    Raises:
        SiteError: The density of the guide is estimated; or as for `iwelbo`.

    References:
        Bornschein, Bengio. Reweighted wake-sleep. ICLR 2015.
    """
    draw = ppgen.importance(model, detached(guide), particles=particles, density=guide, linear=True)

    def loss(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        weights = self_normalized(stop_gradient(runs.log_weights))
        return -runs.total(jnp.sum(weights * runs.log_q, axis=0))

    return loss


@claims(
    "lower bound",
    "the log evidence",
    gradient="biased",
    but="unbiased by the model's parameters; by the guide's, that of `forward_kl`",
)
def reweighted_wake_sleep(
    model: Program, guide: Program, *, particles: int
) -> Callable[..., Float[Array, ""]]:
    r"""Wake-sleep with K = `particles` reweighted draws, model and guide in one objective.

    Its value is the importance-weighted bound. The model's gradient is that of the bound,
    :math:`\sum_k \tilde w_k\, \partial \log p(x, z_k)`; the guide's is that of `-forward_kl`,
    :math:`\sum_k \tilde w_k\, \partial \log q(z_k)`, which does not vanish as K grows, and needs no
    estimator for discrete choices.

    To be *maximised*. The value is *a lower bound* on the log evidence; the model's gradient is
    *unbiased* for it; the guide's is *biased* at finite K, consistent, and not a gradient of the
    same function (a *heuristic*). The gradient of shared parameters is the sum of both.

    Args:
        model: As for `iwelbo`.
        guide: As for `iwelbo`; its parameters must be among its arguments.
        particles: K.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    Raises:
        SiteError: The density of the guide is estimated; or as for `iwelbo`.

    References:
        Bornschein, Bengio. Reweighted wake-sleep. ICLR 2015. Le, Kosiorek, Siddharth, Teh, Wood.
        Revisiting reweighted wake-sleep for models with stochastic control flow. UAI 2019.
    """
    draw = ppgen.importance(model, detached(guide), particles=particles, density=guide, linear=True)

    def bound(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        log_q = runs.log_q
        # The weights as a function of the model only.
        log_weights = runs.log_weights + log_q - stop_gradient(log_q)
        weights = self_normalized(stop_gradient(log_weights))
        wake = jnp.sum(weights * (log_q - stop_gradient(log_q)), axis=0)
        return runs.total(log_mean_exp(log_weights) + wake)

    return bound


@claims(
    "unbiased",
    "the cross entropy of model and guide on dreamed data",
    gradient="unbiased",
    but="by the guide's parameters; the model is held fixed",
)
def sleep(
    model: Program,
    guide: Program,
    *,
    observed: Sequence[str],
    guide_args: Callable[..., tuple],
) -> Callable[..., Float[Array, ""]]:
    r"""The cross entropy of the guide on data that the model draws ("dreams").

    .. math:: -E_{p(z, x)}[\log q(z \mid x)] = E_{p(x)}[\mathrm{KL}(p(z \mid x) \,\|\, q(z \mid x))]
              + \text{const.}

    *Unbiased*, value and gradient with respect to the guide's parameters; the model is held fixed.
    It is amortised inference by simulation, and the sleep phase of wake-sleep.

    Args:
        model: A program that draws its observations too, as latent sites.
        guide: A program over the model's latent sites without `observed`.
        observed: The sites that the guide conditions on instead of drawing.
        guide_args: `guide_args(choices, *args)`, the guide's arguments for the dreamed data: a
            tuple.

    Returns:
        A function of the model's arguments: one draw of the loss, in nats.

    References:
        Hinton, Dayan, Frey, Neal. The wake-sleep algorithm for unsupervised neural networks.
        Science 268, 1995.

    Examples:
        >>> import jax, numpyro, ppgen
        >>> import numpyro.distributions as dist
        >>> def model(slope):
        ...     z = numpyro.sample("z", dist.Normal(0, 1))
        ...     numpyro.sample("x", dist.Normal(z, 1))
        >>> def guide(slope, x):
        ...     numpyro.sample("z", dist.Normal(slope * x, 0.5**0.5))
        >>> def guide_args(choices, slope):
        ...     return slope, choices["x"]
        >>> loss = sleep(model, guide, observed=["x"], guide_args=guide_args)
        >>> g = jax.grad(ppgen.expectation(loss, draws=10_000), argnums=1)
        >>> bool(abs(g(jax.random.key(0), 0.5)) < 0.05)  # the posterior has slope 1/2
        True
    """

    def loss(*args: Any) -> Float[Array, ""]:
        dream = jax.tree.map(stop_gradient, ppgen.simulate(detached(model))(*args).choices)
        latent = {name: value for name, value in dream.items() if name not in observed}
        return -ppgen.log_density(guide)(latent, *guide_args(dream, *args))

    return loss
