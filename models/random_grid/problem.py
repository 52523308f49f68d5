"""The interface of parametric differential equations for random grid neural processes."""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

Field = Callable[[Float[Array, " d"]], Float[Array, " fields"]]
"""A function of a point."""


class AbstractProblem(eqx.Module):
    """A differential equation with random parameters z and conditions w on a box.

    The solution u is a function from the box to some number of fields. All methods are for one
    point; use `jax.vmap` for many. A subclass has no arrays, so that it may be a static field.

    Attributes:
        low: The lower corner of the box.
        high: The upper one.
        fields: How many fields u has.
        inputs: How many input functions of a point there are.
    """

    low: eqx.AbstractClassVar[tuple[float, ...]]
    high: eqx.AbstractClassVar[tuple[float, ...]]
    fields: eqx.AbstractClassVar[int]
    inputs: eqx.AbstractClassVar[int]

    @abc.abstractmethod
    def parameters(self) -> dist.Distribution:
        """p(z), over vectors: the unknowns of the inverse problem."""

    @abc.abstractmethod
    def conditions(self) -> dist.Distribution:
        """p(w), over vectors: sources, boundary and initial conditions, which are known."""

    @abc.abstractmethod
    def input(
        self, x: Float[Array, " d"], z: Float[Array, " z"], w: Float[Array, " w"]
    ) -> Float[Array, " inputs"]:
        """The input functions at a point, given z and w: read by a network on the grid."""

    @abc.abstractmethod
    def envelope(
        self, x: Float[Array, " d"], w: Float[Array, " w"]
    ) -> tuple[Float[Array, " fields"], Float[Array, " fields"]]:
        """`base` and `D ≥ 0`, such that u = base + D·ũ meets the conditions whatever ũ is.

        The conditions have to determine the solution: `rgnp_model` has a flat prior, so noise that
        does not change the residual has no cost, and grows without bound. For u′ = z without a
        condition, the white noise soon hides z from the inverse map; with u(−1) = 0 and D = 1 + x
        it is found.
        """

    @abc.abstractmethod
    def residual(
        self, u: Field, x: Float[Array, " d"], z: Float[Array, " z"], w: Float[Array, " w"]
    ) -> Float[Array, " equations"]:
        """F[u](x): zero, everywhere in the box, if u is the solution."""

    @abc.abstractmethod
    def solve(
        self, z: Float[np.ndarray, " z"], w: Float[np.ndarray, " w"], *, refine: int = 1
    ) -> tuple[Float[np.ndarray, "nodes d"], Float[np.ndarray, "nodes fields"]]:
        """A reference: the points of a fine grid, and a numerical solution there.

        Args:
            z: Parameters.
            w: Conditions.
            refine: Resolution of the solver in multiples of the usual one. The points stay.
        """


def derivative(f: Field, x: Float[Array, " d"], axis: int = 0) -> Float[Array, " fields"]:
    """The partial derivative of a field at a point, in forward mode.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ppgen.models.random_grid import derivative
        >>> float(derivative(lambda x: x[1:] ** 3, jnp.array([5.0, 2.0]), axis=1)[0])
        12.0
    """
    return jax.jvp(f, (x,), (jnp.zeros_like(x).at[axis].set(1.0),))[1]
