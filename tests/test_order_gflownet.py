"""The room of order-preserving flow networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import ppgen
from ppgen.inference import Hypergrid, Policy, terminal_law
from ppgen.models import order_gflownet as room
from ppgen.models.order_gflownet.recipe import OrderGFlowNetRecipe
from ppgen.models.parts.runs import fit_recipe


def test_scores_are_branins_and_currins():
    """At published points: the minima of Branin, and a corner of Currin's."""
    task = room.OrderTask(Hypergrid(16, 2))

    def at(u, v):
        source = task.dag.source()
        return task.scores(source._replace(position=15 * jnp.array([u, v])))

    for x, y in ((-np.pi, 12.275), (np.pi, 2.275), (9.42478, 2.475)):
        branin = 308.13 * (1 - at((x + 5) / 15, y / 15)[0])
        assert abs(branin - 0.397887) < 1e-3
    np.testing.assert_allclose(13.8 * at(0.0, 0.0)[1], 3.0, rtol=1e-5)
    scores = np.array([at(*p) for p in np.random.RandomState(0).rand(20, 2)])
    assert np.isfinite(scores).all() and (scores > -0.01).all() and (scores <= 1.01).all()


def test_the_front_of_the_published_grid_has_sixteen_points():
    assert room.OrderTask(Hypergrid(16, 2)).front().sum() == 16


def test_the_uniform_law_on_the_front_has_the_best_scores():
    task = room.OrderTask(Hypergrid(8, 2))
    front = np.asarray(task.front())
    points = jax.tree.map(lambda x: x[64:], task.dag.states())
    scores = np.asarray(jax.vmap(task.scores)(points))
    beaten = [any((y >= x).all() and (y > x).any() for y in scores) for x in scores]
    np.testing.assert_array_equal(front, ~np.array(beaten))
    law = jnp.concatenate([jnp.zeros(64), front / front.sum()])
    np.testing.assert_allclose(room.front_scores(task, law), (1, 1), rtol=1e-6)
    one = jnp.zeros(128).at[64 + np.flatnonzero(front)[0]].set(1.0)
    np.testing.assert_allclose(room.front_scores(task, one), (1, 1 / front.sum()), rtol=1e-6)


def test_a_fit_finds_the_front():
    run = fit_recipe(
        OrderGFlowNetRecipe(side=4, hidden=16, walks=16), steps=150, learning_rate=0.02
    )
    uniform, orders = (row["mass"].mean for row in run.figures().estimates.values())
    assert orders > uniform + 0.2, (orders, uniform)


def test_the_baseline_is_told_its_weights():
    task = room.OrderTask(Hypergrid(3, 2))
    net = room.OrderNetwork(task.dag, 8, 1, told=2, key=jax.random.key(0))
    loss = ppgen.expectation(room.weighed_loss(task, 4.0, 0.1))
    assert loss(jax.random.key(0), net) > 0
    law = terminal_law(task.dag, room.weighed_policy(task.dag))
    laws = [law(net, jnp.array(w)) for w in ((0.0, 1.0), (1.0, 0.0))]
    assert abs(laws[0] - laws[1]).max() > 1e-4
    assert terminal_law(task.dag, Policy())().sum() > 0.999
