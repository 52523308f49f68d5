"""Objectives of a DiffuseVAE for one image: losses, and the bound in nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions.kl import kl_divergence

import ppgen
from ppgen.inference import ScheduleError, regress
from ppgen.models.diffuse_vae.autoencoder import autoencoder_bound
from ppgen.models.diffuse_vae.chain import Move, Sampler, path_like
from ppgen.models.diffuse_vae.model import DiffuseVAE, reverse_chain


def denoising_loss(
    model: DiffuseVAE,
    sampler: Sampler,
    x: Float[Array, " pixels"],
    label: Int[Array, ""] | None = None,
    *,
    dropout: float = 0.0,
) -> Float[Array, ""]:
    r"""The loss of the second stage.

    .. math:: E \|\varepsilon - \varepsilon_\phi(x_t, t, \hat x)\|^2, \qquad
              x_t = \sqrt{\bar\alpha_t} x + \mathrm{shift} + \sqrt{1 - \bar\alpha_t} \varepsilon,

    with z ~ q(z | x) drawn anew each time, t uniform over the levels, and the condition left out
    with probability `dropout`, of each image by itself. Value and gradients are *unbiased* for this
    expectation. As a likelihood it is *heuristic*: it is the bound with the weight of each level
    replaced by a constant.

    Args:
        model: The parameters. To freeze the first stage, differentiate with respect to `model.net`
            alone.
        sampler: The levels from which t is drawn, usually all of them; nothing else of it matters.
        x: An image.
        label: Its class, if the model has classes.
        dropout: Probability of leaving out x̂ and label, for classifier-free guidance.

    Returns:
        One draw of the loss: the sum over pixels.

    References:
        Pandey, Mukherjee, Rai, Kumar. DiffuseVAE: efficient, controllable and high-fidelity
        generation from low-dimensional latents. TMLR 2022.
        Ho, Salimans. Classifier-free diffusion guidance. 2022.

    Examples:
        >>> import jax, jax.numpy as jnp, ppgen
        >>> from ppgen.models.diffuse_vae import Autoencoder, Sampler, linear_schedule
        >>> from ppgen.models.parts.networks import DenoisingMLP
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> model = DiffuseVAE(Autoencoder(pixels=4, key=keys[0]), DenoisingMLP(4, key=keys[1]))
        >>> loss = ppgen.expectation(denoising_loss, draws=1000)
        >>> value = loss(keys[2], model, Sampler(linear_schedule(1000)), jnp.zeros(4))
        >>> print(f"{value:.0f}")  # before it is trained; one for each pixel is what zeros score
        6
    """
    x_hat = model.vae.decoder(ppgen.draw(model.vae.posterior(x), name="z"))
    move = sampler.move(ppgen.draw(dist.DiscreteUniform(0, len(sampler.times) - 1), name="t"))
    bridge = numpyro.handlers.condition(path_like(x), {"t": move.before, "x1": x})

    def noise(model: DiffuseVAE, y: Array, t: Array) -> Array:
        keep = ppgen.draw(dist.Bernoulli(1.0 - dropout), name="keep") if dropout > 0 else 1.0
        return model.noise(model.shift(x_hat) + y, move.time, x_hat, label, keep)

    return regress(noise, bridge, predict="x0")(model)


def joint_loss(
    model: DiffuseVAE,
    sampler: Sampler,
    x: Float[Array, " pixels"],
    label: Int[Array, ""] | None = None,
    *,
    dropout: float = 0.0,
    weight: float = 1.0,
) -> Float[Array, ""]:
    """Both stages at once: the negative bound of the first, plus `weight` times the second's loss.

    *Unbiased* in value and gradients; as a likelihood *heuristic*, as `denoising_loss` is. The
    decoder is trained by both: it rebuilds images, and informs the chain.

    Args:
        model: The parameters, all of which are trained.
        sampler: As for `denoising_loss`.
        x: An image.
        label: Its class.
        dropout: As for `denoising_loss`.
        weight: The weight of the second stage.

    Returns:
        One draw of the loss.
    """
    second = denoising_loss(model, sampler, x, label, dropout=dropout)
    return weight * second - autoencoder_bound(model.vae, x)


class BoundTerms(NamedTuple):
    """The terms of the variational bound in nats, whose sum it is.

    Attributes:
        z: −KL(q(z | x) ‖ p(z)).
        x_T: −KL(q(x_T | x) ‖ p(x_T)).
        x_t: −KL(q(x_s | x_t, x) ‖ p(x_s | x_t)) for every move, the one to the first level first.
        x: log p(x | x_1).
    """

    z: Float[Array, ""]
    x_T: Float[Array, ""]
    x_t: Float[Array, " moves"]
    x: Float[Array, ""]


def bound_terms(
    model: DiffuseVAE,
    sampler: Sampler,
    x: Float[Array, " pixels"],
    label: Int[Array, ""] | None = None,
) -> BoundTerms:
    """Every term of the variational bound, each at its own draw of x_t: all levels are evaluated.

    The means of the terms are *exact* terms of a bound, so each shows how many nats are lost at its
    level. See `variational_bound`.

    Args:
        model: The parameters.
        sampler: The chain: its levels and moves, guidance and clipping included.
        x: An image.
        label: Its class.

    Returns:
        One draw of each term.

    Raises:
        ScheduleError: The sampler is deterministic.
    """
    ends, term = _bound(model, sampler, x, label)
    x_t = jax.vmap(term)(Move(*(leaf[1:] for leaf in sampler.moves)))
    return ends._replace(x_t=x_t)


def variational_bound(
    model: DiffuseVAE,
    sampler: Sampler,
    x: Float[Array, " pixels"],
    label: Int[Array, ""] | None = None,
) -> Float[Array, ""]:
    r"""The evidence lower bound of the whole model, at one random move.

    .. math:: E_q\Big[\log p(x | x_1) - \sum_t \mathrm{KL}(q(x_s | x_t, x) \| p(x_s | x_t, \hat x))
              - \mathrm{KL}(q(x_T | x) \| p(x_T)) - \mathrm{KL}(q(z | x) \| p(z))\Big] \le \log p(x)

    with every divergence in closed form, and the sum estimated at one uniform t. *A lower bound*
    on the log density of x under `diffuse_vae_model` with the same sampler; value and gradients are
    *unbiased* for it. It trains both stages together if it is differentiated with respect to all of
    `model`.

    Args:
        model: The parameters.
        sampler: As for `bound_terms`.
        x: An image.
        label: Its class.

    Returns:
        One draw of the bound, in nats.

    Raises:
        ScheduleError: The sampler is deterministic.

    References:
        Ho, Jain, Abbeel. Denoising diffusion probabilistic models. NeurIPS 2020, equation 5.
    """
    ends, term = _bound(model, sampler, x, label)
    count = len(sampler.moves.time) - 1
    total = ends.z + ends.x_T + ends.x
    if count == 0:
        return total
    i = ppgen.draw(dist.DiscreteUniform(1, count), name="t")
    return total + count * term(Move(*(leaf[i] for leaf in sampler.moves)))


def _bound(
    model: DiffuseVAE,
    sampler: Sampler,
    x: Float[Array, " pixels"],
    label: Int[Array, ""] | None,
) -> tuple[BoundTerms, Callable[[Move], Array]]:
    """The terms without moves, and a function that draws the one of a move."""
    if sampler.deterministic:
        raise ScheduleError(
            "the kernels of a deterministic chain have no density: make the Sampler with eta > 0, "
            "or take elbo(diffuse_vae_model, diffuse_vae_guide), which needs none"
        )
    posterior = model.vae.posterior(x)
    x_hat = model.vae.decoder(ppgen.draw(posterior, name="z"))
    reverse = reverse_chain(model, sampler, x_hat, label)
    shift = reverse.shift

    def noisy(move: Move, name: str) -> Array:
        mean, scale = move.noised(x)
        return ppgen.draw(dist.Normal(shift + mean, scale).to_event(1), name=name)

    def term(move: Move) -> Array:
        x_t = noisy(move, "x_t")
        mean, scale = move.posterior(x_t - shift, x, eta=sampler.eta)
        return -_kl(
            dist.Normal(shift + mean, scale),
            dist.Normal(*reverse.law(x_t, move.before, move.after)),
        )

    first, last = sampler.move(0), sampler.move(-1)
    mean, scale = last.noised(x)
    decoded = dist.Normal(reverse.clean(noisy(first, "x_1"), first.before), sampler.last_scale)
    ends = BoundTerms(
        z=-jnp.sum(kl_divergence(posterior, model.vae.prior)),
        x_T=-_kl(dist.Normal(shift + mean, scale), dist.Normal(shift, 1.0)),
        x_t=jnp.zeros(0),
        x=jnp.sum(decoded.log_prob(x)),
    )
    return ends, term


def _kl(q: dist.Normal, p: dist.Normal) -> Array:
    return jnp.sum(kl_divergence(q, p))
