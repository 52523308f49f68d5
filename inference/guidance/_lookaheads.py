"""Lookaheads: estimates, at a point of a chain, of the energy at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppgen.inference.paths import Decoder

Energy = Callable[[Array], Array]
LogH = Callable[[Array, Any], Array]


class AbstractLookahead(eqx.Module):
    r"""An approximation of :math:`\log h(x, t) = \log E[e^{-E(x_1)} | x_t = x]` for guidance.

    A subclass defines `look`. Importance weights correct any error of it: see `guide`.

    Attributes:
        weighted: whether `look` returns a value of log h, without which there are no weights.
    """

    weighted: ClassVar[bool] = True

    def look(
        self, energy: Energy, x: Float[Array, "..."], t: Any
    ) -> tuple[Float[Array, ""] | None, Float[Array, "..."]]:
        """Log h in nats, or `None`, and its gradient with respect to `x`."""
        raise NotImplementedError


def _value_and_push(log_h: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    value, push = jax.value_and_grad(lambda x: jnp.asarray(log_h(x)))(x)
    return value, push


class Exact(AbstractLookahead):
    r"""A known log h: guidance is then *exact*, up to the errors of steps.

    Attributes:
        log_h: a function of a point and a time: :math:`\log E[e^{-E(x_1)} | x_t = x]`, for the
            energy that `guide` is given.
    """

    log_h: LogH

    def look(self, energy: Energy, x: Array, t: Any) -> tuple[Array, Array]:
        """See `AbstractLookahead`."""
        return _value_and_push(lambda x: self.log_h(x, t), x)


class PlugIn(AbstractLookahead):
    r"""The energy of the expected data: :math:`\log h \approx -E(E[x_1 | x_t])`. *Heuristic*.

    Most guided samplers use it, under the name posterior sampling. It is biased where the energy is
    not linear in x₁, which weights and resampling correct. At early times it is far too confident,
    so that good particles are discarded: although Z is unbiased, log Z is then mostly too low with
    any feasible number of particles. A `tempering` reduces the confidence.

    Attributes:
        denoised: the expected data, a function of a point and a time.
        tempering: a function of the time, by which log h is multiplied, from 0 to 1, in weights and
            guidance alike. For the path αx₁ + σx₀, α²/(α² + σ²) is a good choice: about the share
            of the variance of the data that is known. By default 1.

    References:
        Chung, Kim, McCann, Klasky, Ye. Diffusion posterior sampling for general noisy inverse
        problems. ICLR 2023.
    """

    denoised: Callable[[Array, Any], Array]
    tempering: Callable[[Any], Array] = jnp.ones_like

    def look(self, energy: Energy, x: Array, t: Any) -> tuple[Array, Array]:
        """See `AbstractLookahead`."""
        return _value_and_push(lambda x: -self.tempering(t) * energy(self.denoised(x, t)), x)


class Learned(AbstractLookahead):
    r"""An approximation of log h: a network, or a classifier of noisy points. *Heuristic*.

    A regression finds it: `regress(model, bridge, predict=lambda point: -energy(point.sites["x1"]),
    loss=log_mean_exp_error)` has log h as its minimum. With :math:`E(x_1) = -\log p(y | x_1)`, h is
    p(y | x_t): classifier guidance.

    Attributes:
        log_h: a function of a point and a time.

    References:
        Dhariwal, Nichol. Diffusion models beat GANs on image synthesis. NeurIPS 2021. Lu et al.
        Contrastive energy prediction for exact energy-guided diffusion sampling. ICML 2023.
    """

    log_h: LogH

    def look(self, energy: Energy, x: Array, t: Any) -> tuple[Array, Array]:
        """See `AbstractLookahead`."""
        return _value_and_push(lambda x: self.log_h(x, t), x)


class Project(AbstractLookahead):
    r"""Project the expected data onto a constraint. *Approximate*, and without weights.

    Instead of using a gradient of log h, it replaces the expected data by their projection, and the
    expected noise accordingly: inpainting by replacement, for example. It corresponds to no energy,
    so `guide` refuses it.

    Attributes:
        decoder: from `decode`, for a path with normal noise.
        project: a function from data to data.

    References:
        Wang, Yu, Zhang. Zero-shot image restoration using denoising diffusion null-space model.
        ICLR 2023.
    """

    weighted: ClassVar[bool] = False

    decoder: Decoder
    project: Callable[[Array], Array]

    def look(self, energy: Energy, x: Array, t: Any) -> tuple[None, Array]:
        """See `AbstractLookahead`."""
        found = self.decoder(x, t)
        at = found.coefficients
        _, scale = at.normal()
        # Tweedie's formula: the derivative of the score with respect to the expected data.
        return None, at.alpha / (at.sigma * scale) ** 2 * (self.project(found.x1) - found.x1)


def log_mean_exp_error(prediction: Array, target: Array) -> Float[Array, ""]:
    r"""A loss for `regress` whose minimum is :math:`\log E[e^{y} | x_t]` for the target y.

    .. math:: \ell(m, y) = e^{y - m} + m - y - 1 \ge 0,

    the Itakura-Saito divergence of :math:`e^y` from :math:`e^m`. With the energy as -y it learns
    log h of a lookahead.

    Args:
        prediction: m, any shape.
        target: y.

    Returns:
        The sum over elements.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ppgen.inference import log_mean_exp_error
        >>> y = jnp.log(jnp.array([1.0, 3.0]))
        >>> mean = lambda m: jnp.mean(jax.vmap(log_mean_exp_error, (None, 0))(m, y))
        >>> round(float(jax.grad(mean)(jnp.log(2.0))), 6)
        0.0
    """
    return jnp.sum(jnp.expm1(target - prediction) + prediction - target)
