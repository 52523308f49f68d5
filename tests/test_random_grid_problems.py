"""Equations of random grid neural processes, their conditions and their references."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_grids import PROBLEMS, small, uniform

import ppgen
from ppgen.models.random_grid import (
    Burgers,
    Cavity,
    Poisson,
)


def residuals(problem, u, points, z, w):
    z, w = jnp.atleast_1d(jnp.asarray(z)), jnp.atleast_1d(jnp.asarray(w))
    return jax.vmap(lambda x: problem.residual(u, x, z, w))(points)


def test_closed_form_solutions_have_no_residual():
    with jax.enable_x64(True):
        kappa = np.log(2) + 0.1
        line, box = uniform(0, 9, 1), 0.5 + 0.5 * uniform(1, 9, 2)
        r = residuals(Poisson(), lambda x: 1.3 * (1 - x**2) / (2 * kappa), line, jnp.zeros(5), 1.3)
        np.testing.assert_allclose(r, 0, atol=1e-12)

        def front(x):  # a travelling one, and what is not a solution beside it
            s = (x[:1] - 0.3 - 0.4 * 0.8 * x[1:]) / (4 * 0.05)
            return 0.4 - 0.4 * jnp.tanh(0.8 * 2 * 0.4 * s)

        r = residuals(Burgers(), front, box, jnp.array([0.05, 0.8]), 1.0)
        np.testing.assert_allclose(r, 0, atol=1e-12)
        assert jnp.abs(residuals(Burgers(), front, box, jnp.array([0.05, 0.9]), 1.0)).max() > 1e-2

        # Kovasznay's flow behind a grid, of density ρ.
        rho, mu = 0.9, 0.1
        k = rho / (2 * mu) - np.sqrt((rho / (2 * mu)) ** 2 + 4 * np.pi**2)

        def flow(x):
            e, a = jnp.exp(k * x[0]), 2 * jnp.pi * x[1]
            return jnp.stack(
                [1 - e * jnp.cos(a), k / (2 * jnp.pi) * e * jnp.sin(a), -rho / 2 * e**2]
            )

        r = residuals(Cavity(), flow, box, jnp.array([rho, mu]), 1.0)
        np.testing.assert_allclose(r, 0, atol=1e-10)
        assert jnp.abs(residuals(Cavity(), flow, box, jnp.array([1.0, mu]), 1.0)).max() > 1e-2


def test_the_poisson_residual_is_that_of_finite_differences():
    with jax.enable_x64(True):
        z, w, h = uniform(0, 5), jnp.array([1.4]), 1e-4

        def u(x):
            return jnp.sin(2 * x) * jnp.exp(0.3 * x)

        def flux(x):
            angle = np.arccos(x)
            slope = sum(float(z[n]) * np.cos(n * angle) for n in range(5))
            kappa = np.logaddexp(0, slope * np.sin(2 * x) * np.exp(0.3 * x)) + 0.1
            rise = np.exp(0.3 * x) * (2 * np.cos(2 * x) + 0.3 * np.sin(2 * x))
            return kappa * rise

        x = np.linspace(-0.9, 0.9, 7)
        expected = (flux(x + h) - flux(x - h)) / (2 * h) + 1.4
        found = residuals(Poisson(), u, jnp.asarray(x)[:, None], z, w)[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: type(p).__name__)
def test_conditions_hold_whatever_the_weights(problem):
    rgnp = small(problem)
    z, w = (p.sample(jax.random.key(1)) for p in (problem.parameters(), problem.conditions()))
    x = ppgen.seed(lambda: ppgen.draw(rgnp.grids()))(jax.random.key(2))
    assert x.shape == (5, len(problem.low))
    s = jnp.linspace(0, 1, 5)[:, None]
    zero, one = jnp.zeros_like(s), jnp.ones_like(s)
    lid = 16 * w * s**2 * (1 - s) ** 2
    wave = jnp.sin(2 * jnp.pi * w * s) * jnp.sin(jnp.pi * s)
    sides = [jnp.hstack(pair) for pair in ((zero, s), (one, s), (s, zero), (s, one))]
    edges = {
        "Poisson": [(2 * jnp.round(s) - 1, slice(1), 0.0)],
        "Burgers": [
            (sides[0], slice(1), 0.0),
            (sides[1], slice(1), 0.0),
            (sides[2], slice(1), wave),
        ],
        "Cavity": [
            *((side, slice(2), 0.0) for side in sides[:3]),
            (sides[3], slice(2), jnp.hstack([lid, zero])),
            (jnp.zeros((5, 2)), slice(2, 3), 0.0),
        ],
    }
    law = jax.jit(lambda points: jax.vmap(rgnp.solution(z, w, x))(points))
    for points, fields, value in edges[type(problem).__name__]:
        at_edge = law(points)
        np.testing.assert_allclose(at_edge.mean[:, fields] - value, 0, atol=1e-6)
        np.testing.assert_allclose(at_edge.variance()[:, fields], 0, atol=1e-12)
    # Inside, the network decides.
    low, high = jnp.asarray(problem.low), jnp.asarray(problem.high)
    inside = law(low + (0.2 + 0.5 * s) * (high - low))
    assert (inside.variance() > 0).all()


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: type(p).__name__)
def test_references_solve_the_equation_they_are_references_of(problem):
    """The solver and the residual were written apart: interpolated, the one solves the other."""
    z, w = (np.asarray(p.mean) for p in (problem.parameters(), problem.conditions()))
    if isinstance(problem, Poisson):
        z = np.array([0.5, -0.3, 0.2, 0.4, -0.6], np.float32)
    points, u = problem.solve(z, w, refine=2)
    assert np.array_equal(points, problem.solve(z, w)[0])
    axes = [np.unique(points[:, i]) for i in range(points.shape[1])]
    steps = [axis[1] - axis[0] for axis in axes]
    table = u.reshape(
        *(len(axis) for axis in axes[:: -1 if isinstance(problem, Burgers) else 1]), -1
    )
    if isinstance(problem, Burgers):
        table = table.swapaxes(0, 1)
    middle = tuple(len(axis) // 2 for axis in axes)
    with jax.enable_x64(True):
        centre = jnp.asarray([axis[i] for axis, i in zip(axes, middle, strict=True)])

        def local(x):
            """The polynomial of second degree in each coordinate through the neighbours."""
            value = jnp.zeros(table.shape[-1])
            for offset in np.ndindex(*[3] * len(axes)):
                weight = 1.0
                for i, o in enumerate(offset):
                    t = (x[i] - centre[i]) / steps[i]
                    weight *= [t * (t - 1) / 2, 1 - t**2, t * (t + 1) / 2][o]
                value += (
                    weight * table[tuple(m + o - 1 for m, o in zip(middle, offset, strict=True))]
                )
            return value

        @jax.jit
        def residual(z, w):
            return problem.residual(local, centre, z, w)

        z, w = jnp.asarray(z, float), jnp.asarray(w, float)
        r, wrong = residual(z, w), residual(1.3 * z, w)
        assert jnp.abs(r).max() < 0.03 and jnp.abs(wrong).max() > 3 * jnp.abs(r).max()
