"""The room of outcome-conditioned flow networks."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ppgen
from ppgen.inference import Hypergrid
from ppgen.models import outcome_gflownet as room


def models(dag):
    keys = jax.random.split(jax.random.key(0))
    layers = (8, 1)
    return room.OutcomeStages(
        room.OutcomeFlows(dag, *layers, key=keys[0]), room.Amortiser(dag, *layers, key=keys[1])
    )


def test_the_amortiser_at_its_optimum_is_the_sum():
    """A network that says log N and log Q of the flows has no loss, and the law of the sum."""
    dag = Hypergrid(2, 2)
    task, model = room.OutcomeTask(dag), models(dag)
    flows = room.edge_flows(task)

    class Right(eqx.Module):
        def __call__(self, dag, state):
            told = flows(model.flows, state)
            log_n = jax.nn.logsumexp(told, -1)
            return log_n, told - log_n[:, None]

    right = room.OutcomeStages(model.flows, Right())
    loss = eqx.filter_jit(ppgen.expectation(room.amortiser_loss(task)))
    values = [loss(jax.random.key(0), m) for m in (right, model)]
    assert values[0] < 1e-8 < 1e-2 < values[1]
    laws = [
        eqx.filter_jit(room.total_variation)(task, policy, params)
        for policy, params in (
            (room.adapted(task), model.flows),
            (room.amortised(task), Right()),
            (room.amortised(task), model.amortiser),
        )
    ]
    np.testing.assert_allclose(laws[0], laws[1], atol=1e-5)
    assert abs(laws[2] - laws[0]) > 1e-3


def test_the_loss_has_walks_of_both_kinds():
    dag = Hypergrid(2, 2)
    model = models(dag)
    for contrast, sites in ((True, 2), (False, 1)):
        loss = room.outcome_loss(dag, failure=0.01, contrast=contrast)
        trace = ppgen.seed(ppgen.simulate(loss))(jax.random.key(0), model.flows)
        assert len(trace.choices) == sites
        run = eqx.filter_jit(
            eqx.filter_grad(lambda net, f=loss: ppgen.expectation(f)(jax.random.key(1), net))
        )
        slopes = jax.tree.leaves(run(model.flows))
        assert all(np.isfinite(x).all() for x in slopes) and any(x.any() for x in slopes)


def test_success_is_a_probability():
    dag = Hypergrid(2, 2)
    task, model = room.OutcomeTask(dag), models(dag)
    found = room.success(task, model.flows)
    law = jax.nn.softmax(task.log_rewards())
    assert 0 < found < 1 and float(jnp.sum(law)) == 1
