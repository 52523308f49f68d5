"""Graphs of grids, subsets and strings; and that walks on them are programs like others."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from gflownets import listed

import ppgen
from ppgen.inference import (
    DagError,
    Hypergrid,
    Policy,
    Strings,
    Subsets,
    backward_walk,
    balance,
    kl_to_tilted,
    optimal_log_flows,
    smc,
    target_law,
    terminal_law,
    walk,
)

SMALL = {
    "grid": (Hypergrid(3, 2), 9, 9, 5),
    "cube": (Hypergrid(2, 3), 8, 8, 4),
    "point": (Hypergrid(1, 2), 1, 1, 1),
    "pairs": (Subsets(2, 4), 5, 6, 2),
    "all": (Subsets(3, 3), 7, 1, 3),
    "nothing": (Subsets(0, 2), 0, 1, 0),
    "bits": (Strings(3, 2), 7, 8, 3),
    "words": (Strings(2, 2, ends=True), 3, 7, 2),
    "one letter": (Strings(2, 1, ends=True), 2, 3, 2),
    "empty": (Strings(0, 2), 0, 1, 0),
}
"""Graphs, each with its states that are not terminal, its objects, and its longest walk."""


@pytest.mark.sweep(quick=["grid", "pairs", "words"])
@pytest.mark.parametrize("name", SMALL)
def test_a_graph_is_one(name):
    """States are those that the source leads to, each edge has its own way back."""
    dag, inner, ends, longest = SMALL[name]

    @jax.jit
    @jax.vmap
    def facts(s):
        def after(a):
            child = dag.step(s, a)
            return dag.index(child), dag.undo(s, a), child

        moves = jax.vmap(after)(jnp.arange(dag.actions))
        return dag.index(s), dag.is_terminal(s), dag.allowed(s), dag.parents(s), moves

    states = dag.states()
    index, terminal, allowed, parents, (children, undone, made) = jax.tree.map(
        np.asarray, facts(states)
    )
    number = inner + ends
    assert index.tolist() == [*range(number)] and terminal.sum() == ends
    assert allowed[~terminal].any(1).all()
    # Depths of the longest walks, and the ways back.
    source = int(dag.index(dag.source()))
    depth, back = np.full(number, -1), [[] for _ in range(number)]
    depth[source] = 0
    edges = [(s, a) for s, a in zip(*np.nonzero(allowed), strict=True) if not terminal[s]]
    for _ in range(longest + 1):
        for s, a in edges:
            if depth[s] >= 0:
                depth[children[s, a]] = max(depth[children[s, a]], depth[s] + 1)
    assert (depth >= 0).all(), "a state is listed that cannot be reached"
    assert depth.max() == longest == dag.longest
    for s, a in edges:
        child = int(children[s, a])
        back[child].append(int(undone[s, a]))
        # What a step makes is the state of that place.
        for x, all_of_them in zip(*map(jax.tree.leaves, (made, states)), strict=True):
            np.testing.assert_array_equal(x[s, a], np.asarray(all_of_them)[child])
    for s in range(number):
        assert sorted(back[s]) == [*np.flatnonzero(parents[s])]


def test_the_grids_law_is_that_of_coins():
    """Of the uniform policy on two sides: by hand."""
    dag = Hypergrid(2, 2)
    law = terminal_law(dag, Policy())()
    # From the corner: end 1/3; each neighbour 1/3, where the end is 1/2; else the last point.
    np.testing.assert_allclose(law[4:], [1 / 3, 1 / 6, 1 / 6, 1 / 3], rtol=1e-6)


def test_the_number_of_ways_is_what_the_backward_kernel_divides_by():
    """A uniform walk to subsets: each of the orders of its items; the optimum has them all."""
    dag = Subsets(2, 4)
    flows = optimal_log_flows(dag, Policy(), lambda s: 0.0)()
    np.testing.assert_allclose(jnp.exp(flows[0]), math.comb(4, 2), rtol=1e-5)
    law = target_law(dag, lambda s: 0.0)
    np.testing.assert_allclose(law[law > 0], 1 / 6, rtol=1e-6)


def test_what_there_is_not_is_refused():
    for make in (
        lambda: Hypergrid(0, 2),
        lambda: Hypergrid(2, 0),
        lambda: Subsets(3, 2),
        lambda: Subsets(0, 0),
        lambda: Strings(2, 0),
        lambda: Strings(-1, 2),
    ):
        with pytest.raises(DagError):
            make()
    with pytest.raises(DagError, match="too many"):
        Subsets(1, 40).states()


# --- walks as programs ----------------------------------------------------------------------------

DAG = Strings(2, 2, ends=True)
LOGITS = jnp.array([[0.1, -0.2, 0.3], [0.5, 0.0, -0.5], [-0.3, 0.2, 0.6]])
POLICY = Policy(
    lambda params, s: params[s.size], log_flow=lambda params, s: jnp.sum(params[s.size])
)


def law_of_strings(logits):
    """By hand: the probability of each string."""
    p = np.exp(np.asarray(logits, float))
    p = p / p.sum(1, keepdims=True)
    law = {(): p[0, 2]}
    for a in range(2):
        law[(a,)] = p[0, a] * p[1, 2]
        for b in range(2):
            law[(a, b)] = p[0, a] * p[1, b]
    return law


def string(text):
    return tuple(int(x) for x in np.asarray(text.tokens) if x >= 0)


def test_a_density_is_that_of_the_walk():
    score = jax.jit(lambda actions: ppgen.assess(walk(DAG, POLICY))({"action": actions}, LOGITS))
    right, total = law_of_strings(LOGITS), 0.0
    for actions in itertools.product(range(3), repeat=2):
        trace = score(jnp.array(actions))
        density = float(jnp.exp(trace.log_density))
        total += density
        if actions[0] == 2:
            # After the end there is one action, the first.
            assert density == pytest.approx(right[()] if actions[1] == 0 else 0.0)
        else:
            assert density == pytest.approx(right[string(trace.value.end)])
            assert int(trace.value.length) == 2
    assert total == pytest.approx(1)
    ends = [s for s in listed(DAG) if DAG.is_terminal(s)]
    law = terminal_law(DAG, POLICY)(LOGITS)
    for s in ends:
        assert float(law[DAG.index(s)]) == pytest.approx(right[string(s)], rel=1e-5)


def energy(text):
    return 1.0 * jnp.sum(text.tokens == 1) - 0.4 * text.size


def rewards():
    return {x: math.exp(-(sum(x) - 0.4 * len(x))) for x in law_of_strings(LOGITS)}


def test_walks_are_tilted_curated_and_bounded():
    law, program = law_of_strings(LOGITS), walk(DAG, POLICY)
    tilted = ppgen.tilt(program, lambda route: energy(route.end))
    found = ppgen.log_density(tilted)({"action": jnp.array([1, 2])}, LOGITS)
    assert float(found) == pytest.approx(math.log(law[(1,)]) - 0.6, rel=1e-5)
    log_z = math.log(sum(p * rewards()[x] for x, p in law.items()))
    loss = kl_to_tilted(
        lambda _: walk(DAG, POLICY)(LOGITS), lambda _: program(LOGITS), lambda r: 0.0
    )
    assert float(ppgen.expectation(loss)(jax.random.key(0), 0.0)) == pytest.approx(0, abs=1e-6)
    z = ppgen.importance(tilted, program, particles=4000)
    weights = ppgen.seed(lambda: z(LOGITS).log_weights)(jax.random.key(0))
    assert float(jax.nn.logsumexp(weights) - math.log(4000)) == pytest.approx(log_z, abs=0.05)
    curated = ppgen.curate(program, lambda route: -5.0 * energy(route.end), choices=8)
    kept = ppgen.seed(lambda: jax.vmap(lambda _: curated(LOGITS).end)(jnp.arange(200)))
    plain = ppgen.seed(lambda: jax.vmap(lambda _: program(LOGITS).end)(jnp.arange(200)))
    means = [jax.vmap(energy)(f(jax.random.key(1))).mean() for f in (kept, plain)]
    assert means[0] < means[1] - 0.3


def test_walks_are_drawn_where_numpyro_validates():
    with numpyro.validation_enabled():
        route = ppgen.seed(walk(Subsets(2, 3), Policy()))(jax.random.key(0))
    assert int(route.end.sum()) == 2


def test_walks_are_filtered():
    """Partial energies as factors of the steps: the evidence is Z of the tilted walk."""
    program = walk(DAG, POLICY)

    def step(state, t, params):
        after = program.move(state, t, params)
        numpyro.factor("energy", energy(state) - energy(after))
        return after

    run = jax.jit(ppgen.seed(smc(step, particles=4000)))
    found = run(jax.random.key(0), DAG.source(), jnp.arange(DAG.longest), LOGITS)
    right = math.log(sum(p * rewards()[x] for x, p in law_of_strings(LOGITS).items()))
    assert float(found.log_evidence) == pytest.approx(right, abs=0.05)


def test_the_backward_walk_has_the_sum_of_rewards():
    target = backward_walk(Subsets(2, 3), Policy(), lambda s: 1.0 * s[0])
    log_density, total = jax.jit(ppgen.log_density(target)), 0.0
    for actions in itertools.permutations(range(3), 2):
        total += float(jnp.exp(log_density({"action": jnp.array(actions)})))
    assert total == pytest.approx(2 * math.exp(-1) + 1, rel=1e-5)


@pytest.mark.sweep(quick=["True"])
@pytest.mark.parametrize("ends", [False, True])
def test_losses_go_through_vmap_and_jit(ends):
    dag = Strings(2, 2, ends=ends)
    loss = ppgen.expectation(balance(dag, POLICY, energy, over=0.9))
    keys, params = jax.random.split(jax.random.key(0), 3), LOGITS[:, : dag.actions]
    slope = jax.jit(jax.grad(loss, argnums=1))
    together = jax.jit(jax.vmap(jax.grad(loss, argnums=1), (0, None)))(keys, params)
    for key, one in zip(keys, together, strict=True):
        np.testing.assert_allclose(slope(key, params), one, rtol=2e-4, atol=1e-5)
