r"""The programs of random grid neural processes.

A differential equation F[u] = 0 has random parameters z and conditions w. The guide draws them, a
grid X of points, fresh each time, and a solution on it; the model scores how well it solves the
equation at these points, and z given it:

    guide:  z ~ p(z),  w ~ p(w),  x₁, ..., xₙ ~ p(x),
            ũ = μ(X) + C(X) ε + σ(X) ⊙ ε′, which is q_α(ũ | z, w, X) = N(μ, C Cᵀ + diag σ²)
    model:  the same z, w and X, any ũ,  u = base + D ũ,
            0 ~ N(F[u](xᵢ), ε_r²),  z ~ q_β(z | u, w, X)

The noises ε (`common`, of a few dimensions) and ε′ (`white`, of one for each field and point) are
the sites. Their density is the same in both programs and cancels; the volume that ũ covers is the
factor −log q_α of the model, which so has a flat prior in ũ. `ppgen.inference.elbo` of the two is

.. math:: E_{p(z) p(w) p(X)} E_{q_α}\Bigl[\sum_i \log N(0; F[u](x_i), ε_r^2)
          + \log q_β(z \mid u, w, X) - \log q_α(ũ \mid z, w, X)\Bigr].

The grid is a choice like the others: the expectation marginalises it. No point is used twice, so
the networks cannot overfit a grid.

References:
    Vadeboncoeur, Kazlauskaite, Papandreou, Cirak, Girolami, Akyildiz. Random grid neural processes
    for parametric partial differential equations. ICML 2023.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppgen.models.random_grid.process import RGNP


class Observations(NamedTuple):
    """Noisy observations of a solution, anywhere: of one problem, or of many by a leading axis.

    Attributes:
        z: Parameters of the equation.
        w: Conditions.
        points: Where u was observed; off the grid.
        values: What was observed there.
    """

    z: Float[Array, "... z"]
    w: Float[Array, "... w"]
    points: Float[Array, "... seen d"]
    values: Float[Array, "... seen fields"]


def rgnp_guide(rgnp: RGNP) -> tuple[Any, Any, Any, Any, Any]:
    """The variational program: a problem, a grid, and the noises of a solution on it.

    Args:
        rgnp: The parameters.

    Returns:
        The values of its sites `z`, `w`, `x`, `common`, `white`.
    """
    z: Any = numpyro.sample("z", rgnp.problem.parameters())
    w = numpyro.sample("w", rgnp.problem.conditions())
    x = numpyro.sample("x", rgnp.grids())
    common = numpyro.sample("common", _noise(rgnp.rank))
    white = numpyro.sample("white", _noise(rgnp.points, rgnp.problem.fields))
    return z, w, x, common, white


def rgnp_model(rgnp: RGNP) -> Float[Array, "points fields"]:
    """The generative program: the equation holds on the grid, and z is observed given u.

    Derivatives in space hold the noises fixed. For μ + C ε that is *exact*: given ε it is a smooth
    function. For the white noise, which has no derivatives, it is an *approximation*: each point
    has its own smooth function μ + C ε + σ ε′ᵢ.

    The objective that `ppgen.inference.elbo` makes of it is estimated *without bias*. It is a
    *lower bound* with respect to a flat, improper prior: its differences are meaningful, its value
    is not, and the uncertainties are not calibrated.

    Args:
        rgnp: The parameters.

    Returns:
        The solution on the grid.
    """
    z, w, x, common, white = rgnp_guide(rgnp)
    solution = rgnp.solution(z, w, x)

    def residual(point: Float[Array, " d"], own: Float[Array, " fields"]) -> Float[Array, " r"]:
        return rgnp.problem.residual(lambda at: solution(at).at(common, own), point, z, w)

    r = jax.vmap(residual)(x, white)
    numpyro.sample("r", dist.Normal(r, rgnp.tolerance).to_event(2), obs=jnp.zeros_like(r))
    u = jax.vmap(solution)(x).at(common, white)
    numpyro.sample("z_again", rgnp.parameters(u, w, x), obs=z)
    # Of ũ, not of u: where D is almost zero, the density of u is lost to rounding.
    free: Any = jax.vmap(rgnp.unconstrained(z, w, x))(x)
    numpyro.factor("flat", -free.joint().log_prob(free.at(common, white).ravel()))
    return u


def grid_guide(rgnp: RGNP, seen: Observations, noise: float) -> None:
    """The variational program of `observations_model`: it draws a grid."""
    numpyro.sample("x", rgnp.grids())


def observations_model(rgnp: RGNP, seen: Observations, noise: float) -> None:
    """The likelihood of noisy observations of one solution, anywhere, with u integrated out.

    `ppgen.inference.elbo(observations_model, grid_guide)` is a *lower bound* on the log likelihood
    under q_α, of which the grid is integrated out: exact in u, by `Moments.joint`, and without bias
    in the grid.

    Args:
        rgnp: The parameters.
        seen: Observations of one problem.
        noise: Standard deviation of the noise.
    """
    x: Any = numpyro.sample("x", rgnp.grids())
    at_points = jax.vmap(rgnp.solution(seen.z, seen.w, x))(seen.points)
    numpyro.sample("y", at_points.joint(noise), obs=seen.values.ravel())


def _noise(*shape: int) -> dist.Distribution:
    return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))
