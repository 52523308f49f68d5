"""Rectified flow, where everything is known: between a normal and a point, and one step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ppgen
from ppgen.inference import draw_pairs, fit, heun, path_point, per_batch
from ppgen.models.parts.runs import fit_recipe, fresh
from ppgen.models.rectified_flow import RectifiedFlow, Velocity, flow_chain, flow_objective
from ppgen.models.rectified_flow.model import straight_path
from ppgen.models.rectified_flow.recipe import RectifiedFlowRecipe

KEY = jax.random.key(0)


def test_the_path_is_straight_and_distilled_at_its_beginning():
    x1, x0 = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    point = ppgen.seed(path_point(straight_path))(KEY, x1, x0)
    np.testing.assert_allclose(point.velocity, x1 - x0, rtol=1e-6)
    np.testing.assert_allclose(point.x, point.t * x1 + (1 - point.t) * x0, rtol=1e-6)
    velocity = Velocity(2, 4, key=KEY)
    loss = ppgen.expectation(flow_objective(distil=True))(KEY, velocity, x1, x0)
    right = jnp.sum((velocity(x0, 0.0) - (x1 - x0)) ** 2)
    np.testing.assert_allclose(loss, right, rtol=1e-6)


def test_a_distilled_flow_takes_one_step_to_where_its_pairs_end():
    """Pairs of an affine flow, which one step of a perceptron can learn."""
    start = Velocity(2, 16, key=KEY)
    x0s = jax.random.normal(KEY, (256, 2))
    objective = per_batch(lambda v, row: flow_objective(distil=True)(v, *row))
    data = (np.asarray(0.5 * x0s + 1), np.asarray(x0s))
    options = {"key": KEY, "steps": 600, "data": data, "batch_size": 64}
    fitted = fit(objective, start, optax.adam(3e-3), **options).params
    begun, ended = draw_pairs(flow_chain(fitted, 2, 1), KEY, 200)
    assert jnp.sqrt(jnp.mean((ended - (0.5 * begun + 1)) ** 2)) < 0.1


def test_evaluations_of_the_samplers():
    flow = Velocity(3, 4, key=KEY)
    assert flow_chain(flow, 3, 4).evaluations == 4
    assert flow_chain(flow, 3, 4, heun).evaluations == 8


def test_rounds_begin_where_the_round_before_ended():
    recipe = RectifiedFlowRecipe(hidden=4, reflow=2, distil=True, pairs=16, pair_steps=2)
    assert recipe.stages == ("flow", "reflow1", "reflow2", "distil")
    assert RectifiedFlowRecipe(reflow=0).stages == ("flow",)
    run = fit_recipe(recipe, steps=1, batch_size=8)
    assert isinstance(run.model, RectifiedFlow) and len(run.model.flows) == 4
    data = run.data
    stage = recipe.stage("reflow1", run.training)
    first = fresh(recipe, run.training, run.facts)
    moved = stage.begin(run.model)
    same = [jax.tree.leaves(m.flows[k]) for m, k in ((moved, 1), (run.model, 0))]
    assert all((a == b).all() for a, b in zip(*same, strict=True) if hasattr(a, "shape"))
    x1s, x0s = stage.rows(data, first)
    again = stage.rows(data, first)
    assert x1s.shape == x0s.shape == (16, 64)
    np.testing.assert_array_equal(x1s, again[0])
    assert abs(data.train).max() == 16 and recipe.stage("flow", run.training).rows(data, first)
