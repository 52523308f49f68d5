"""Networks of random grid neural processes: kernels, GICNet, Fourier features and DeepONet."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_grids import uniform

from ppgen.models.parts.networks import DeepONet, GICNet, KernelInterpolation, fourier_features
from ppgen.models.random_grid import (
    RGNP,
    Burgers,
)


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
