"""Bounds and losses from divergences other than the Kullback-Leibler divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen
from ppgen._log_weights import log_mean_exp
from ppgen.annotations import Program
from ppgen.claims import claims


@claims(
    "heuristic",
    "the log evidence",
    gradient="unbiased",
    but="a lower bound for 0 ≤ alpha < 1; for other orders a bound in the limit of many particles",
)
def renyi(
    model: Program, guide: Program, *, alpha: float | int, particles: int
) -> Callable[..., Float[Array, ""]]:
    r"""Rényi's variational bound of order α ≠ 1, by K = `particles` draws.

    .. math:: \hat L_{\alpha, K} = \frac{1}{1 - \alpha} \log \frac1K \sum_{k=1}^K
              \Big(\frac{p(x, z_k)}{q(z_k)}\Big)^{1 - \alpha}.

    For 0 ≤ α < 1 *a lower bound* on the log evidence, that of `iwelbo` for α = 0, and closer to the
    ELBO the closer α is to 1. For α > 1 its limit for many draws is a lower bound, for α < 0 an
    upper one, but at finite K the expectation lies between the ELBO and that limit, so it is
    *heuristic*. The gradients are *unbiased* for the expectation of the returned value. Where all
    sites share plates, it is a sum over their elements, as for `iwelbo`.

    Args:
        model: As for `iwelbo`.
        guide: As for `iwelbo`.
        alpha: α, the order.
        particles: K.

    Returns:
        A function of the common arguments: one draw, in nats.

    Raises:
        ValueError: α = 1, which is `elbo`.

    References:
        Li, Turner. Rényi divergence variational inference. NeurIPS 2016.
    """
    if alpha == 1:
        raise ValueError("the bound of order 1 is elbo(model, guide)")
    draw = ppgen.importance(model, guide, particles=particles, linear=True)

    def bound(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        return runs.total(log_mean_exp((1 - alpha) * runs.log_weights) / (1 - alpha))

    return bound


@claims(
    "heuristic",
    "the log evidence",
    gradient="unbiased",
    but="an upper bound in the limit of many particles",
)
def cubo(
    model: Program, guide: Program, *, order: float | int = 2, particles: int
) -> Callable[..., Float[Array, ""]]:
    r"""The χ upper bound of order n on the log evidence, by K = `particles` draws.

    .. math:: \frac1n \log E_q\Big[\Big(\frac{p(x, z)}{q(z)}\Big)^n\Big] \ge \log p(x),
              \qquad n \ge 1.

    The mean inside of the logarithm is estimated by K draws, which lowers its expectation: a
    *heuristic*, an upper bound in the limit of many draws only. To be *minimised*. Its gradients
    are *unbiased* for the expectation of the returned value.

    Args:
        model: As for `iwelbo`.
        guide: As for `iwelbo`.
        order: n.
        particles: K.

    Returns:
        A function of the common arguments: one draw, in nats.

    Raises:
        ValueError: n < 1, where it is not an upper bound.

    References:
        Dieng, Tran, Ranganath, Paisley, Blei. Variational inference via χ upper bound minimization.
        NeurIPS 2017.
    """
    if order < 1:
        raise ValueError(f"the order of an upper bound is at least 1, not {order}")
    draw = ppgen.importance(model, guide, particles=particles, linear=True)

    def loss(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        return runs.total(log_mean_exp(order * runs.log_weights) / order)

    return loss


@claims(
    "unbiased",
    "the divergence, of the model as it is scaled",
    gradient="unbiased",
    but="of the posterior where `log_scale` is the log evidence",
)
def f_divergence(
    model: Program, guide: Program, f: Callable[[Array], Array], *, log_scale: Any = 0.0
) -> Callable[..., Float[Array, ""]]:
    r"""The f-divergence of a model from its guide, as a loss.

    .. math:: D_f(p \,\|\, q) = E_q\Big[f\Big(\log \frac{p(x, z)}{c\, q(z)}\Big)\Big],

    where `f` takes the *logarithm* of the ratio, as `lambda log_u: jnp.exp(log_u) * log_u` for
    KL(p‖q), `lambda log_u: -log_u` for KL(q‖p), `lambda log_u: jnp.expm1(log_u) ** 2` for
    Pearson's χ².

    *Unbiased*, value and gradient, for this expectation with the unnormalised p(x, z)/c. It is the
    divergence from the posterior if c is the evidence p(x); a rough guess of log p(x) keeps the
    numbers in range. For -log_u, c changes nothing but a constant.

    Args:
        model: As for `elbo`.
        guide: As for `elbo`.
        f: A function of the log ratio, elementwise, and convex as a function of the ratio.
        log_scale: log c in nats.

    Returns:
        A function of the common arguments: one draw of the loss.

    Raises:
        SiteError: A subsampled plate.

    References:
        Wan, Li, Hovakimyan. f-divergence variational inference. NeurIPS 2020.
    """
    draw = ppgen.importance(model, guide, linear=True)

    def loss(*args: Any) -> Float[Array, ""]:
        # One ratio for the whole run: a function of it is not a sum over a plate.
        runs = draw(*args)
        for trace in (runs.model, runs.guide):
            trace.refuse_subsampled(
                "a nonlinear function of it is biased for that of all data",
                instead="the whole plate; or elbo, if f is the negative of its argument",
            )
        return jnp.sum(f(runs.total(runs.log_weights) - log_scale))

    return loss
