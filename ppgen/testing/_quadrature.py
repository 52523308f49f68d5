"""Quadrature for continuous distributions of any support and tail.

The support is mapped onto the whole real line (or space), and there the trapezoid rule is applied
in a variable that stretches heavy tails until they decay doubly exponentially: it then converges
exponentially for smooth integrands, also where the density has a pole at the end of its support.

The nodes depend on the parameters only through the support; everything else is in the weights,
which are densities. So derivatives, of any order, of the weighted sum are quadratures of the exact
derivatives, whether or not the integrand is differentiable.

References:
    Takahasi and Mori, *Double Exponential Formulas for Numerical Integration*, 1974.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution, biject_to
from numpyro.distributions.transforms import IdentityTransform

# Where in its tail a density is cut off, relative to its maximum: exp(-42) is 6e-19.
_CUT = 42.0
# A standardised tail that is cut off before this decays like a Gaussian's, or faster.
_LIGHT = 16.0
# Reach and number of points of the search for the edges of a density.
_COARSE = np.linspace(-20.0, 20.0, 320)


def quadrature(d: Distribution, frozen: Distribution, nodes: int) -> tuple[Array, Array]:
    """Points `(S, *batch, *event)` and weights `(S, *batch)`, with `S = nodes ** dimensions`.

    Args:
        d: a continuous distribution.
        frozen: the same, with parameters that are not differentiated.
        nodes: points along each dimension of an event.
    """
    if isinstance(d, dist.Laplace):
        return _laplace(d, nodes)
    batch, bijector, still = d.batch_shape, biject_to(d.support), biject_to(frozen.support)
    shape = bijector.inverse_shape(d.event_shape)
    dims = math.prod(shape)
    centre, spread = _location(frozen, still, dims)

    def log_density(dd: Distribution, to_support, u: Array) -> tuple[Array, Array]:
        u = u.reshape(*u.shape[:-1], *shape)
        x = to_support(u)
        return x, log_density_of(dd, x) + to_support.log_abs_det_jacobian(u, x)

    def place(z: Array) -> Array:
        return centre + jnp.einsum("...ij,s...j->s...i", spread, z)

    def standardised(z: Array) -> Array:
        value = log_density(frozen, still, place(z))[1]
        # Where a bijector overflows, log densities can come out as anything.
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    axes = [_axis(standardised, batch, jnp.arange(dims) == i, nodes) for i in range(dims)]
    index = np.array(list(itertools.product(range(nodes), repeat=dims)))
    z = jnp.stack([a[0][i] for a, i in zip(axes, index.T, strict=True)], -1)
    log_volume = sum(a[1][i] for a, i in zip(axes, index.T, strict=True))
    log_volume = log_volume + jnp.linalg.slogdet(spread)[1]
    u, log_volume = jax.lax.stop_gradient((place(z), log_volume))
    points, value = log_density(d, bijector, u)
    weights = jnp.exp(value + log_volume)
    # Rounding at the edge of a bounded support can leave it: such points have no mass.
    return points, jnp.where(jnp.isnan(weights), 0.0, weights)


def log_density_of(d: Distribution, x: Array) -> Array:
    """Its log density without validation, which would only warn of points that have no mass."""
    validates = d._validate_args
    d._validate_args = False
    try:
        return d.log_prob(x)
    finally:
        d._validate_args = validates


def _axis(
    log_density: Callable[[Array], Array], batch: tuple[int, ...], along: Array, nodes: int
) -> tuple[Array, Array]:
    """Nodes along one dimension and the logs of the lengths that they stand for, `(S, *batch)`."""

    def edges(t: Array, low: Array, high: Array) -> tuple[Array, Array]:
        z, log_slope = _stretch(t, low, high)
        value = log_density(jnp.where(along, z[..., None], 0.0)) + log_slope
        alive = value > jnp.max(value, axis=0) - _CUT
        return jnp.argmax(alive, axis=0), len(t) - 1 - jnp.argmax(alive[::-1], axis=0)

    coarse = jnp.broadcast_to(_COARSE.reshape(-1, *(1,) * len(batch)), (len(_COARSE), *batch))
    heavy = jnp.full(batch, 0.5)
    first, last = edges(coarse, heavy, heavy)
    reach, _ = _stretch(jnp.asarray(_COARSE), 0.5, 0.5)
    low = jnp.where(reach[first] < -_LIGHT, heavy, 0.0)
    high = jnp.where(reach[last] > _LIGHT, heavy, 0.0)
    first, last = edges(coarse, low, high)
    start, stop = jnp.asarray(_COARSE)[first], jnp.asarray(_COARSE)[last]
    step = (stop - start) / nodes
    # Half a step inside either edge: what lies beyond them has no mass.
    t = start + (jnp.arange(nodes).reshape(-1, *(1,) * len(batch)) + 0.5) * step
    z, log_slope = _stretch(t, low, high)
    return z, log_slope + jnp.log(step)


def _stretch(t: Array, low: Array | float, high: Array | float) -> tuple[Array, Array]:
    """`t` with tails that turn exponential where `low`, `high` are 1/2, and its log derivative."""
    # With both tails stretched it is sinh, which moves the poles of a power law furthest away.
    linear = 1 - 4 * low * high
    z = linear * t + high * jnp.expm1(t) - low * jnp.expm1(-t)
    return z, jnp.log(linear + high * jnp.exp(t) + low * jnp.exp(-t))


def _location(frozen: Distribution, to_support, dims: int) -> tuple[Array, Array]:
    """Centre `(*batch, dims)` and spread `(*batch, dims, dims)` of the unconstrained density.

    They decide only where the points lie, never what they weigh.
    """
    batch, event = frozen.batch_shape, frozen.event_shape
    if isinstance(to_support, IdentityTransform) and hasattr(frozen, "scale"):
        centre = jnp.broadcast_to(frozen.loc, batch)[..., None]
        return centre, jnp.broadcast_to(frozen.scale, batch)[..., None, None]
    if hasattr(frozen, "scale_tril"):
        centre = jnp.broadcast_to(frozen.loc, (*batch, dims))
        return centre, jnp.broadcast_to(frozen.scale_tril, (*batch, dims, dims))

    def moments(mean: Array, variance: Array) -> tuple[Array, Array]:
        def unconstrained(x: Array) -> Array:
            return to_support.inv(x.reshape(event)).ravel()

        slopes = jax.jacfwd(unconstrained)(mean.ravel())
        # Beyond one, a linear approximation overestimates the spread of a logarithm.
        spread = jnp.log1p(jnp.sqrt(jnp.sum(slopes**2 * variance.ravel(), axis=-1)))
        return unconstrained(mean.ravel()), spread

    try:
        mean, variance = frozen.mean, frozen.variance
    except NotImplementedError:
        x = frozen.sample(jax.random.key(0), (256,))
        mean, variance = x.mean(0), x.var(0)
    for _ in batch:
        moments = jax.vmap(moments)
    shape = (*batch, *event)
    centre, spread = moments(jnp.broadcast_to(mean, shape), jnp.broadcast_to(variance, shape))
    # A heavy tail has no moments; the stretched grid reaches from anywhere.
    centre = jnp.where(jnp.isfinite(centre), centre, 0.0)
    spread = jnp.where(jnp.isfinite(spread) & (spread > 0), spread, 1.0)
    return centre, spread[..., None] * jnp.eye(dims)


def _laplace(d: dist.Laplace, nodes: int) -> tuple[Array, Array]:
    """Two exponential halves, moving with the location: its second derivative has an atom there.

    A rule with still nodes cannot see the atom, so here the integrand has to be differentiable.
    """
    unit = dist.Exponential(jnp.ones(d.batch_shape))
    x, weights = quadrature(unit, unit, (nodes + 1) // 2)
    points = jnp.concatenate([-x, x])
    return d.loc + d.scale * points, jnp.concatenate([weights, weights]) / 2
