r"""The programs of random grid neural processes.

A differential equation F[u] = 0 has random parameters z and conditions w. The guide draws them, a
grid X of points, *fresh each time*, and a solution on it; the model asks how well that solves the
equation at these points, and whether z can be told from it:

    guide:  z ~ p(z),  w ~ p(w),  x₁, ..., xₙ ~ p(x),
            ũ = μ(X) + C(X) ε + σ(X) ⊙ ε′ ~ q_α(ũ | z, w, X) = N(μ, C Cᵀ + diag σ²),  u = base + D ũ
    model:  the same z, w, X and a flat prior of ũ;
            0 ~ N(F[u](xᵢ), ε_r²),  z ~ q_β(z | u, w, X)

so that `ppgen.inference.elbo(rgnp_model, rgnp_guide)` is

.. math:: E_{p(z) p(w) p(X)} E_{q_α}\Bigl[\sum_i \log N(0; F[u](x_i), ε_r^2)
          + \log q_β(z \mid u, w, X) - \log q_α(ũ \mid z, w, X)\Bigr].

The grid is a choice like the others, and the expectation marginalises it: no point is ever seen
twice, so nothing can be fitted to the points. With `fixed` it is a constant, the negative control.

The latent choices are the noises ε (`common`, of a few dimensions) and ε′ (`white`, one for each
point and field). Their density is the same in model and guide and cancels; the volume that ũ fills
enters the model as the factor −log q_α, which makes the prior flat in ũ.

What is exact and what is not: the objective is an expectation that `ppgen.expectation` estimates
*without bias*, pathwise. It is a *lower bound* only with respect to a flat, improper prior, so its
value has no absolute meaning. The derivatives of F hold the noises fixed. For μ + C ε that is
exact: it is a smooth function, drawn at random. For the white term it is an *approximation*, for a
function that is white noise has no derivatives: each point has a smooth function of its own,
σ(x) ε′ᵢ. Uncertainties are those of the variational family, and are not calibrated.

References:
    Vadeboncoeur, Kazlauskaite, Papandreou, Cirak, Girolami, Akyildiz. Random grid neural processes
    for parametric partial differential equations. ICML 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ppgen.models.networks import GICNet
from ppgen.models.random_grid._problem import AbstractProblem

Cloud = Float[Array, "points d"]
Query = Callable[[Float[Array, " d"]], "Moments"]


class Network(Protocol):
    """What maps a cloud of points and a context to numbers at queries: a `GICNet`, `DeepONet`."""

    def encode(self, points: Array, values: Array, context: Array) -> Array:
        """A code of the cloud and the context."""
        ...

    def decode(self, code: Array, query: Array) -> Array:
        """Numbers at a query."""
        ...


class Moments(NamedTuple):
    """A normal law at each point, correlated between points by `rank` common normal noises.

    Attributes:
        mean: Of each field.
        scale: Standard deviation of the white noise of each field.
        factor: How each field depends on the common noise.
    """

    mean: Float[Array, "*points fields"]
    scale: Float[Array, "*points fields"]
    factor: Float[Array, "*points fields rank"]

    def at(
        self, common: Float[Array, " rank"], white: Float[Array, "*points fields"]
    ) -> Float[Array, "*points fields"]:
        """The values that these noises stand for."""
        return self.mean + self.factor @ common + self.scale * white

    def law(self, noise: float | Float[Array, ""] = 0.0) -> dist.Distribution:
        """The joint law of all fields at all points, flattened, observed with some more noise.

        Args:
            noise: Standard deviation of the noise of the observation.

        Returns:
            A normal law of low rank: its density takes time linear in the number of points.
        """
        return dist.LowRankMultivariateNormal(
            self.mean.ravel(),
            self.factor.reshape(self.mean.size, -1),
            self.scale.ravel() ** 2 + noise**2,
        )


class RGNP(eqx.Module):
    """A random grid neural process: two networks, the scale of residuals, and the problem."""

    forward: Network
    backward: GICNet
    tolerance: float = eqx.field(static=True)
    problem: AbstractProblem = eqx.field(static=True)
    points: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    fixed: bool = eqx.field(static=True)

    def __init__(
        self,
        problem: AbstractProblem,
        *,
        points: int = 30,
        rank: int = 4,
        width: int = 96,
        frequencies: int = 2,
        nodes: int = 16,
        tolerance: float = 0.05,
        fixed: bool = False,
        forward: Network | None = None,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            problem: The equation.
            points: Points of a grid.
            rank: Of the covariance of the solution, besides white noise.
            width: Of the networks.
            frequencies: Fourier features of a point, in each dimension.
            nodes: Of the grid that clouds of points are interpolated onto, in each dimension.
            fixed: Whether the grid is one draw, made once: the negative control.
            forward: A network for the solution instead of a `GICNet`, with `outputs(problem, rank)`
                outputs.
            key: Draws the weights.
        """
        keys = jax.random.split(key)
        d, z, w = len(problem.low), *_sizes(problem)
        self.forward = forward or GICNet(
            dimensions=d,
            values=problem.inputs,
            context=z + w,
            queries=d,
            outputs=outputs(problem, rank),
            width=width,
            nodes=nodes,
            frequencies=frequencies,
            key=keys[0],
        )
        self.backward = GICNet(
            dimensions=d,
            values=problem.fields,
            context=w,
            queries=0,
            outputs=2 * z,
            width=width,
            depth=1,
            nodes=nodes,
            key=keys[1],
        )
        self.tolerance = tolerance
        self.problem, self.points, self.rank, self.fixed = problem, points, rank, fixed

    def solution(self, z: Float[Array, " z"], w: Float[Array, " w"], x: Cloud) -> Query:
        """q_α: the law of ũ at any point, given a grid."""
        problem = self.problem
        context = jnp.concatenate([_standard(z, problem.parameters()), self._known(w)])
        values = jax.vmap(lambda point: problem.input(point, z, w))(x)
        code = self.forward.encode(self._unit(x), values, context)

        def at(point: Float[Array, " d"]) -> Moments:
            mean, log_scale, factor = jnp.split(
                self.forward.decode(code, self._unit(point)),
                [problem.fields, 2 * problem.fields],
            )
            factor = factor.reshape(problem.fields, -1)
            return Moments(mean, jnp.exp(log_scale - 3.0), 0.1 * factor)

        return at

    def parameters(
        self, u: Float[Array, "points fields"], w: Float[Array, " w"], x: Cloud
    ) -> dist.Distribution:
        """q_β: the law of z, given a solution on a grid."""
        prior = self.problem.parameters()
        code = self.backward.encode(self._unit(x), u, self._known(w))
        mean, log_scale = jnp.split(self.backward.decode(code, jnp.zeros(0)), 2)
        scale = jnp.sqrt(prior.variance)
        return dist.Normal(prior.mean + scale * mean, scale * jnp.exp(log_scale)).to_event(1)

    def constrained(self, moments: Query, w: Float[Array, " w"]) -> Query:
        """The law of u = base + D ũ, of which `moments` is that of ũ."""

        def at(point: Float[Array, " d"]) -> Moments:
            (base, d), free = self.problem.envelope(point, w), moments(point)
            return Moments(base + d * free.mean, d * free.scale, d[:, None] * free.factor)

        return at

    def _unit(self, x: Float[Array, "*points d"]) -> Float[Array, "*points d"]:
        """Points of the box as points of [−1, 1]ᵈ."""
        low, high = jnp.asarray(self.problem.low), jnp.asarray(self.problem.high)
        return (2 * x - low - high) / (high - low)

    def _known(self, w: Float[Array, " w"]) -> Float[Array, " w"]:
        return _standard(w, self.problem.conditions())


def outputs(problem: AbstractProblem, rank: int) -> int:
    """How many outputs the network of the solution has: mean, log scale and factor."""
    return problem.fields * (2 + rank)


def draw_grid(rgnp: RGNP) -> Cloud:
    """The site `x`: points that are independent and uniform on the box, or always the same ones."""
    low, high = jnp.asarray(rgnp.problem.low), jnp.asarray(rgnp.problem.high)
    grid = dist.Uniform(low, high).expand([rgnp.points, len(low)]).to_event(2)
    if rgnp.fixed:
        grid = dist.Delta(grid.sample(jax.random.key(rgnp.points)), event_dim=2)
    return numpyro.sample("x", grid)  # pyright: ignore[reportReturnType]


def rgnp_guide(rgnp: RGNP) -> tuple[Array, Array, Cloud, Array, Array]:
    """The variational program: a problem, a grid, and the noises of a solution on it."""
    z = numpyro.sample("z", rgnp.problem.parameters())
    w = numpyro.sample("w", rgnp.problem.conditions())
    x = draw_grid(rgnp)
    common = numpyro.sample("common", _noise(rgnp.rank))
    white = numpyro.sample("white", _noise(rgnp.points, rgnp.problem.fields))
    return z, w, x, common, white  # pyright: ignore[reportReturnType]


def rgnp_model(rgnp: RGNP) -> None:
    """The generative program: the equation holds on the grid, and the solution tells z."""
    z, w, x, common, white = rgnp_guide(rgnp)
    free = rgnp.solution(z, w, x)
    law = rgnp.constrained(free, w)

    def residual(point: Float[Array, " d"], noise: Float[Array, " fields"]) -> Float[Array, " r"]:
        return rgnp.problem.residual(lambda at: law(at).at(common, noise), point, z, w)

    r = jax.vmap(residual)(x, white)

    numpyro.sample("r", dist.Normal(r, rgnp.tolerance).to_event(2), obs=jnp.zeros_like(r))
    u = jax.vmap(law)(x).at(common, white)
    numpyro.sample("z_again", rgnp.parameters(u, w, x), obs=z)
    moments = jax.vmap(free)(x)
    values = moments.at(common, white)
    numpyro.factor("flat", -moments.law().log_prob(values.ravel()))


def _noise(*shape: int) -> dist.Distribution:
    return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))


def _sizes(problem: AbstractProblem) -> tuple[int, int]:
    """Dimensions of z and w."""
    return problem.parameters().event_shape[0], problem.conditions().event_shape[0]


def _standard(value: Float[Array, " n"], prior: dist.Distribution) -> Float[Array, " n"]:
    """Of mean zero and variance one."""
    return (value - prior.mean) / jnp.sqrt(prior.variance)
