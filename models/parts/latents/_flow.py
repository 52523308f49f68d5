"""A Gaussian latent vector with a posterior that need not be Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppgen.distrax import from_distrax
from ppgen.models.parts.latents._gaussian import sample, standard_normal
from ppgen.models.parts.latents._latent import AbstractLatent
from ppgen.models.parts.networks import VectorMLP

MOST_LOG_SCALE = 2.0


class FlowLatent(AbstractLatent):
    """Prior z ~ N(0, I); posterior: a Gaussian vector, sent through affine couplings.

    Each coupling leaves every other coordinate as it is and shifts and scales the rest by functions
    of those and of the image: a Distrax bijector, whose density is exact. Fresh couplings are
    identities, so that it starts as the diagonal posterior.

    References:
        Rezende, Mohamed. Variational inference with normalizing flows. ICML 2015.
        Dinh, Sohl-Dickstein, Bengio. Density estimation using Real NVP. ICLR 2017.
    """

    conditioners: tuple[VectorMLP, ...]
    context: int = eqx.field(static=True)
    statistics: int = eqx.field(static=True)
    code: int = eqx.field(static=True)

    def __init__(
        self,
        dimensions: int,
        hidden: int = 128,
        *,
        layers: int = 4,
        context: int | None = None,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh couplings.

        Args:
            dimensions: The dimensions of z, at least two.
            hidden: Width of the networks of the couplings.
            layers: How many couplings.
            context: Numbers of the encoder that each of them reads; twice `dimensions` if None.
            key: Draws the weights.

        Raises:
            ValueError: There is only one dimension, which has no others to depend on.
        """
        if dimensions < 2:
            raise ValueError(f"couplings need at least two dimensions, not {dimensions}")
        self.context = 2 * dimensions if context is None else context
        self.statistics, self.code = 2 * dimensions + self.context, dimensions
        inputs, outputs = dimensions + self.context, 2 * dimensions
        self.conditioners = tuple(
            _silent(VectorMLP(inputs, outputs, hidden, 1, key=k))
            for k in jax.random.split(key, layers)
        )

    def prior(self) -> Float[Array, " code"]:
        """Draws z from N(0, I)."""
        return standard_normal("z", self.code)

    def posterior(self, h: Float[Array, " statistics"]) -> Float[Array, " code"]:
        """Draws z from N(mean, diag scale²), transformed by the couplings."""
        import distrax  # takes seconds

        mean, log_variance, context = jnp.split(h, [self.code, 2 * self.code])
        base = distrax.MultivariateNormalDiag(mean, jnp.exp(0.5 * log_variance))
        couplings = [
            distrax.MaskedCoupling(
                jnp.arange(self.code) % 2 == i % 2, _conditioner(net, context), _affine
            )
            for i, net in enumerate(self.conditioners)
        ]
        flow = distrax.Transformed(base, distrax.Chain(couplings[::-1]))
        return sample("z", from_distrax(flow))


def _conditioner(net: VectorMLP, context: Array) -> Callable[[Any], tuple[Array, Array]]:
    def parameters(z: Any) -> tuple[Array, Array]:
        out = net(jnp.concatenate([z, context.astype(z.dtype)])).astype(z.dtype)
        shift, log_scale = jnp.split(out, 2)
        return shift, MOST_LOG_SCALE * jnp.tanh(log_scale / MOST_LOG_SCALE)

    return parameters


def _affine(parameters: tuple[Array, Array]) -> Any:
    import distrax

    shift, log_scale = parameters
    return distrax.ScalarAffine(shift, log_scale=log_scale)


def _silent(net: VectorMLP) -> VectorMLP:
    """The same with a last layer of zeros."""

    def last(net: VectorMLP) -> tuple[Any, Any]:
        return net.body.layers[-1].weight, net.body.layers[-1].bias

    return eqx.tree_at(last, net, replace_fn=jnp.zeros_like)
