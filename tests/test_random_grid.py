"""Random grid neural processes: networks, problems, the programs, and what training reaches."""

from __future__ import annotations

import json
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal, norm

import ppgen
from ppgen.inference import elbo
from ppgen.models.cli import main
from ppgen.models.parts.networks import DeepONet, GICNet, KernelInterpolation, fourier_features
from ppgen.models.parts.runs import Run
from ppgen.models.random_grid import (
    RGNP,
    AbstractProblem,
    Burgers,
    Cavity,
    Moments,
    Observations,
    Poisson,
    References,
    draw_references,
    draw_solutions,
    equation_objective,
    fit_random_grid,
    grid_guide,
    observations_model,
    observations_objective,
    observe,
    outputs,
    random_grid_optimizer,
    rgnp_guide,
    rgnp_model,
    score,
    solve_references,
)
from ppgen.models.random_grid.recipe import RandomGridRecipe

PROBLEMS = [Poisson(), Burgers(), Cavity()]


def small(problem, **options):
    options = {"points": 5, "rank": 2, "width": 8, "channels": 4, "nodes": 5} | options
    return RGNP(problem, **options, key=jax.random.key(0))


def uniform(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0, maxval=1.0)


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3])
def test_kernel_interpolation_is_the_formula(d):
    net = KernelInterpolation(3, 4)
    points, values = np.asarray(uniform(0, 6, d)), np.asarray(uniform(1, 6, 3))
    grid, lengths = np.asarray(eqx.filter_jit(net)(points, values)), np.exp(net.log_lengths)
    np.testing.assert_allclose(lengths[[0, -1]], [2 / 3, 1.0], rtol=1e-6)
    line = np.linspace(-1, 1, 4)
    for node in np.ndindex(*[4] * d):
        apart = ((line[list(node)] - points) ** 2).sum(1)
        kernels = np.exp(-apart[:, None] / (2 * lengths**2))
        expected = (kernels * values).sum(0) / (kernels.sum(0) + 1e-6)
        np.testing.assert_allclose(grid[(slice(None), *node)], expected, rtol=1e-4, atol=1e-6)


def test_a_node_far_from_all_points_holds_a_zero_and_no_length_is_dead():
    net = KernelInterpolation(2, 9)
    far = eqx.tree_at(lambda n: n.log_lengths, net, jnp.full(2, -4.0))
    grid = far(jnp.array([[-1.0]]), jnp.ones((1, 2)))
    np.testing.assert_allclose(grid[:, 0], 1.0, rtol=1e-5)
    assert (grid[:, 1:] == 0).all()
    slope = jax.grad(lambda n: jnp.sum(n(uniform(0, 5, 1), uniform(1, 5, 2)) ** 2))(net)
    assert (jnp.abs(slope.log_lengths) > 1e-3).all()


@pytest.mark.parametrize("d", [1, 2])
def test_gicnet_does_not_see_the_order_of_points_and_takes_any_number(d):
    with jax.enable_x64(True):
        net = GICNet(
            dimensions=d, values=2, context=3, query=d, outputs=4, width=8, frequencies=1,
            channels=4, nodes=6, key=jax.random.key(0),
        )  # fmt: skip
        points, values, context, query = uniform(1, 7, d), uniform(2, 7, 2), *uniform(3, 2, 3)
        order = jax.random.permutation(jax.random.key(4), 7)
        encode, decode = eqx.filter_jit(net.encode), eqx.filter_jit(net.decode)
        code = encode(points, values, context)
        np.testing.assert_allclose(encode(points[order], values[order], context), code, rtol=1e-12)
        # A point twice is a point with twice the weight: not the same, but of the same shape.
        more = encode(jnp.tile(points, (2, 1)), jnp.tile(values, (2, 1)), context)
        np.testing.assert_allclose(more, code, atol=1e-5)
        # It does see which value is where, the context and the query.
        assert jnp.abs(encode(points, values[order], context) - code).max() > 1e-3
        assert jnp.abs(encode(points, values, 1 + context) - code).max() > 1e-3
        first, second = (decode(code, q * query[:d]) for q in (1.0, 0.5))
        assert first.shape == (4,) and jnp.abs(first - second).max() > 1e-3


def test_a_gicnet_begins_with_codes_that_differ():
    """Waves of many amplitudes, each at points of its own; a ratio of .13 without it."""
    net = GICNet(dimensions=2, values=1, context=0, query=1, outputs=2, nodes=8, width=64,
                 key=jax.random.key(0))  # fmt: skip

    def code(key):
        keys = jax.random.split(key)
        points = jax.random.uniform(keys[0], (32, 2), minval=-1.0, maxval=1.0)
        values = jax.random.uniform(keys[1]) * jnp.sin(3 * points[:, :1])
        return net.encode(points, values, jnp.zeros(0))

    codes = np.asarray(jax.jit(jax.vmap(code))(jax.random.split(jax.random.key(1), 400)))
    assert codes.std(0).mean() > 0.5 * np.abs(codes.mean(0)).mean()


def test_the_inverse_map_hears_the_solution_without_its_conditions():
    """Else the conditions' network can shut it off in the first steps, and it stays off."""
    rgnp = RGNP(Burgers(), points=8, width=8, nodes=4, key=jax.random.key(0))

    def trunks(rgnp):
        return rgnp.forward.trunk.layers, rgnp.backward.trunk.layers

    shut = eqx.tree_at(trunks, rgnp, jax.tree.map(jnp.zeros_like, trunks(rgnp)))
    prior, conditions = rgnp.problem.parameters(), rgnp.problem.conditions()
    x, z, w = uniform(1, 8, 2), prior.mean, conditions.mean
    u = uniform(2, 8, 1)
    found = [shut.parameters(scale * u, w, x).base_dist.loc for scale in (1.0, 2.0)]
    assert jnp.abs(found[0] - found[1]).min() > 1e-3
    # Where a query is a point, without it nothing is said.
    means = [shut.unconstrained(scale * z, w, x)(x[0]).mean for scale in (1.0, 2.0)]
    np.testing.assert_array_equal(*means)


def test_networks_in_half_precision_stay_there_and_near():
    deep = DeepONet(context=2, query=1, outputs=3, width=8, frequencies=1, key=jax.random.key(0))
    grid = GICNet(
        dimensions=1, values=2, context=2, query=1, outputs=3, width=8, key=jax.random.key(0)
    )

    def half(tree):
        cast = jnp.bfloat16
        return jax.tree.map(lambda x: x.astype(cast) if eqx.is_inexact_array(x) else x, tree)

    inputs = uniform(1, 40, 1), uniform(2, 40, 2), uniform(3, 2)
    query = jnp.array([0.3])
    for net in (deep, grid):
        full = net.decode(net.encode(*inputs), query)
        low = half(net).decode(half(net).encode(*half(inputs)), half(query))
        assert full.dtype == jnp.float32 and low.dtype == jnp.bfloat16
        np.testing.assert_allclose(low.astype(jnp.float32), full, atol=0.05)
    # The sums over points are in single precision: in half, 300 equal weights stop growing at 256.
    many = KernelInterpolation(1, 3)(jnp.zeros((300, 1), jnp.bfloat16), half(jnp.ones((300, 1))))
    np.testing.assert_allclose(many.astype(jnp.float32), 1.0, rtol=1e-2)


def test_fourier_features_and_deeponet_are_their_formulas():
    x = jnp.array([0.3, -0.8])
    angles = [np.pi / 2 * c * k for c in (0.3, -0.8) for k in (1, 2)]
    expected = [0.3, -0.8, *np.sin(angles), *np.cos(angles)]
    np.testing.assert_allclose(fourier_features(x, 2), expected, rtol=1e-5, atol=1e-7)
    net = DeepONet(context=2, query=2, outputs=3, basis=4, width=8, key=jax.random.key(0))
    net = eqx.tree_at(lambda n: n.bias, net, jnp.arange(3.0))
    branch, trunk = net.branch(x).reshape(3, 4), net.trunk(x).reshape(3, 4)
    code = net.encode(uniform(0, 5, 2), uniform(1, 5, 1), x)
    np.testing.assert_allclose(
        net.decode(code, x), (branch * trunk).sum(1) + jnp.arange(3), rtol=1e-5
    )


# --- problems -------------------------------------------------------------------------------------


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


# --- programs -------------------------------------------------------------------------------------


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


class Slope(AbstractProblem):
    """u′ = z on [−1, 1]: without a condition, all of the bound has a closed form."""

    pinned: bool = eqx.field(static=True, default=False)
    """Whether u(−1) = 0."""

    low: ClassVar[tuple[float, ...]] = (-1.0,)
    high: ClassVar[tuple[float, ...]] = (1.0,)
    fields: ClassVar[int] = 1
    inputs: ClassVar[int] = 1

    def parameters(self):
        return dist.Uniform(-1.0, 1.0).expand([1]).to_event(1)

    def conditions(self):
        return dist.Uniform(0.0, 1.0).expand([1]).to_event(1)

    def input(self, x, z, w):
        return z

    def envelope(self, x, w):
        return jnp.zeros(1), 1 + x if self.pinned else jnp.ones(1)

    def residual(self, u, x, z, w):
        return jax.jvp(u, (x,), (jnp.ones(1),))[1] - z

    def solve(self, z, w, *, refine=1):
        points = np.linspace(-1, 1, 5)[:, None]
        return points, (points + self.pinned) * z


class Polynomials(eqx.Module):
    """Mean a x + b x², log scale s x, factor c x: no network."""

    a: jax.Array
    b: jax.Array
    s: jax.Array
    c: jax.Array

    def encode(self, points, values, context):
        return jnp.zeros(0)

    def decode(self, code, query):
        x = query[0]
        return jnp.stack([self.a * x + self.b * x**2, self.s * x, self.c * x])


class Louder(eqx.Module):
    """Another network, with more noise."""

    network: Polynomials
    log_scale: float

    def encode(self, points, values, context):
        return self.network.encode(points, values, context)

    def decode(self, code, query):
        return self.network.decode(code, query).at[1].add(self.log_scale)


class Constant(eqx.Module):
    mean: jax.Array
    log_scale: jax.Array

    def encode(self, points, values, context):
        return jnp.zeros(0)

    def decode(self, code, query):
        return jnp.stack([self.mean, self.log_scale])


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


# --- training and figures -------------------------------------------------------------------------


def test_scores_are_right_for_laws_that_are_known():
    problem = Slope()
    theta = [jnp.array(v) for v in (0.0, 0.0, 0.0, 0.0)]
    rgnp = RGNP(
        problem, points=3, rank=1, width=2, forward=Polynomials(*theta), key=jax.random.key(0)
    )
    rgnp = eqx.tree_at(
        lambda r: r.backward, rgnp, Constant(jnp.array(0.0), jnp.log(jnp.array(0.5)))
    )
    references = draw_references(problem, 40, key=jax.random.key(1))
    scores = score(rgnp, references, key=jax.random.key(2))
    # A mean of zero and a scale of 0.05 against u = z x; the prior mean of z.
    np.testing.assert_allclose(scores.nse_u, 1.0, rtol=1e-6)
    np.testing.assert_allclose(scores.nse_z, 1.0, rtol=1e-6)
    prior = problem.parameters()
    errors = (references.z - prior.mean) ** 2 / prior.variance
    np.testing.assert_allclose(scores.error_z, errors, rtol=1e-5)
    np.testing.assert_allclose(
        scores.coverage_u, (np.abs(references.u) <= 0.1).mean((1, 2)), atol=1e-6
    )
    np.testing.assert_allclose(scores.coverage_z, (np.abs(references.z) <= 0.5773).mean(1))
    again = draw_references(problem, 40, key=jax.random.key(1))
    assert all(np.array_equal(a, b) for a, b in zip(references, again, strict=True))
    seen = observe(references, 7, noise=0.1, key=jax.random.key(3))
    assert seen.points.shape == seen.values.shape == (40, 7, 1)
    noise = seen.values[:, :, 0] - references.z * seen.points[:, :, 0]
    assert abs(noise.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * noise.size)


@pytest.mark.long
def test_training_solves_a_problem_it_was_never_shown_and_draws_it(tmp_path):
    problem = Slope(pinned=True)
    rgnp = small(problem, points=6, rank=1, width=16)
    references = draw_references(problem, 20, key=jax.random.key(1))
    before = score(rgnp, references, key=jax.random.key(2))
    steps = []
    fitted = fit_random_grid(
        rgnp, key=jax.random.key(3), steps=300, batch=8, learning_rate=1e-2,
        callback=lambda progress: steps.append(progress.step),
    )  # fmt: skip
    after = score(fitted.params, references, key=jax.random.key(2))
    assert steps[-1] == 300 and fitted.history[-50:].mean() > fitted.history[:50].mean()
    assert np.median(after.nse_u) < 0.01 and np.median(before.nse_u) > 0.5
    assert np.median(after.nse_z) < 0.1 and np.median(before.nse_z) > 0.5
    draw_solutions(tmp_path / "a.png", fitted.params, references, key=jax.random.key(4), most=3)
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.05


@pytest.mark.long
def test_without_conditions_white_noise_is_free_and_hides_the_parameters():
    """What `AbstractProblem.envelope` warns of, in closed form and in training."""

    def bound(problem, log_scale):
        theta = [jnp.array(v) for v in (0.4, 0.0, 0.0, 0.0)]
        rgnp = RGNP(
            problem, points=2, rank=1, width=2, channels=1, nodes=5,
            forward=Louder(Polynomials(*theta), log_scale), key=jax.random.key(0),
        )  # fmt: skip
        rgnp = eqx.tree_at(lambda r: r.backward, rgnp, Constant(jnp.zeros(()), jnp.zeros(())))
        return ppgen.expectation(elbo(rgnp_model, rgnp_guide))(jax.random.key(1), rgnp)

    # A nat of log scale at both of two points is worth two nats, whatever the scale is: the
    # residual of u′ does not see it. With a condition it is paid for.
    for log_scale in (0.0, 5.0):
        gain = bound(Slope(), log_scale + 1.0) - bound(Slope(), log_scale)
        np.testing.assert_allclose(gain, 2.0, atol=1e-3)
    assert bound(Slope(pinned=True), 3.0) < bound(Slope(pinned=True), 0.0)

    rgnp = small(Slope(), points=6, rank=1, width=16)
    fitted = fit_random_grid(rgnp, key=jax.random.key(3), steps=300, batch=8, learning_rate=1e-2)
    references = draw_references(Slope(), 20, key=jax.random.key(1))
    law = solve_references(fitted.params, references, key=jax.random.key(2)).u
    # |u| is at most 1.
    assert law.scale.mean() > 2.0
    scores = score(fitted.params, references, key=jax.random.key(2))
    assert np.median(scores.nse_z) > 0.5


def test_pictures_cut_through_the_middle_of_a_box(tmp_path):
    points = np.stack(np.meshgrid(*[np.linspace(0, 1, 5)] * 2), -1).reshape(-1, 2)
    points = points.astype(np.float32)
    problem = Cavity()
    references = References(
        np.full((2, 2), 0.9, np.float32), np.full((2, 1), 0.7, np.float32), points,
        np.zeros((2, 25, 3), np.float32),
    )  # fmt: skip
    draw_solutions(tmp_path / "a.png", small(problem), references, key=jax.random.key(0))
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.05


def test_the_rate_rises_before_it_falls():
    optimizer, x = random_grid_optimizer(0.1, 100), jnp.array(0.0)
    state, moves = optimizer.init(x), []
    for _ in range(100):
        # Adam moves by the rate where the gradient is always the same.
        move, state = optimizer.update(jnp.array(1.0), state)
        moves.append(-float(move))
    assert moves[0] == 0 and np.argmax(moves) == 5
    np.testing.assert_allclose(moves[5], 0.1, rtol=1e-4)
    assert (np.diff(moves[5:]) < 0).all() and moves[-1] < 1e-3
    for steps in (1, 2, 3):
        random_grid_optimizer(0.1, steps).init(x)


def test_observations_train_too_and_a_deeponet_can_take_the_place_of_the_network():
    problem = Poisson()
    deep = DeepONet(context=6, query=1, outputs=outputs(problem, 2), width=8, key=jax.random.key(0))
    rgnp = small(problem, forward=deep)
    seen = observe(
        draw_references(problem, 4, key=jax.random.key(1)), 3, noise=0.05, key=jax.random.key(2)
    )
    fitted = fit_random_grid(
        rgnp, key=jax.random.key(3), steps=60, batch=4, observations=seen, noise=0.05
    )
    assert isinstance(fitted.params.forward, DeepONet)
    assert fitted.history[-10:].mean() > fitted.history[:10].mean()


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.long
def test_the_command_beats_the_mean_of_other_solutions(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["--points", "8", "--width", "32", "--channels", "8", "--steps", "400", "--held-out"]
    small += ["64", "--learning-rate", "5e-3", "--observed", "32", "--batch-size", "16"]
    folder = tmp_path / "run"
    assert main(["fit", "random_grid", *small, "--out", str(folder)]) == 0
    figures = json.loads((folder / "figures.json").read_text())["figures"]
    unit = "of the solution"
    trivial, ours = (figures[k][unit] for k in ("mean of other solutions", "gicnet, random grids"))
    error = np.hypot(trivial["standard_error"], ours["standard_error"])
    assert trivial["mean"] - ours["mean"] > 3 * error
    assert matplotlib.image.imread(folder / "solutions.png").std() > 0.02
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--split", "train", "--particles", "1"]) == 0
    assert "trained on: 32 problems, 1 grids of 8 points" in capsys.readouterr().out


@pytest.mark.sweep(of=2)
@pytest.mark.parametrize("equation, network", [("burgers", "gicnet"), ("cavity", "deeponet")])
def test_every_equation_has_a_recipe_and_a_picture(equation, network, tmp_path):
    recipe = RandomGridRecipe(equation=equation, network=network, grid="kept", points=3, width=8)
    recipe.check()
    rgnp = recipe.model({}, {"": jax.random.key(0)})
    assert rgnp.points == 3 and rgnp.grid is not None
    assert type(rgnp.forward).__name__.lower() == network
    run = Run(recipe, recipe.training, {}, rgnp, recipe.load)
    run.draw_samples(tmp_path / "a.png", jax.random.key(1), 2)
    assert matplotlib.image.imread(tmp_path / "a.png").shape[0] > 100


def test_there_must_be_rows_to_stop_early_by(tmp_path, capsys):
    tiny = [f"--{k.replace('_', '-')}={v}" for k, v in RandomGridRecipe.tiny.items()]
    out = tmp_path / "run"
    assert main(["fit", "random_grid", *tiny, "--early-stopping", "2", "--out", str(out)]) == 2
    assert "this model has a stream or none" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_each_reference_is_a_row_of_data_and_scores_the_same(problem):
    references = draw_references(problem, 3, key=jax.random.key(1))
    each = references.each()
    assert [len(x) for x in each] == [3, 3, 3, 3]
    np.testing.assert_array_equal(each.points[2], references.points)
    rgnp = small(problem)
    shared, apart = (score(rgnp, x, key=jax.random.key(2)) for x in (references, each))
    jax.tree.map(np.testing.assert_array_equal, shared, apart)
