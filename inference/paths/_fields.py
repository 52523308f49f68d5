"""Fields made from other fields: clipped predictions, and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppgen.inference.paths._algebra import Decoder

Field = Callable[[Array, Any], Array]


def clipped(decoder: Decoder, low: Any = -1.0, high: Any = 1.0) -> Decoder:
    r"""Clip the predicted data to bounds, such as those of pixels: static thresholding.

    The predicted :math:`\hat x_1` is clipped, and the predicted noise is changed to match it,
    :math:`\hat x_0 = (x - \alpha \hat x_1) / \sigma`, so that velocity and score change
    accordingly. *Exact* where data lie within the bounds and the field is exact: nothing is clipped
    then.

    Args:
        decoder: from `decode`, whichever prediction it was given.
        low: the least value of data, a number or an array of their shape.
        high: the greatest.

    Returns:
        A decoder, for `ancestral`, `euler_maruyama`, `solve` and others.

    References:
        Ho, Jain, Abbeel. Denoising diffusion probabilistic models. NeurIPS 2020. Saharia et al.
        Photorealistic text-to-image diffusion models with deep language understanding. 2022.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import clipped, decode
        >>> def bridge():
        ...     t = numpyro.sample("t", dist.Uniform())
        ...     x1 = numpyro.sample("x1", dist.Normal(0.0, 1.0))
        ...     x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
        ...     return t * x1 + (1 - t) * x0
        >>> decoder = clipped(decode(lambda x, t: 3 * x, bridge, given="x1"))
        >>> found = decoder(jnp.array(2.0), 0.5)
        >>> print(found.x1, found.x0)
        1.0 3.0
    """
    return Decoder(_Clipped(decoder, low, high), "x1", decoder.bridge, decoder.args)


class _Clipped(eqx.Module):
    """The expected data of a decoder, between bounds."""

    decoder: Decoder
    low: Any
    high: Any

    def __call__(self, x: Float[Array, "..."], t: Any) -> Float[Array, "..."]:
        return jnp.clip(self.decoder(x, t).x1, self.low, self.high)


def classifier_free(conditional: Field, unconditional: Field, weight: Any) -> Field:
    r"""Classifier-free guidance: extrapolation from an unconditional field to a conditional one.

    .. math:: (1 + w) f(x, t \mid c) - w f(x, t)

    At w = 0 it is the conditional field, at w = −1 the unconditional one, and as exact as they are.
    Other weights are *heuristic*: a chain does not draw from :math:`p(x)\, p(c \mid x)^{1 + w}`,
    since a product of noised densities is not a noised product. `guide` draws from such laws, with
    weights.

    Args:
        conditional: a function of a point and a time, given the condition: a prediction of any kind
            that `decode` takes.
        unconditional: the same prediction, without the condition.
        weight: w, a number or a function of the time. Where it is 0 or −1, as a Python number, only
            one of the fields is evaluated.

    Returns:
        A field, for `decode`.

    References:
        Ho, Salimans. Classifier-free diffusion guidance. 2022.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import classifier_free
        >>> field = classifier_free(lambda x, t: 2 * x, lambda x, t: x, 3.0)
        >>> print(field(jnp.array(1.0), 0.5))  # 4 · 2 − 3 · 1
        5.0
    """
    if isinstance(weight, (int, float)) and weight in (0, -1):
        return conditional if weight == 0 else unconditional
    return _Extrapolated(conditional, unconditional, weight)


class _Extrapolated(eqx.Module):
    """A combination of two fields: see `classifier_free`."""

    conditional: Field
    unconditional: Field
    weight: Any

    def __call__(self, x: Float[Array, "..."], t: Any) -> Float[Array, "..."]:
        w: Any = self.weight(t) if callable(self.weight) else self.weight
        return (1 + w) * self.conditional(x, t) - w * self.unconditional(x, t)
