"""The nonlinear Poisson problem on a line."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppgen.models.random_grid.equations.solve_poisson import FLOOR, solve_poisson
from ppgen.models.random_grid.problem import AbstractProblem, Field, derivative

COEFFICIENTS = 5


class Poisson(AbstractProblem):
    """(κ(x, u) u′)′ + w = 0 on [−1, 1], u(±1) = 0, κ = softplus(u Σ zₙ Tₙ(x)) + 0.1.

    The five coefficients of the Chebyshev polynomials are uniform on (−1, 1), the source w is
    uniform on (1, 2). `ppgen.models.parts.data.solve_poisson` solves it.
    """

    low: ClassVar[tuple[float, ...]] = (-1.0,)
    high: ClassVar[tuple[float, ...]] = (1.0,)
    fields: ClassVar[int] = 1
    inputs: ClassVar[int] = 2

    def parameters(self) -> dist.Distribution:
        """The coefficients."""
        return dist.Uniform(-1.0, 1.0).expand([COEFFICIENTS]).to_event(1)

    def conditions(self) -> dist.Distribution:
        """The source."""
        return dist.Uniform(1.0, 2.0).expand([1]).to_event(1)

    def input(
        self, x: Float[Array, "1"], z: Float[Array, " z"], w: Float[Array, "1"]
    ) -> Float[Array, "2"]:
        """The polynomial, and the source."""
        return jnp.concatenate([_polynomial(x, z), w])

    def envelope(
        self, x: Float[Array, "1"], w: Float[Array, "1"]
    ) -> tuple[Float[Array, "1"], Float[Array, "1"]]:
        """Zero at both ends."""
        return jnp.zeros_like(x), jnp.cos(jnp.pi / 2 * x)

    def residual(
        self, u: Field, x: Float[Array, "1"], z: Float[Array, " z"], w: Float[Array, "1"]
    ) -> Float[Array, "1"]:
        """What flows in, and the source."""

        def flux(x: Float[Array, "1"]) -> Float[Array, "1"]:
            conductivity = jax.nn.softplus(u(x) * _polynomial(x, z)) + FLOOR
            return conductivity * derivative(u, x)

        return derivative(flux, x) + w

    def solve(
        self, z: Float[np.ndarray, " z"], w: Float[np.ndarray, "1"], *, refine: int = 1
    ) -> tuple[Float[np.ndarray, "nodes 1"], Float[np.ndarray, "nodes 1"]]:
        """By `solve_poisson`, on 201 points."""
        u = solve_poisson(z, float(w[0]), nodes=400 * refine + 1)
        return np.linspace(-1.0, 1.0, 201)[:, None], u[:: 2 * refine, None]


def _polynomial(x: Float[Array, "1"], z: Float[Array, " z"]) -> Float[Array, "1"]:
    """Σ zₙ Tₙ(x), by the recurrence of the Chebyshev polynomials, which has all derivatives."""
    before, now, total = x, jnp.ones_like(x), jnp.zeros_like(x)
    for coefficient in z:
        total = total + coefficient * now
        before, now = now, 2 * x * now - before
    return total
