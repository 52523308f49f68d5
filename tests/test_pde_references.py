"""The numerical solutions of differential equations: against closed forms and published figures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from ppgen.models.parts.data import DataError
from ppgen.models.random_grid import solve_burgers, solve_cavity, solve_poisson


def kirchhoff(z, w, x):
    """With κ of u alone, the integral of κ from 0 to u is w (1 − x²) / 2."""

    def integral(u):
        return quad(lambda v: np.logaddexp(0.0, z * v) + 0.1, 0.0, u)[0]

    return brentq(lambda u: integral(u) - w * (1 - x**2) / 2, 0.0, 20.0, xtol=1e-13)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(
    ("z", "w", "bound"), [(0.9, 1.3, 1e-5), (-1.0, 2.0, 1e-4), (-5.0, 2.0, 1e-2)]
)
def test_poisson_is_the_closed_form_to_second_order(z, w, bound):
    exact = np.array([kirchhoff(z, w, x) for x in np.linspace(-1, 1, 9)])
    errors = [
        np.abs(solve_poisson(np.array([z]), w, nodes=n + 1)[:: n // 8] - exact).max()
        for n in (64, 128, 256)
    ]
    assert errors[2] < bound
    np.testing.assert_allclose(np.divide(errors[:2], errors[1:]), 4.0, rtol=0.1)


def test_poisson_solves_every_problem_of_the_prior_and_mirrors():
    random = np.random.RandomState(0)
    signs = (-1.0) ** np.arange(5)
    for _ in range(50):
        z, w = random.uniform(-1, 1, 5), random.uniform(1, 2)
        u = solve_poisson(z, w, nodes=101)
        assert u[0] == u[-1] == 0 and (u[1:-1] > 0).all()
        # T_n(−x) = (−1)ⁿ T_n(x).
        np.testing.assert_allclose(solve_poisson(signs * z, w, nodes=101), u[::-1], atol=1e-8)


def test_poisson_says_where_it_fails():
    with pytest.raises(DataError, match=r"did not converge for z = \[0.5\], w = 1.0"):
        solve_poisson(np.array([0.5]), 1.0, nodes=11, tolerance=-1.0)


def cole_hopf(viscosity, advection, initial, x, t):
    """Burgers' equation by way of the heat equation, whose solution is a cosine series."""
    fine = np.linspace(0, 1, 4001)
    potential = np.concatenate([[0.0], np.cumsum((initial(fine)[1:] + initial(fine)[:-1]) / 2)])
    phi = np.exp(-advection * potential * (fine[1] - fine[0]) / (2 * viscosity))
    n = np.arange(80)[:, None]
    weights = np.full(len(fine), fine[1])
    weights[[0, -1]] /= 2
    series = (np.cos(np.pi * n * fine) * phi * weights).sum(1) * np.where(n[:, 0] == 0, 1, 2)
    series = series * np.exp(-viscosity * (np.pi * n[:, 0]) ** 2 * t)
    value = series @ np.cos(np.pi * n * x)
    slope = -(series * np.pi * n[:, 0]) @ np.sin(np.pi * n * x)
    return -2 * viscosity * slope / value / advection


def test_burgers_is_the_cole_hopf_solution_to_second_order():
    def initial(x):
        return np.sin(2 * np.pi * 0.8 * x) * np.sin(np.pi * x)

    times, errors = np.array([0.0, 0.2, 0.7]), []
    for nodes in (65, 129):
        x = np.linspace(0, 1, nodes)
        u = solve_burgers(0.03, 0.9, initial(x), times, tolerance=1e-7)
        assert u.dtype == np.float64 and (u[:, [0, -1]] == 0).all()
        np.testing.assert_allclose(u[0], initial(x), atol=1e-12)
        exact = np.stack([cole_hopf(0.03, 0.9, initial, x, t) for t in times[1:]])
        errors.append(np.abs(u[1:] - exact).max())
    assert errors[1] < 1e-3
    assert 3.3 < errors[0] / errors[1] < 4.7


def test_the_cavity_has_the_published_extremes():
    """Botella, Peyret, Computers & Fluids 27, 1998, Tables 5 to 7: Reynolds number 100."""
    flow = solve_cavity(1.0, 0.01, np.ones_like, cells=48)
    middle = 23
    extremes = [flow.u[middle].min(), flow.v[:, middle].max(), flow.v[:, middle].min()]
    np.testing.assert_allclose(extremes, [-0.2140424, 0.1795728, -0.2538030], rtol=0.02)


def test_the_cavity_converges_and_stokes_flow_is_symmetric():
    def lid(x):
        return 16 * x**2 * (1 - x) ** 2

    coarse, middle, fine = (solve_cavity(0.9, 0.1, lid, cells=n) for n in (8, 16, 32))
    inner = slice(2, 5)  # the corners of the lid converge more slowly
    for a, b, c in zip(coarse, middle, fine, strict=True):
        first = np.abs(a - b[1::2, 1::2])[inner, inner].max()
        second = np.abs(b[1::2, 1::2] - c[3::4, 3::4])[inner, inner].max()
        assert 2.5 < first / second < 7, (first, second)
    u, v, p = solve_cavity(1e-9, 0.5, lid, cells=16)
    np.testing.assert_allclose(u, u[::-1], atol=1e-7)
    np.testing.assert_allclose(v, -v[::-1], atol=1e-7)
    # The pressure is odd around the middle, up to the constant that makes it zero at the origin.
    np.testing.assert_allclose(p + p[::-1], (p + p[::-1])[0, 0], atol=1e-6)
    # Doubling viscosity and lid leaves the Stokes flow, and doubles the pressure.
    twice = solve_cavity(1e-9, 1.0, lid, cells=16)
    np.testing.assert_allclose(twice.u, u, atol=1e-7)
    np.testing.assert_allclose(twice.p, 2 * p, atol=1e-6)


def test_the_cavity_says_where_it_fails():
    with pytest.raises(DataError, match="did not converge for ρ = 1.0, μ = 1e-08"):
        solve_cavity(1.0, 1e-8, np.ones_like, cells=8)
