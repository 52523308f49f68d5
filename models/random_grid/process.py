"""The networks of a random grid neural process, and the laws that they parameterise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ppgen.models.parts.networks import DeepONet, GICNet
from ppgen.models.random_grid.law import Moments, RandomField
from ppgen.models.random_grid.problem import AbstractProblem

Cloud = Float[Array, "points d"]
"""Points of the box."""

SCALE = 0.05
"""Initial scale of the noises of a solution: about the order of a solution."""


@runtime_checkable
class Network(Protocol):
    """A map from a cloud of points and a context to numbers at queries: `GICNet` or `DeepONet`."""

    def encode(self, points: Array, values: Array, context: Array) -> Array:
        """A code of the cloud and the context."""
        ...

    def decode(self, code: Array, query: Array) -> Array:
        """Numbers at a query."""
        ...


class RGNP(eqx.Module):
    """A random grid neural process: a problem, a network for each direction, and constants."""

    forward: Network
    backward: Network
    problem: AbstractProblem = eqx.field(static=True)
    points: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    grid: tuple[tuple[float, ...], ...] | None = eqx.field(static=True)

    def __init__(
        self,
        problem: AbstractProblem,
        *,
        points: int = 30,
        rank: int = 4,
        width: int = 96,
        channels: int = 16,
        nodes: int = 16,
        frequencies: int = 2,
        tolerance: float = 0.05,
        grid: Sequence[Sequence[float]] | None = None,
        forward: Network | None = None,
        key: Key[Array, ""],
    ) -> None:
        """Makes one with fresh weights.

        Args:
            problem: The equation.
            points: Points of a random grid.
            rank: Rank of the covariance of a solution, white noise apart.
            width: Width of the dense layers.
            channels: Channels of the convolutions.
            nodes: Nodes of their regular grid, in each dimension.
            frequencies: Fourier features of a query, in each dimension.
            tolerance: Standard deviation of the residuals, ε_r. It is not a parameter: optimised
                jointly with the scale of the white noise, both would grow, and the equation would
                be ignored.
            grid: Points that never change, in place of random ones: the negative control.
            forward: A network with `outputs(problem, rank)` outputs, in place of a `GICNet`.
            key: Draws the weights.
        """
        forward_key, backward_key = jax.random.split(key)
        d = len(problem.low)
        (z,), (w,) = problem.parameters().event_shape, problem.conditions().event_shape
        self.forward = forward or GICNet(
            dimensions=d,
            values=problem.inputs,
            context=z + w,
            query=d,
            outputs=outputs(problem, rank),
            width=width,
            channels=channels,
            nodes=nodes,
            frequencies=frequencies,
            key=forward_key,
        )
        self.backward = GICNet(
            dimensions=d,
            values=problem.fields,
            context=0,
            query=w,
            outputs=2 * z,
            width=width,
            channels=channels,
            nodes=nodes,
            # Without it, in one run of seven of Burgers' equation the inverse map collapsed to the
            # prior.
            offset=1.0,
            key=backward_key,
        )
        self.grid = None if grid is None else tuple(tuple(map(float, point)) for point in grid)
        self.points = points if self.grid is None else len(self.grid)
        self.problem, self.rank, self.tolerance = problem, rank, tolerance

    def grids(self) -> dist.Distribution:
        """p(X): independent and uniform on the box, or a point mass on the grid that was given."""
        if self.grid is not None:
            return dist.Delta(jnp.asarray(self.grid), event_dim=2)
        return uniform_grids(self.problem, self.points)

    def unconstrained(self, z: Float[Array, " z"], w: Float[Array, " w"], x: Cloud) -> RandomField:
        """q_α(ũ | z, w, X), at any point."""
        problem = self.problem
        values = jax.vmap(lambda point: problem.input(point, z, w))(x)
        context = [_standard(z, problem.parameters()), _standard(w, problem.conditions())]
        code = self.forward.encode(self._unit(x), values, jnp.concatenate(context))

        def at(point: Float[Array, " d"]) -> Moments:
            numbers = self.forward.decode(code, self._unit(point))
            mean, log_scale, factor = jnp.split(numbers, [problem.fields, 2 * problem.fields])
            factor = SCALE * factor.reshape(problem.fields, self.rank)
            return Moments(mean, SCALE * jnp.exp(log_scale), factor)

        return at

    def solution(self, z: Float[Array, " z"], w: Float[Array, " w"], x: Cloud) -> RandomField:
        """The law of u = base + D ũ, at any point: it meets the conditions, whatever the weights.

        Args:
            z: Parameters of the equation.
            w: Conditions.
            x: A grid for the networks to read z and w on.

        Returns:
            The moments of u as a function of a point.
        """
        moments = self.unconstrained(z, w, x)

        def at(point: Float[Array, " d"]) -> Moments:
            (base, d), free = self.problem.envelope(point, w), moments(point)
            return Moments(base + d * free.mean, d * free.scale, d[:, None] * free.factor)

        return at

    def parameters(
        self, u: Float[Array, "points fields"], w: Float[Array, " w"], x: Cloud
    ) -> dist.Distribution:
        """q_β(z | u, w, X): a diagonal normal law, which does not know the bounds of the prior.

        Args:
            u: A solution on the grid, or noisy observations of one.
            w: Conditions.
            x: The grid, of any number of points.

        Returns:
            The law of z.
        """
        prior = self.problem.parameters()
        code = self.backward.encode(self._unit(x), u, jnp.zeros(0, u.dtype))
        numbers = self.backward.decode(code, _standard(w, self.problem.conditions()))
        mean, log_scale = jnp.split(numbers, 2)
        scale = jnp.sqrt(prior.variance)
        return dist.Normal(prior.mean + scale * mean, scale * jnp.exp(log_scale)).to_event(1)

    def _unit(self, x: Float[Array, "*points d"]) -> Float[Array, "*points d"]:
        """Points of the box as points of [−1, 1]ᵈ."""
        low, high = jnp.asarray(self.problem.low), jnp.asarray(self.problem.high)
        return (2 * x - low - high) / (high - low)


def uniform_grids(problem: AbstractProblem, points: int) -> dist.Distribution:
    """Points that are independent and uniform on the box of a problem."""
    low, high = jnp.asarray(problem.low), jnp.asarray(problem.high)
    return dist.Uniform(low, high).expand([points, len(low)]).to_event(2)


def outputs(problem: AbstractProblem, rank: int) -> int:
    """How many numbers the forward network has at a query: mean, log scale and factor."""
    return problem.fields * (2 + rank)


def deep_operator(
    problem: AbstractProblem, *, rank: int, width: int, key: Key[Array, ""]
) -> DeepONet:
    """A forward network that reads the parameters alone, not the grid.

    Args:
        problem: The equation.
        rank: Rank of the covariance of a solution, white noise apart.
        width: Width of its layers.
        key: Draws the weights.
    """
    (z,), (w,) = problem.parameters().event_shape, problem.conditions().event_shape
    return DeepONet(
        context=z + w,
        query=len(problem.low),
        outputs=outputs(problem, rank),
        width=width,
        frequencies=2,
        key=key,
    )


def _standard(value: Float[Array, " n"], prior: dist.Distribution) -> Float[Array, " n"]:
    """Of mean zero and variance one."""
    return (value - prior.mean) / jnp.sqrt(prior.variance)
