"""Convolutions channels last: the same function, whatever they are in."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen import _jax
from ppgen.inference import fit
from ppgen.inference.fitting._channels_last import channels_last


def orders(jaxpr, loops=frozenset()):
    """Of each convolution: in which loops and branches it is, and where it has its channels."""
    for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
        if eqn.primitive.name == "conv_general_dilated":
            order = eqn.params["dimension_numbers"]
            last = tuple(spec[1] == len(spec) - 1 for spec in (order.lhs_spec, order.out_spec))
            kernel = order.rhs_spec[:2] == (len(order.rhs_spec) - 1, len(order.rhs_spec) - 2)
            yield loops, all(last) and kernel
        for body in _jax.subjaxprs(eqn):
            yield from orders(body, loops | {eqn.primitive.name})


def training(dimensions):
    """A loop of gradient steps: strides, groups, dilation, a transposed one, remat, a branch."""
    keys = jax.random.split(jax.random.key(0), 4)
    networks = (
        eqx.nn.Conv(dimensions, 3, 4, 3, stride=2, padding=1, key=keys[0]),
        eqx.nn.Conv(dimensions, 4, 4, 3, groups=2, padding="SAME", dilation=2, key=keys[1]),
        eqx.nn.ConvTranspose(dimensions, 4, 3, 4, stride=2, padding=1, key=keys[2]),
    )
    arrays, static = eqx.partition(networks, eqx.is_array)
    x = jax.random.normal(keys[3], (5, 3, *(4, 6, 8)[:dimensions]))

    def loss(arrays, x):
        first, groups, back = eqx.combine(arrays, static)

        @jax.checkpoint
        def one(x):
            return jnp.sin(back(groups(jax.nn.relu(first(x)))))

        return jnp.mean(jax.vmap(one)(x) ** 2)

    def train(arrays, x):
        def step(arrays, _):
            value, (grads, there) = jax.value_and_grad(loss, argnums=(0, 1))(arrays, x)
            moved = jax.tree.map(lambda a, g: a - 0.1 * g, arrays, grads)
            return jax.lax.cond(value < 1e9, lambda: moved, lambda: arrays), (value, there)

        return jax.lax.scan(step, arrays, None, length=3)

    return train, arrays, x


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_training_loop_is_the_same_function(dimensions):
    train, arrays, x = training(dimensions)
    changed = channels_last(train)
    got, want = jax.jit(changed)(arrays, x), jax.jit(train)(arrays, x)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-5)
    before, after = (list(orders(jax.make_jaxpr(f)(arrays, x))) for f in (train, changed))
    assert [loops for loops, _ in before] == [loops for loops, _ in after]
    assert all(last for _, last in after) and not all(last for _, last in before)
    assert any("scan" in loops and loops & {"remat2", "checkpoint"} for loops, _ in after)


def test_it_can_be_differentiated_and_vectorised_afterwards():
    train, arrays, x = training(1)

    def final(f, arrays, x):
        return f(arrays, x)[1][0].sum()

    grads = [
        jax.grad(functools.partial(final, f))(arrays, x) for f in (train, channels_last(train))
    ]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-5)
    many = jnp.stack([x, 2 * x])
    values = [
        jax.vmap(functools.partial(final, f), (None, 0))(arrays, many)
        for f in (train, channels_last(train))
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


def test_without_convolutions_nothing_changes():
    def f(x, key):
        return jax.lax.scan(lambda c, k: (c + jax.random.normal(k), c), x, jax.random.split(key))

    args = 1.0, jax.random.key(0)
    (jaxpr,) = {str(jax.make_jaxpr(g)(*args)) for g in (f, channels_last(f))}
    assert "scan" in jaxpr


def test_the_loop_of_a_fit_has_them_channels_last(monkeypatch):
    """Else a step takes many times as long on a CPU; and the fit is the same."""
    network = eqx.nn.Conv2d(1, 2, 3, padding=1, key=jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, 1, 6, 6))
    compiled = []

    def objective(network, batch):
        noise = ppgen.draw(dist.Normal(0.0, 0.1))
        return jnp.mean((jax.vmap(network)(batch)[:, 0] - batch[:, 0] - noise) ** 2)

    def run():
        return fit(
            objective,
            network,
            optax.sgd(0.1),
            key=jax.random.key(2),
            steps=5,
            data=images,
            batch_size=4,
        )

    changed = run()

    def watched(f):
        compiled.append(f)
        return f

    monkeypatch.setattr("ppgen.inference.fitting._loop.channels_last", watched)
    plain = run()
    assert len(compiled) == (jax.default_backend() == "cpu")
    np.testing.assert_allclose(changed.history, plain.history, rtol=1e-5)
    np.testing.assert_allclose(changed.params.weight, plain.params.weight, rtol=1e-4, atol=1e-6)
