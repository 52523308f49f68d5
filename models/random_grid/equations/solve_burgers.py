"""Burgers' equation on a line, solved by the method of lines."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def solve_burgers(
    viscosity: float,
    advection: float,
    initial: Float[np.ndarray, " nodes"],
    times: Float[np.ndarray, " times"],
    *,
    tolerance: float = 1e-5,
) -> Float[np.ndarray, "times nodes"]:
    """Solves u_t + a u u_x = ν u_xx on [0, 1] with u(0) = u(1) = 0.

    Central differences in space, of the flux a u² / 2, make an error of the order of the squared
    distance of the nodes, which must resolve a front of width ν / a. An explicit method of fifth
    order, diffrax's `Tsit5`, solves the ordinary differential equations. Diffusion limits its steps
    to about h² / 2ν, and still they cost less than those of an implicit one.

    Args:
        viscosity: ν, positive.
        advection: a.
        initial: u at time 0, at evenly spaced nodes, the two ends included; it is zero there.
        times: When to report, increasing; the last one ends the solution.
        tolerance: Relative error of a step; its absolute error is a tenth of that.

    Returns:
        The solution at these times and nodes, in double precision.

    References:
        Kidger. On neural differential equations. PhD thesis, University of Oxford, 2021.

    Examples:
        >>> import numpy as np
        >>> from ppgen.models.random_grid import solve_burgers
        >>> x = np.linspace(0, 1, 101)
        >>> u = solve_burgers(0.1, 0.0, np.sin(np.pi * x), np.array([0.0, 1.0]))  # diffusion
        >>> print(f"{u[1, 50]:.4f} {np.exp(-0.1 * np.pi**2):.4f}")
        0.3727 0.3727
    """
    with jax.enable_x64(True):
        args = np.asarray([viscosity, advection], float)
        return np.asarray(
            _solve(args, np.asarray(initial, float), np.asarray(times, float), tolerance)
        )


@partial(jax.jit, static_argnames="tolerance")
def _solve(
    args: Float[Array, "2"],
    initial: Float[Array, " nodes"],
    times: Float[Array, " times"],
    tolerance: float,
) -> Float[Array, "times nodes"]:
    h = 1 / (len(initial) - 1)

    def velocity(t: Any, inside: Any, args: Any) -> Array:
        u = jnp.pad(inside, 1)
        diffusion = (u[2:] - 2 * u[1:-1] + u[:-2]) / h**2
        return args[0] * diffusion - args[1] * (u[2:] ** 2 - u[:-2] ** 2) / (4 * h)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Tsit5(),
        t0=0.0,
        t1=times[-1],
        dt0=h**2,
        y0=initial[1:-1],
        args=args,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance / 10),
        max_steps=None,
    )
    inside: Any = solution.ys
    return jnp.pad(inside, ((0, 0), (1, 1)))
