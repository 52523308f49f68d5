"""The room of generative flow networks, on tasks whose laws are known."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppgen
from ppgen.inference import Policy, target_law
from ppgen.models import gflownet as room
from ppgen.models.gflownet.recipe import GFlowNetRecipe
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.runs import fit_recipe


def test_targets_are_what_they_say():
    task = room.grid_task(8, 2)
    law = np.asarray(target_law(task.dag, task.energy))[64:].reshape(8, 8)
    off = np.abs(np.arange(8) / 7 - 0.5)
    outer, ring = off > 0.25, (off > 0.3) & (off < 0.4)
    right = 0.01 + 0.5 * np.outer(outer, outer) + 2.0 * np.outer(ring, ring)
    np.testing.assert_allclose(law, right / right.sum(), rtol=1e-5)
    assert (law > 0.1).sum() == 4  # a mode in each corner
    task = room.subset_task(2, 4)
    each = np.random.RandomState(0).normal(size=4)
    right = [np.exp(-each[i] - each[j]) for i, j in itertools.combinations(range(4), 2)]
    law = np.asarray(target_law(task.dag, task.energy))
    np.testing.assert_allclose(np.sort(law[law > 0]), np.sort(right) / np.sum(right), rtol=1e-5)
    task = room.bits_task(5, modes=2)
    modes = np.random.RandomState(0).randint(0, 2, (2, 5))
    near = [(modes != x).sum(1).min() for x in itertools.product(range(2), repeat=5)]
    right = np.exp(-0.5 * np.array(near))
    law = np.asarray(target_law(task.dag, task.energy))[31:]
    np.testing.assert_allclose(
        law, np.exp(-0.5 * np.array(near)) / np.exp(-0.5 * np.array(near)).sum(), rtol=1e-5
    )


def test_a_fit_comes_nearer_to_the_target():
    options = {"task": "subset", "size": 2, "items": 4, "hidden": 16, "objective": "tb"}
    run = fit_recipe(GFlowNetRecipe(**options), steps=200, learning_rate=0.02)
    uniform, fitted = (row["total variation"].mean for row in run.figures().estimates.values())
    assert fitted < 0.5 * uniform, (fitted, uniform)


@pytest.mark.sweep(quick=["fl"])
@pytest.mark.parametrize("objective", ["tb", "db", "subtb", "fl"])
def test_the_source_of_the_flow_is_learned_by_all(objective):
    """The gradient of every objective reaches the network, also where walks are cut."""
    task = room.bits_task(3)
    loss = ppgen.expectation(room.gflownet_loss(task, objective, epsilon=0.1, cut=2), draws=4)
    net = room.FlowNetwork(7, 2, 4, 1, key=jax.random.key(0))
    run = eqx.filter_jit(eqx.filter_value_and_grad(lambda net, key: loss(key, net)))
    value, slope = run(net, jax.random.key(1))
    leaves = [x for x in jax.tree.leaves(slope) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert value > 0 and all(np.isfinite(x).all() for x in leaves) and any(x.any() for x in leaves)


def test_options_that_do_not_fit_are_refused():
    for options in ({"task": "subset", "size": 5, "items": 4}, {"side": 30, "dimensions": 3}):
        with pytest.raises(CommandError, match="at most"):
            GFlowNetRecipe(**options).check()
    assert room.total_variation(room.subset_task(1, 2), Policy(), None) > 0
