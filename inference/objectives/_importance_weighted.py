"""Importance-weighted bounds, and lower-variance estimators of their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

import ppgen
from ppgen._log_weights import log_mean_exp, self_normalized, weighted
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.errors import EstimatorError, SiteError
from ppgen.inference.objectives._detached import detached


@claims("lower bound", "the log evidence", gradient="unbiased")
def iwelbo(
    model: Program,
    guide: Program,
    *,
    particles: int,
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[..., Float[Array, ""]]:
    r"""The importance-weighted evidence lower bound of K = `particles` draws.

    .. math:: \mathrm{IWELBO}_K = E_{z_1, \dots, z_K \sim q}\Big[\log \frac{1}{K} \sum_{k=1}^K
              \frac{p(x, z_k)}{q(z_k)}\Big], \qquad
              \mathrm{ELBO} = \mathrm{IWELBO}_1 \le \mathrm{IWELBO}_K \le \log p(x).

    *A lower bound* on the log evidence that grows with K and reaches it as K grows, if the weights
    are bounded. The value and the gradients that `ppgen.expectation` makes of it are *unbiased* for
    the bound, for continuous and discrete choices.

    Where all sites of both programs share a plate, it is the sum of the bounds for each element of
    the plate, which is tighter, scaled by the plate's subsampling. Otherwise it is one bound on
    everything that a call observes; `jax.vmap` of an objective of one datum gives a bound for each
    datum.

    Args:
        model: A program with the same arguments as the guide. It must contain every site of the
            guide and no other latent site.
        guide: A program that draws the latent choices.
        particles: K, the draws inside the logarithm.
        sharding: How the particles are divided over the devices of a mesh, such as
            `NamedSharding(mesh, PartitionSpec("particles"))`. It does not change the bound.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    Raises:
        ValueError: If `particles` is less than 1.
        SiteError: K > 1, and a subsampled plate that does not contain all sites.

    References:
        Burda, Grosse, Salakhutdinov. Importance weighted autoencoders. ICLR 2016.
    """
    draw = ppgen.importance(model, guide, particles=particles, sharding=sharding, linear=True)

    def bound(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        return runs.total(log_mean_exp(runs.log_weights))

    return bound


@claims("lower bound", "the log evidence", gradient="unbiased", but="first derivatives only")
def vimco(model: Program, guide: Program, *, particles: int) -> Callable[..., Float[Array, ""]]:
    r"""The importance-weighted bound, with a score function whose baselines are the other draws.

    With :math:`\hat L = \log \frac1K \sum_k w_k` and :math:`\hat L_{-k}` the same with w_k replaced
    by the geometric mean of the others, the gradient is that of

    .. math:: \hat L + \sum_k \overline{(\hat L - \hat L_{-k})} \log q(z_k),
              \qquad z_k \text{ and what is barred held fixed.}

    *A lower bound* with an *unbiased* gradient (first derivatives only) for any choices, discrete
    ones in particular; the estimators of the guide's sites do not matter.

    Args:
        model: As for `iwelbo`.
        guide: As for `iwelbo`; its parameters must be among its arguments.
        particles: K, at least two.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    Raises:
        ValueError: If `particles` is less than 2.
        SiteError: As for `iwelbo`; or the density of the guide is estimated.

    References:
        Mnih, Rezende. Variational inference for Monte Carlo objectives. ICML 2016.
    """
    if particles < 2:
        raise ValueError(f"vimco needs at least two particles, not {particles}")
    draw = ppgen.importance(model, detached(guide), particles=particles, density=guide)

    def bound(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        whole = log_mean_exp(runs.log_weights)
        log_weights = stop_gradient(runs.log_weights)
        # A baseline may be any function of the other draws: the mean is over their weights above
        # zero, and the bound without draw k is left out where it is not finite.
        possible = log_weights > -jnp.inf
        finite = jnp.where(possible, log_weights, 0.0)
        count = jnp.sum(possible, axis=0) - possible
        others = (jnp.sum(finite, axis=0) - finite) / jnp.maximum(count, 1)
        others = jnp.where(count > 0, others, -jnp.inf)
        # Row k holds the weights of all, its own replaced by the mean of the others.
        own = jnp.eye(particles, dtype=bool).reshape(
            particles, particles, *(1,) * (log_weights.ndim - 1)
        )
        without = log_mean_exp(jnp.where(own, others[:, None], log_weights[None]), axis=1)
        alive = jnp.isfinite(stop_gradient(whole))
        signal = jnp.where(alive, stop_gradient(whole), 0.0)
        signal = signal - jnp.where(alive & (without > -jnp.inf), without, 0.0)
        score = runs.log_q - stop_gradient(runs.log_q)
        return runs.total(whole + jnp.sum(signal * score, axis=0))

    return bound


@claims("lower bound", "the log evidence", gradient="unbiased", but="first derivatives only")
def dreg(model: Program, guide: Program, *, particles: int) -> Callable[..., Float[Array, ""]]:
    r"""The importance-weighted bound, with the doubly reparameterised gradient.

    With :math:`\tilde w_k = w_k / \sum_j w_j`, the guide's gradient is

    .. math:: \sum_k \tilde w_k^2 \, \frac{\partial \log w_k}{\partial z_k}
              \frac{\partial z_k}{\partial \phi},

    whose signal-to-noise ratio does not vanish as K grows; the model's is the usual :math:`\sum_k
    \tilde w_k \, \partial \log p(x, z_k) / \partial \theta`.

    *A lower bound* with an *unbiased* gradient (first derivatives only), also for parameters that
    model and guide share.

    Args:
        model: As for `iwelbo`; its parameters must be among its arguments.
        guide: As for `model`; every site must be reparameterised.
        particles: K.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    Raises:
        EstimatorError: A site of the guide is not reparameterised.
        SiteError: As for `iwelbo`; or the density of the guide or of the model is estimated.

    References:
        Tucker, Lawson, Gu, Maddison. Doubly reparameterized gradient estimators for Monte Carlo
        objectives. ICLR 2019.
    """
    draw = ppgen.importance(
        detached(model), guide, particles=particles, density=detached(guide), linear=True
    )

    def bound(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        for name, facts in runs.guide.sites:
            if facts.has_density and not facts.pathwise:
                raise EstimatorError(
                    "the doubly reparameterised gradient needs a pathwise derivative",
                    site=name,
                    where=facts.where,
                    instead="ppgen.Reparameterize() at this site, or vimco, which needs none",
                )
        if not runs.model.exact:
            raise SiteError(
                "the density of the model is estimated: its gradient would need another estimate "
                "than the weights",
                instead="iwelbo, which estimates it once",
            )
        weights = self_normalized(stop_gradient(runs.log_weights))
        fixed = jax.tree.map(stop_gradient, runs.guide.choices)
        scored = jax.vmap(lambda choices: ppgen.assess(model)(choices, *args))(fixed)
        log_p = runs.by_element(scored)
        value = stop_gradient(log_mean_exp(runs.log_weights))
        path = _slope(jnp.sum(weighted(weights**2, runs.log_weights), axis=0))
        direct = _slope(jnp.sum(weighted(weights, log_p), axis=0))
        return runs.total(value + path + direct)

    return bound


def _slope(x: Array) -> Array:
    """Zero, with the derivative of `x`."""
    return x - stop_gradient(x)
