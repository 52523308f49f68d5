"""The von Mises-Fisher distribution on a sphere."""

from __future__ import annotations

import functools
import math
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.lax import stop_gradient
from jaxtyping import Array, ArrayLike, Float, Key, Num
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence

import ppgen

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)
# Beyond this many standard deviations from its mode the density of the angle is negligible.
_REACH = 14.0


@final
class VonMisesFisher(dist.Distribution):
    r"""Directions z on the unit sphere of R^m, with density proportional to exp(κ μᵀz).

    The angle θ between z and μ has a density proportional to exp(κ cos θ) sin^{m-2} θ on [0, π],
    and given it, all directions are alike. So one integral, by Gauss-Legendre quadrature from the
    mode to either side, gives the normaliser and the distribution function of θ, with derivatives
    of any order that are those of the quadrature: within 1e-12 in double precision for κ up to 1e4.

    Samples are exact: Wood's rejection. They move with κ by *implicit* reparameterisation, the
    quantile of θ held fixed, so that no term corrects for what was rejected; with μ they turn by
    the smallest rotation, which does not spin them around it. Gradients are *unbiased*, to every
    order, for costs that are continuous on the sphere.

    Args:
        mean_direction: μ, unit vectors of shape `(*batch, m)`, m at least 2. Only its derivative
            along the sphere means something.
        concentration: κ, not negative; 0 is the uniform distribution.

    References:
        Wood. Simulation of the von Mises Fisher distribution. Communications in Statistics 23,
        1994.
        Figurnov, Mohamed, Mnih. Implicit reparameterization gradients. NeurIPS 2018.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ppgen.models.parts.distributions import VonMisesFisher
        >>> d = VonMisesFisher(jnp.array([0.0, 0.0, 1.0]), 0.0)  # area 4π
        >>> print(f"{4 * jnp.pi * jnp.exp(d.log_prob(jnp.array([1.0, 0.0, 0.0]))):.4f}")
        1.0000
    """

    arg_constraints = {
        "mean_direction": constraints.sphere,
        "concentration": constraints.nonnegative,
    }
    support = constraints.sphere  # pyright: ignore[reportAssignmentType]
    reparametrized_params = ["mean_direction", "concentration"]
    pytree_data_fields = ("mean_direction", "concentration")

    def __init__(
        self, mean_direction: Any, concentration: Any, *, validate_args: bool | None = None
    ) -> None:
        mean_direction = jnp.asarray(mean_direction, dtype=float)
        if mean_direction.ndim < 1 or mean_direction.shape[-1] < 2:
            shape = mean_direction.shape
            raise ValueError(f"a direction has at least two coordinates, and this is of {shape}")
        *lead, size = mean_direction.shape
        batch = jax.lax.broadcast_shapes(jnp.shape(concentration), tuple(lead))
        self.mean_direction = jnp.broadcast_to(mean_direction, (*batch, size))
        self.concentration = jnp.broadcast_to(jnp.asarray(concentration, dtype=float), batch)
        super().__init__(batch, (size,), validate_args=validate_args)

    def log_prob(
        self, value: Num[ArrayLike, "*shape m"], intermediates: Any = None
    ) -> Float[Array, "*shape"]:
        """Log density in nats, with respect to area on the sphere."""
        # κ (μᵀz - 1), the rest of it in the normaliser, which then is not large.
        cosine = jnp.sum(jnp.asarray(self.mean_direction * value), -1)
        return self.concentration * (cosine - 1) - self._log_peak()

    def sample(
        self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape m"]:
        """Draws directions that move with the parameters."""
        size = self.event_shape[0]
        shape = (*sample_shape, *self.batch_shape)
        angle_key, turn_key = jax.random.split(key)
        concentration = jnp.broadcast_to(self.concentration, shape)
        pole = jnp.asarray(self.mean_direction)
        angle = _angles(angle_key, stop_gradient(concentration), size)
        angle = ppgen.implicit(
            angle,
            functools.partial(_mass, size=size),
            functools.partial(_log_density, size=size),
            concentration,
        )[..., None]
        held = stop_gradient(pole)
        turn = jax.random.normal(turn_key, (*shape, size), pole.dtype)
        for _ in range(2):  # once more, for what is left of rounding where it was almost along μ
            turn = turn - held * jnp.sum(turn * held, -1, keepdims=True)
            turn = turn / jnp.linalg.norm(turn, axis=-1, keepdims=True)
        # Both at right angles to μ: turn by the smallest rotation from μ held fixed to μ.
        turn = turn - (held + pole) * (
            jnp.sum(turn * pole, -1, keepdims=True) / (1 + jnp.sum(held * pole, -1, keepdims=True))
        )
        return jnp.cos(angle) * pole + jnp.sin(angle) * turn

    @property
    def mean_cosine(self) -> Float[Array, "*batch"]:
        """E[cos θ], the length of the mean: 0 if uniform, towards 1 as κ grows."""
        size, concentration = self.event_shape[0], jnp.asarray(self.concentration)
        mode, low, high = _region(concentration, size)
        parts = [_nodes(low, mode), _nodes(mode, high)]
        angle, weight = (jnp.concatenate(p, -1) for p in zip(*parts, strict=True))
        density = jnp.exp(_log_density(angle, concentration[..., None], size=size))
        return jnp.sum(weight * density * jnp.cos(angle), -1)

    @property
    def mean(self) -> Float[Array, "*batch m"]:
        """The mean vector, inside of the sphere."""
        return self.mean_cosine[..., None] * self.mean_direction

    def entropy(self) -> Float[Array, "*batch"]:
        """In nats, with respect to area on the sphere."""
        return self._log_peak() + self.concentration * (1 - self.mean_cosine)

    def _log_peak(self) -> Float[Array, "*batch"]:
        """The log density at μ, negated."""
        size = self.event_shape[0]
        return _log_area(size) + _log_normalizer(jnp.asarray(self.concentration), size)


@kl_divergence.register(VonMisesFisher, VonMisesFisher)
def _(p: VonMisesFisher, q: VonMisesFisher) -> Float[Array, "*batch"]:
    # The log density under q is linear in z, so its mean is that of the mean.
    return -p.entropy() - q.log_prob(p.mean)


def _log_area(size: int) -> float:
    """Log area of the directions at one angle to another direction, times sin^{2-size} of it."""
    half = (size - 1) / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


def _exponent(angle: Array, concentration: Array, size: int) -> Array:
    """Log density of the angle, less a constant."""
    value = -2 * concentration * jnp.sin(angle / 2) ** 2
    return value if size == 2 else value + (size - 2) * jnp.log(jnp.sin(angle))


def _region(concentration: Array, size: int) -> tuple[Array, Array, Array]:
    """The mode of the angle, and where its density becomes negligible. Held fixed."""
    concentration = stop_gradient(concentration)
    root = (size - 2 + jnp.sqrt((size - 2) ** 2 + 4 * concentration**2)) / 2
    cosine = concentration / jnp.maximum(root, jnp.finfo(root.dtype).tiny)
    mode = jnp.arccos(jnp.minimum(cosine, 1.0))
    # κ / cos θ = (size - 2) / sin² θ at the mode, unless there is no such factor in the density.
    curvature = concentration * cosine + (root if size > 2 else 0.0)
    reach = _REACH / jnp.sqrt(jnp.maximum(curvature, 1.0))
    return mode, jnp.maximum(mode - reach, 0.0), jnp.minimum(mode + reach, math.pi)


def _nodes(start: Array, stop: Array) -> tuple[Array, Array]:
    """Angles and lengths for an integral, along a new last axis."""
    length = (stop - start)[..., None]
    nodes, weights = (jnp.asarray(a, length.dtype) for a in ((_NODES + 1) / 2, _WEIGHTS / 2))
    return start[..., None] + length * nodes, length * weights


def _log_normalizer(concentration: Array, size: int) -> Array:
    """Log ∫ exp(κ (cos θ - 1)) sin^{size-2} θ dθ over [0, π]."""
    mode, low, high = _region(concentration, size)
    parts = [_nodes(low, mode), _nodes(mode, high)]
    angle, weight = (jnp.concatenate(p, -1) for p in zip(*parts, strict=True))
    return jax.nn.logsumexp(_exponent(angle, concentration[..., None], size), axis=-1, b=weight)


def _log_density(angle: Array, concentration: Array, *, size: int) -> Array:
    """Log density of the angle in nats."""
    return _exponent(angle, concentration, size) - _log_normalizer(concentration, size)


def _mass(angle: Array, concentration: Array, *, size: int) -> Array:
    """The distribution function of the angle, integrated from the end that is nearer."""
    mode, low, high = _region(concentration, size)
    below = angle < mode
    start = jnp.where(below, jnp.minimum(low, stop_gradient(angle)), angle)
    stop = jnp.where(below, angle, jnp.maximum(high, stop_gradient(angle)))
    nodes, weights = _nodes(start, stop)
    density = jnp.exp(_log_density(nodes, concentration[..., None], size=size))
    tail = jnp.sum(weights * density, -1)
    return jnp.where(below, tail, 1 - tail)


def _angles(key: Array, concentration: Array, size: int) -> Array:
    """Angles by Wood's rejection, of which each round accepts two in three or more."""
    m = size - 1.0
    b = m / (2 * concentration + jnp.sqrt(4 * concentration**2 + m**2))
    # In terms of 1 - cos θ, which keeps its digits where the concentration is large.
    least = 2 * b / (1 + b)

    def propose(key: Array) -> tuple[Array, Array]:
        normal_key, uniform_key = jax.random.split(key)
        g = jax.random.normal(normal_key, (*concentration.shape, size), concentration.dtype)
        along, across = jnp.abs(g[..., 0]), jnp.linalg.norm(g[..., 1:], axis=-1)
        # The tangent of half the angle to the first axis: its squared sine is a draw of
        # Beta(m / 2, m / 2), which Wood's proposal is made of.
        t = across / (jnp.linalg.norm(g, axis=-1) + along)
        t = jnp.where(g[..., 0] > 0, t, 1 / t)
        gap = 2 * b * t**2 / (1 + b * t**2)
        # 1 - x₀ cos θ over 1 - x₀², with x₀ = (1 - b) / (1 + b).
        ratio = (1 + b) * (1 + t**2) / (2 * (1 + b * t**2))
        log_accept = concentration * (least - gap) + m * jnp.log(ratio)
        log_uniform = jnp.log(jax.random.uniform(uniform_key, gap.shape, gap.dtype))
        # Not `<=`: if the concentration is NaN, nothing would ever be accepted.
        return 2 * jnp.arctan(jnp.sqrt(b) * t), ~(log_uniform > log_accept)

    def go_on(state: tuple[Array, Array, Array]) -> Array:
        return ~jnp.all(state[2])

    def go(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key, angle, done = state
        key, now = jax.random.split(key)
        proposed, accepted = propose(now)
        return key, jnp.where(done, angle, proposed), done | accepted

    start = (key, jnp.zeros_like(concentration), jnp.zeros(concentration.shape, bool))
    return jax.lax.while_loop(go_on, go, start)[1]
