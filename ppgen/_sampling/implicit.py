"""Implicit reparameterisation: samples that follow their distribution function."""

# pyright: reportArgumentType=false, reportOperatorIssue=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from ppgen import _jax
from ppgen._distributions.families import family
from ppgen._distributions.rebuild import flatten, rebuilt
from ppgen._sampling.von_mises import von_mises_cdf, von_mises_log_prob
from ppgen.claims import claims
from ppgen.densities import log_prob


@claims("unbiased", "the mean of a cost that is continuous on the support", gradient="unbiased")
def implicit(
    x: Array, cdf: Callable[..., Array], log_density: Callable[..., Array], *parameters: Array
) -> Array:
    r"""Make the sample `x` move with the parameters at fixed quantile.

    .. math:: \frac{dx}{d\theta} = -\frac{\partial F(x; \theta) / \partial\theta}{p(x; \theta)}

    to every order that `cdf` and `log_density` have in JAX: the right-hand side is evaluated at the
    result itself. *Unbiased* for costs that are continuous on the support.

    Args:
        x: samples of a scalar distribution, of any shape; how they were made is not differentiated.
        cdf: `(x, *parameters) -> F(x)`, elementwise in `x`. A closure must not hold tracers.
        log_density: `(x, *parameters) -> log p(x)` in nats, its derivative.
        *parameters: arrays of any shape.

    References:
        Figurnov, Mohamed and Mnih, *Implicit Reparameterization Gradients*, NeurIPS 2018.
        Graves, *Stochastic Backpropagation through Mixture Density Distributions*, 2016.
    """
    return _implicit_p.bind(jax.lax.stop_gradient(x), *parameters, functions=(cdf, log_density))


def _follow(functions: Sequence[Callable], parameters: list, tangents: list) -> Array:
    cdf, log_density = functions
    mass, moved = jax.jvp(cdf, parameters, tangents)
    return -moved * jnp.exp(-log_density(*parameters)).astype(mass.dtype)


_implicit_p = _jax.define_follower("implicit", _follow)


def differentiable_sample(key: Array, d: Distribution, *, around: bool = False) -> Array:
    """`d.sample(key)`, differentiable in all parameters, even if NumPyro's sampler is not.

    Args:
        key: randomness.
        d: a distribution that `has_pathwise_derivative`.
        around: angles of a von Mises distribution move around the circle; otherwise they never
            cross the ends of [-pi, pi].
    """
    if not _has_implicit(d):
        return jnp.asarray(d.sample(key))

    def replace(x: Any) -> Any:
        return _Implicit(x, around) if family(x).implicit else x

    return jnp.asarray(rebuilt(d, replace).sample(key))


def _has_implicit(d: Any) -> bool:
    if family(d).implicit:
        return True
    inner = (getattr(d, name, None) for name in ("base_dist", "init_dist", "marginal_dist"))
    return any(isinstance(b, Distribution) and _has_implicit(b) for b in inner)


@final
class _Implicit(Distribution):
    """`base`, with samples that move with its parameters."""

    pytree_data_fields = ("base",)
    pytree_aux_fields = ("around",)

    def __init__(self, base: Distribution, around: bool) -> None:
        self.base = base
        self.around = around
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        leaves, structure = flatten(self.base)
        frozen = structure.build([jax.lax.stop_gradient(leaf) for leaf in leaves])
        x = jnp.asarray(frozen.sample(key, sample_shape))
        around = self.around

        def mass(x: Array, *leaves: Any) -> Array:
            return cdf(structure.build(leaves), x, around=around).astype(x.dtype)

        def log_density(x: Array, *leaves: Any) -> Array:
            return _log_density(structure.build(leaves), x).astype(x.dtype)

        return implicit(x, mass, log_density, *leaves)


def cdf(d: Any, x: ArrayLike, *, around: bool = False) -> Array:
    """The distribution function of a scalar distribution `d` that `has_known_cdf`.

    Args:
        d: the distribution.
        x: where, broadcastable to the batch shape; in the support.
        around: of an angle, the mass from the mode on instead, which increases by 1 every turn.
    """
    x = jnp.asarray(x)
    if isinstance(d, dist.VonMises):
        mass = von_mises_cdf(x - d.loc, d.concentration)
        return mass if around else mass - von_mises_cdf(-math.pi - d.loc, d.concentration)
    if isinstance(d, dist.ExpandedDistribution):
        return cdf(d.base_dist, x)
    if isinstance(d, dist.TransformedDistribution):
        sign = 1
        for transform in reversed(d.transforms):
            sign = sign * transform.sign
            x = transform._inverse(x)
        mass = cdf(d.base_dist, x)
        return jnp.where(sign < 0, 1 - mass, mass)
    if isinstance(d, dist.MixtureSameFamily):
        return _mixed(d, cdf(d.component_distribution, x[..., None]))
    if isinstance(d, dist.MixtureGeneral):
        parts = [cdf(component, x) for component in d.component_distributions]
        return _mixed(d, jnp.stack(jnp.broadcast_arrays(*parts), -1))
    return jnp.asarray(d.cdf(x))


def _mixed(d: Any, parts: Array) -> Array:
    # Not `probs`, which need not be normalised; densities and samples are.
    return jnp.sum(parts * jax.nn.softmax(d.mixing_distribution.logits), axis=-1)


def _log_density(d: Any, x: Array) -> Array:
    if isinstance(d, dist.VonMises):
        return von_mises_log_prob(x - d.loc, d.concentration)
    return log_prob(d, x)
