"""Burgers' equation, from a wave to a front."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppgen.models.random_grid.equations.solve_burgers import solve_burgers
from ppgen.models.random_grid.problem import AbstractProblem, Field, derivative


class Burgers(AbstractProblem):
    """u_t + z₂ u u_x = z₁ u_xx for x and t in [0, 1], from sin(2πwx) sin(πx), zero at both ends.

    The viscosity z₁ is uniform on (0.01, 0.1), the advection z₂ on (0.5, 1), the wave number w on
    (0.5, 1.5). A point is (x, t). `ppgen.models.parts.data.solve_burgers` solves it.
    """

    low: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    high: ClassVar[tuple[float, ...]] = (1.0, 1.0)
    fields: ClassVar[int] = 1
    inputs: ClassVar[int] = 1

    def parameters(self) -> dist.Distribution:
        """Viscosity and advection."""
        return dist.Uniform(jnp.array([0.01, 0.5]), jnp.array([0.1, 1.0])).to_event(1)

    def conditions(self) -> dist.Distribution:
        """The wave number."""
        return dist.Uniform(0.5, 1.5).expand([1]).to_event(1)

    def input(
        self, x: Float[Array, "2"], z: Float[Array, "2"], w: Float[Array, "1"]
    ) -> Float[Array, "1"]:
        """The initial wave."""
        return jnp.sin(2 * jnp.pi * w * x[0]) * jnp.sin(jnp.pi * x[0])

    def envelope(
        self, x: Float[Array, "2"], w: Float[Array, "1"]
    ) -> tuple[Float[Array, "1"], Float[Array, "1"]]:
        """The initial wave, and zero at time 0 and at both ends."""
        wave = jnp.sin(2 * jnp.pi * w * x[0]) * jnp.sin(jnp.pi * x[0])
        return wave, 4 * x[:1] * (1 - x[:1]) * x[1:]

    def residual(
        self, u: Field, x: Float[Array, "2"], z: Float[Array, "2"], w: Float[Array, "1"]
    ) -> Float[Array, "1"]:
        """Change, advection and diffusion."""

        def slope(x: Float[Array, "2"]) -> Float[Array, "1"]:
            return derivative(u, x, 0)

        return derivative(u, x, 1) + z[1] * u(x) * slope(x) - z[0] * derivative(slope, x, 0)

    def solve(
        self, z: Float[np.ndarray, "2"], w: Float[np.ndarray, "1"], *, refine: int = 1
    ) -> tuple[Float[np.ndarray, "nodes 2"], Float[np.ndarray, "nodes 1"]]:
        """By `solve_burgers`, at 65 places and 33 times."""
        x, times = np.linspace(0.0, 1.0, 128 * refine + 1), np.linspace(0.0, 1.0, 33)
        initial = np.sin(2 * np.pi * w[0] * x) * np.sin(np.pi * x)
        u = solve_burgers(float(z[0]), float(z[1]), initial, times)[:, :: 2 * refine]
        points = np.stack(np.meshgrid(x[:: 2 * refine], times), -1)
        return points.reshape(-1, 2), u.reshape(-1, 1)
