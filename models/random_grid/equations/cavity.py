"""The steady flow of a fluid in a cavity, driven by its lid."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppgen.models.random_grid.equations.solve_cavity import solve_cavity
from ppgen.models.random_grid.problem import AbstractProblem, Field, derivative

DIVERGENCE = 10.0
"""Weight of the residual of continuity."""


class Cavity(AbstractProblem):
    """ρ (u·∇)u = −∇p + μ ∇²u and ∇·u = 0 on [0, 1]², at rest at the walls but for the lid.

    The fields are two velocities and the pressure. z is the density ρ, uniform on (0.8, 1), and the
    viscosity μ, uniform on (0.1, 1). The lid, at y = 1, slides with velocity 16 w x² (1 − x)², w
    uniform on (0.5, 1): smooth at the corners, where one of constant velocity would tear the fluid.
    The pressure is zero at the origin. `ppgen.models.parts.data.solve_cavity` solves it.
    """

    low: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    high: ClassVar[tuple[float, ...]] = (1.0, 1.0)
    fields: ClassVar[int] = 3
    inputs: ClassVar[int] = 3

    def parameters(self) -> dist.Distribution:
        """Density and viscosity."""
        return dist.Uniform(jnp.array([0.8, 0.1]), jnp.array([1.0, 1.0])).to_event(1)

    def conditions(self) -> dist.Distribution:
        """How fast the lid is."""
        return dist.Uniform(0.5, 1.0).expand([1]).to_event(1)

    def input(
        self, x: Float[Array, "2"], z: Float[Array, "2"], w: Float[Array, "1"]
    ) -> Float[Array, "3"]:
        """Density, viscosity, and the velocity of the lid above the point."""
        return jnp.concatenate([z, w * _lid(x[:1])])

    def envelope(
        self, x: Float[Array, "2"], w: Float[Array, "1"]
    ) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
        """The lid drags what is below it; the walls hold both velocities."""
        base = jnp.zeros(3).at[0].set(w[0] * _lid(x[0]) * x[1] ** 4)
        walls = 16 * jnp.prod(x * (1 - x))
        return base, jnp.stack([walls, walls, jnp.sum(x)])

    def residual(
        self, u: Field, x: Float[Array, "2"], z: Float[Array, "2"], w: Float[Array, "1"]
    ) -> Float[Array, "3"]:
        """Momentum, and ten times continuity."""

        def slope(axis: int) -> Field:
            return lambda x: derivative(u, x, axis)

        velocity, by_x, by_y = u(x)[:2], slope(0)(x), slope(1)(x)
        curvature = derivative(slope(0), x, 0) + derivative(slope(1), x, 1)
        advection = velocity[0] * by_x[:2] + velocity[1] * by_y[:2]
        pressure = jnp.stack([by_x[2], by_y[2]])
        momentum = z[0] * advection + pressure - z[1] * curvature[:2]
        return jnp.append(momentum, DIVERGENCE * (by_x[0] + by_y[1]))

    def solve(
        self, z: Float[np.ndarray, "2"], w: Float[np.ndarray, "1"], *, refine: int = 1
    ) -> tuple[Float[np.ndarray, "nodes 2"], Float[np.ndarray, "nodes 3"]]:
        """By `solve_cavity`, at 31² points."""
        flow = solve_cavity(
            float(z[0]), float(z[1]), lambda x: float(w[0]) * _lid(x), cells=32 * refine
        )
        inner = np.arange(1, 32) / 32
        points = np.stack(np.meshgrid(inner, inner, indexing="ij"), -1)
        u = np.stack([part[refine - 1 :: refine, refine - 1 :: refine] for part in flow], -1)
        return points.reshape(-1, 2), u.reshape(-1, 3)


def _lid(x):
    """The shape of the velocity of the lid: one at the middle, zero with its slope at both ends."""
    return 16 * x**2 * (1 - x) ** 2
