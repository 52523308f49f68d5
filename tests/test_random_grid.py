"""Random grid neural processes: the programs and their objective, against closed forms."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_grids import Constant, Polynomials, Slope, small, uniform
from scipy.stats import multivariate_normal, norm

import ppgen
from ppgen.inference import elbo
from ppgen.models.random_grid import (
    RGNP,
    Burgers,
    Cavity,
    Moments,
    Observations,
    Poisson,
    equation_objective,
    grid_guide,
    observations_model,
    observations_objective,
    rgnp_guide,
    rgnp_model,
)


def test_the_joint_law_is_a_dense_normal():
    moments = Moments(uniform(0, 4, 2), 0.3 + uniform(1, 4, 2) ** 2, uniform(2, 4, 2, 3))
    factor = np.asarray(moments.factor, float).reshape(8, 3)
    dense = factor @ factor.T + np.diag(np.ravel(moments.scale) ** 2)
    np.testing.assert_allclose(np.diag(dense), moments.variance().ravel(), rtol=1e-5)
    y = uniform(3, 8)
    for noise in (0.0, 0.7):
        law = multivariate_normal(np.ravel(moments.mean), dense + noise**2 * np.eye(8))
        np.testing.assert_allclose(moments.joint(noise).log_prob(y), law.logpdf(y), rtol=1e-4)
    common, white = uniform(4, 3), uniform(5, 4, 2)
    values = np.ravel(moments.mean) + factor @ common + np.ravel(moments.scale * white)
    np.testing.assert_allclose(moments.at(common, white).ravel(), values, rtol=1e-5)


@pytest.mark.parametrize("problem", [Poisson(), Cavity()], ids=lambda p: type(p).__name__)
def test_a_draw_of_the_bound_is_the_formula(problem):
    @jax.jit
    def draw(key):
        trace = ppgen.seed(ppgen.simulate(rgnp_guide))(key, rgnp)
        bound = ppgen.log_density(rgnp_model)(trace, rgnp) - trace.log_density
        return trace.choices, bound

    @jax.jit
    def parts(choices):
        z, w, x, common, white = (choices[k] for k in ("z", "w", "x", "common", "white"))
        free, solution = rgnp.unconstrained(z, w, x), rgnp.solution(z, w, x)

        def one(point, own):
            base, d = problem.envelope(point, w)

            def u(at):
                return solution(at).at(common, own)

            gap = u(point) - base - d * free(point).at(common, own)
            return problem.residual(u, point, z, w), u(point), free(point), gap

        r, u, at_grid, gap = jax.vmap(one)(x, white)
        return r, rgnp.parameters(u, w, x).log_prob(z), at_grid, at_grid.at(common, white), gap

    with jax.enable_x64(True):
        rgnp = small(problem, points=3)
        choices, found = draw(jax.random.key(1))
        r, inverse, at_grid, values, gap = jax.tree.map(np.asarray, parts(choices))
        np.testing.assert_allclose(gap, 0, atol=1e-12)
        factor = at_grid.factor.reshape(values.size, -1)
        dense = factor @ factor.T + np.diag(at_grid.scale.ravel() ** 2)
        entropy = -multivariate_normal(at_grid.mean.ravel(), dense).logpdf(values.ravel())
        expected = norm(0, 0.05).logpdf(r).sum() + inverse + entropy
        np.testing.assert_allclose(found, expected, rtol=1e-8)


SCALE = 0.05


def closed_form(theta, tolerance, common=1.0, white=1.0):
    """The bound of `Slope` with two points, by quadrature over the grid."""
    a, b, s, c, mean, log_scale = theta
    x, weights = np.polynomial.legendre.leggauss(30)
    weights = weights / 2
    # E r² = (a + 2 b x − z)² + C′² + σ′², with E z = 0 and E z² = 1/3.
    # `common` and `white` zero: an objective that forgets to differentiate these terms.
    sigma = SCALE * jnp.exp(s * x)
    square = (a + 2 * b * x) ** 2 + 1 / 3
    square += common * (SCALE * c) ** 2 + white * (s * sigma) ** 2
    normal = -jnp.log(tolerance) - 0.5 * np.log(2 * np.pi)
    residual = 2 * (normal - 0.5 * weights @ square / tolerance**2)
    # The prior of z has mean 0 and variance 1/3; the law of z scales with them.
    spread = jnp.exp(log_scale) / np.sqrt(3)
    inverse = -jnp.log(spread) - 0.5 * np.log(2 * np.pi)
    inverse -= 0.5 * (1 / 3 + mean**2 / 3) / spread**2
    # det(C Cᵀ + diag σ²) of two points.
    factor = SCALE * c * x
    v = sigma**2
    det = v[:, None] * v + v[:, None] * factor**2 + factor[:, None] ** 2 * v
    entropy = np.log(2 * np.pi) + 1 + 0.5 * weights @ jnp.log(det) @ weights
    return residual + inverse + entropy


def test_value_and_gradient_are_those_of_the_closed_form():
    """Within five standard errors, and ten off if noises were not differentiated in space."""
    with jax.enable_x64(True):
        theta = jnp.array([0.4, 0.3, 1.0, 3.0, 0.2, -0.1])

        def build(theta):
            rgnp = RGNP(
                Slope(), points=2, rank=1, width=2, channels=1, nodes=5, tolerance=0.1,
                forward=Polynomials(*theta[:4]), key=jax.random.key(0),
            )  # fmt: skip
            return eqx.tree_at(lambda r: r.backward, rgnp, Constant(*theta[4:]))

        bound = ppgen.expectation(lambda theta: elbo(rgnp_model, rgnp_guide)(build(theta)))
        estimate = jax.jit(jax.vmap(jax.value_and_grad(bound, argnums=1), in_axes=(0, None)))
        value, gradient = estimate(jax.random.split(jax.random.key(2), 20_000), theta)
        draws = np.column_stack([value, gradient])
        exact = jax.value_and_grad(closed_form)(theta, 0.1)
        expected = np.concatenate([[exact[0]], exact[1]])
        error = draws.std(0) / np.sqrt(len(draws))
        assert (np.abs(draws.mean(0) - expected) < 5 * error).all(), (
            draws.mean(0),
            expected,
            error,
        )
        for planted in ({"common": 0.0}, {"white": 0.0}):
            wrong = jax.grad(closed_form)(theta, 0.1, **planted)
            assert (np.abs(wrong - expected[1:]) > 10 * error[1:]).any(), planted


@pytest.mark.long
def test_observations_are_scored_with_the_solution_integrated_out():
    grid = [[-0.5], [0.1], [0.7]]
    rgnp = small(Poisson(), grid=grid)
    assert rgnp.points == 3
    z, w, points, values = uniform(0, 5), jnp.array([1.5]), uniform(1, 4, 1), uniform(2, 4, 1)
    seen = Observations(z, w, points, values)
    bound = ppgen.expectation(elbo(observations_model, grid_guide))
    law = jax.vmap(rgnp.solution(z, w, jnp.asarray(grid)))(points)
    factor = np.asarray(law.factor, float).reshape(4, -1)
    dense = factor @ factor.T + np.diag(np.ravel(law.scale) ** 2 + 0.2**2)
    expected = multivariate_normal(np.ravel(law.mean), dense).logpdf(np.ravel(values))
    np.testing.assert_allclose(bound(jax.random.key(0), rgnp, seen, 0.2), expected, rtol=1e-4)

    rows = jax.tree.map(lambda x: jnp.stack([x, x]), seen)
    keys = jax.random.split(jax.random.key(1), 500)

    def over(objective, *data):
        one = ppgen.expectation(objective)
        return jax.jit(jax.vmap(lambda key: one(key, rgnp, *data)))(keys)

    both, alone = over(observations_objective(1, noise=0.2), rows), over(equation_objective(1))
    error = np.hypot(both.std(), alone.std()) / np.sqrt(500)
    assert abs(both.mean() - alone.mean() - expected) < 5 * error


def test_every_problem_of_a_batch_has_a_grid_of_its_own_unless_it_is_fixed():
    def grids(rgnp):
        draw = jax.vmap(lambda key: ppgen.seed(ppgen.simulate(rgnp_guide))(key, rgnp)["x"])
        return np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(0), 400)))

    x = grids(small(Burgers()))
    assert len(np.unique(x)) > 3900 and x.min() >= 0 and x.max() <= 1
    np.testing.assert_allclose(x.mean((0, 1)), 0.5, atol=0.04)
    grid = [[-0.5], [0.25]]
    x = grids(small(Poisson(), grid=grid))
    assert (x == np.asarray(grid)).all()
