"""Generative flow networks: laws that hold exactly, on random graphs, with planted bugs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from gflownets import TABULAR, UNIFORM_BACK, Walks, normal, padded, parameters, tables
from hypothesis import given, settings
from hypothesis import strategies as st

import ppgen
from ppgen.inference import (
    DagError,
    Policy,
    TableDag,
    adapt,
    backward_walk,
    balance,
    elbo,
    epsilon_uniform,
    forward_looking,
    nondominated,
    optimal_log_flows,
    order_loss,
    target_law,
    terminal_law,
    walk,
)
from ppgen.testing import exact

few = settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 2**16)

DIAMOND = [[1, 2, 3], [4, 3, -1], [4, -1, -1], [-1] * 3, [-1] * 3]
"""Two ends, at depths 1 and 2, and at 2; four walks to them; a state with one action."""


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@jax.jit
def solved(dag, params, energies):
    """The optimum of a table: its law, what it should be, its imbalances, log Z."""
    flows = optimal_log_flows(dag, TABULAR, lambda s: energies[s])(params)
    policy = of_flows(dag, TABULAR)
    best = {**params, "flow": flows}
    law = terminal_law(dag, policy)(best)
    return law, target_law(dag, lambda s: energies[s]), flows


def of_flows(dag, policy):
    """The policy whose actions have probabilities in proportion to the flows that they carry."""

    def forward(params, s):
        def carried(a):
            child, places = dag.step(s, a), jnp.arange(dag.backward_actions)
            logits = jnp.where(dag.parents(child), policy.backward(params, child), -jnp.inf)
            there = jax.nn.logsumexp(jnp.where(places == dag.undo(s, a), logits, -jnp.inf))
            return params["flow"][child] + there - jax.nn.logsumexp(logits)

        return jax.vmap(carried)(jnp.arange(dag.actions))

    return policy._replace(forward=forward)


@jax.jit
def jitted_forward(dag, best):
    """The logits of the policy of flows, in every state."""
    return jax.vmap(lambda s: of_flows(dag, TABULAR).forward(best, s))(dag.states())


# --- B1: laws -------------------------------------------------------------------------------------


@few
@given(tables(), seeds)
def test_the_law_of_ends_is_that_of_all_walks(table, seed):
    dag, params = padded(table), parameters(padded(table), seed)
    law = jax.jit(lambda dag, params: terminal_law(dag, TABULAR)(params))(dag, params)
    np.testing.assert_allclose(law, Walks(table, params).law(), atol=1e-14)
    assert abs(law.sum() - 1) < 1e-12


@few
@given(tables(), seeds)
def test_the_optimum_by_recursion_is_balanced_and_has_the_law_of_the_rewards(table, seed):
    dag, params, energies = padded(table), parameters(padded(table), seed), normal(seed + 9, 9)
    law, target, flows = solved(dag, params, energies)
    ends = (table < 0).all(1)
    right = np.where(ends, np.exp(-np.asarray(energies)), 0.0)
    np.testing.assert_allclose(law, right / right.sum(), atol=1e-12)
    np.testing.assert_allclose(target, right / right.sum(), atol=1e-14)
    np.testing.assert_allclose(flows[0], np.log(right.sum()), atol=1e-12)
    # By the kernel of flows, every step of every walk is balanced; a bug is seen.
    best = {**params, "flow": flows}
    best["forward"] = jitted_forward(dag, best)
    found = np.concatenate([*Walks(table, best).imbalances(flows, energies)])
    assert np.abs(found).max() < 1e-12
    without_boundary = Walks(table, best).imbalances(flows, 0 * energies)
    assert np.abs(np.concatenate([*without_boundary])).max() > 1e-3


# --- values: the loss is what it says -------------------------------------------------------------


@functools.cache
def exact_balance(over, off_policy=False):
    """The loss and its gradient on graphs of one shape, by summation over all draws."""
    behaviour = (lambda logits, s: 0.3 * logits) if off_policy else None

    @jax.jit
    def run(params, energies):
        dag = TableDag(DIAMOND)
        loss = balance(dag, TABULAR, lambda s: energies[s], over=over, behaviour=behaviour)
        return jax.value_and_grad(exact(loss))(params)

    return run


@pytest.mark.parametrize("over", ["transition", "trajectory", 0.7])
def test_the_loss_is_the_weighted_mean_over_all_walks(over):
    dag = TableDag(DIAMOND)
    for seed in range(3):
        params, energies = parameters(dag, seed), normal(seed + 9, 5)
        value, gradient = exact_balance(over)(params, energies)
        walks = Walks(DIAMOND, params)
        np.testing.assert_allclose(value, walks.loss(params["flow"], energies, over), rtol=1e-12)
        # The walks are data: their weights do not move.
        for name, places in {
            "flow": [(0,), (2,)],
            "forward": [(0, 1)],
            "backward": [(4, 1)],
        }.items():
            for place in places:
                moved = []
                for sign in (1, -1):
                    other = {**params, name: params[name].at[place].add(sign * 1e-5)}
                    at = Walks(DIAMOND, other)
                    moved.append(at.loss(other["flow"], energies, over, walks.log_forward))
                slope = (moved[0] - moved[1]) / 2e-5
                np.testing.assert_allclose(gradient[name][place], slope, rtol=1e-6, atol=1e-8)


# --- B2: trajectory balance and the divergence ----------------------------------------------------


def test_on_policy_trajectory_balance_is_the_divergence():
    dag = TableDag(DIAMOND)
    params, energies = parameters(dag, 3), normal(12, 5)
    energy = lambda s: energies[s]  # noqa: E731
    bound = elbo(backward_walk(dag, TABULAR, energy), walk(dag, TABULAR))
    bound = ppgen.with_estimators(bound, {"action": ppgen.Enumerate()})
    value, slope = jax.jit(jax.value_and_grad(ppgen.expectation(bound), argnums=1))(
        jax.random.key(0), params
    )
    walks = Walks(DIAMOND, params)
    weights = np.exp(walks.log_forward)
    right = weights @ (walks.log_backward - np.asarray(energies)[walks.ends] - walks.log_forward)
    np.testing.assert_allclose(value, right, rtol=1e-12)
    assert value < np.log(np.exp(-np.asarray(energies))[3:].sum())
    _, on = exact_balance("trajectory")(params, energies)
    _, off = exact_balance("trajectory", off_policy=True)(params, energies)
    np.testing.assert_allclose(0.5 * on["forward"], -slope["forward"], atol=1e-9)
    # Off policy, and of the backward kernel, they differ: the agreement is no accident.
    assert np.abs(0.5 * off["forward"] + slope["forward"]).max() > 1e-2
    assert np.abs(0.5 * on["backward"] + slope["backward"]).max() > 1e-2


# --- B3: one zero, and limits ---------------------------------------------------------------------


def test_sub_trajectories_are_between_steps_and_walks():
    dag = TableDag(DIAMOND)
    params, energies = parameters(dag, 5), normal(14, 5)
    steps, _ = exact_balance("transition")(params, energies)
    whole, _ = exact_balance("trajectory")(params, energies)
    for over, right in ((1e-12, steps), (1e12, whole)):
        value, gradient = exact_balance(over)(params, energies)
        np.testing.assert_allclose(value, right, rtol=1e-9)
        assert all(np.isfinite(x).all() for x in gradient.values())
    assert abs(steps - whole) > 1e-2


@pytest.mark.parametrize("over", ["transition", "trajectory", 0.7])
def test_all_have_their_zero_at_the_optimum(over):
    dag = TableDag(DIAMOND)
    params, energies = parameters(dag, 7), normal(16, 5)
    flows = optimal_log_flows(dag, TABULAR, lambda s: energies[s])(params)
    best = {**params, "flow": flows}
    best["forward"] = jitted_forward(dag, best)
    value, gradient = exact_balance(over, off_policy=True)(best, energies)
    assert value < 1e-20 and all(np.abs(x).max() < 1e-9 for x in gradient.values())
    value, _ = exact_balance(over, off_policy=True)({**best, "flow": flows + 0.1}, energies)
    assert value > 1e-4


# --- B4: forward-looking flows --------------------------------------------------------------------


@few
@given(tables(), seeds)
def test_looking_forward_leaves_the_optimum_where_it_is(table, seed):
    """Whatever is said of unfinished objects: also where walks are cut."""
    dag, params = padded(table), parameters(padded(table), seed)
    energies, partial = normal(seed + 9, 9), normal(seed + 10, 9)
    ends = jnp.asarray((table < 0).all(1))
    value, planted = looked(dag, params, energies, jnp.where(ends, energies, partial))
    assert value < 1e-20
    assert planted > 1e-4


@jax.jit
def looked(dag, params, energies, partial):
    flows = optimal_log_flows(dag, TABULAR, lambda s: energies[s])(params)
    best = {**params, "flow": flows}
    best["forward"] = jax.vmap(lambda s: of_flows(dag, TABULAR).forward(best, s))(dag.states())
    best["flow"] = flows + partial

    def value(energy):
        policy = TABULAR._replace(
            log_flow=forward_looking(lambda p, s: p["flow"][s], lambda s: partial[s])
        )
        cut = dist.DiscreteUniform(1, 4)
        loss = balance(dag, policy, energy, over="transition", truncate=cut)
        return ppgen.expectation(loss, draws=64)(jax.random.key(0), best)

    # Planted: what is learned is not 1 at the end, so that the boundary is another one.
    return value(lambda s: energies[s]), value(lambda s: energies[s] - 0.5)


# --- B5: adaptation -------------------------------------------------------------------------------


@few
@given(tables(), seeds)
def test_an_adapted_policy_has_the_law_of_the_rewards(table, seed):
    dag, params = padded(table), parameters(padded(table), seed)
    rewards = np.where((table < 0).all(1), np.exp(np.asarray(normal(seed + 5, 9))), 0.0)
    right = rewards / rewards.sum()
    law, unweighted = adapted(dag, params, jnp.log(rewards))
    assert np.abs(law - right).sum() < 1e-9
    # Planted: the policies are mixed, and not their flows.
    ends = int((rewards > 0).sum())
    assert ends == 1 or np.abs(unweighted - right).sum() > 1e-6


@jax.jit
def adapted(dag, params, log_rewards):
    """The law of what is adapted from a policy that reaches each outcome exactly."""

    def flows(y):
        reach = lambda s: jnp.where(s == y, 0.0, jnp.inf)  # noqa: E731
        return optimal_log_flows(dag, UNIFORM_BACK, reach)({})

    table = jax.vmap(flows)(dag.states())

    def forward(params, s, y):
        children = jax.vmap(lambda a: dag.step(s, a))(jnp.arange(dag.actions))
        return table[y][children] - jnp.log(dag.degrees[children])

    policy = Policy(forward, None, lambda params, s, y: table[y, s])
    fine = adapt(dag, policy, dag.states(), log_rewards)
    flat = adapt(dag, policy._replace(log_flow=lambda *_: 0.0), dag.states(), log_rewards)
    return terminal_law(dag, fine)(params), terminal_law(dag, flat)(params)


# --- B6: orders -----------------------------------------------------------------------------------


def test_only_the_order_of_scores_counts():
    dag = TableDag(DIAMOND)
    params, scores = parameters(dag, 11), jnp.array([[0.0] * 2] * 3 + [[1.0, 0.2], [-0.5, 0.4]])
    behaviour, key = epsilon_uniform(0.5), jax.random.key(0)

    def loss(params, score):
        objective = order_loss(dag, TABULAR, score, batch=8, behaviour=behaviour)
        return jax.jit(jax.value_and_grad(ppgen.expectation(objective), argnums=1))(key, params)

    value, gradient = loss(params, lambda s: scores[s])
    shifted = {**params, "flow": params["flow"] + 3.0}
    for other in (
        loss(params, lambda s: jnp.exp(3 * scores[s]) - 7),
        loss(params, lambda s: scores[s] ** 3 * jnp.array([1.0, 100.0])),
        loss(params, lambda s: scores[s][::-1]),
        loss(shifted, lambda s: scores[s]),
    ):
        assert value == other[0]
        jax.tree.map(np.testing.assert_array_equal, gradient, other[1])
    # Another order is seen.
    assert abs(value - loss(params, lambda s: scores[s][:1])[0]) > 1e-3
    with pytest.raises(ValueError, match="at least 2"):
        order_loss(dag, TABULAR, lambda s: scores[s], batch=1)


def test_the_nondominated_are_those_that_none_beats():
    scores = np.random.RandomState(0).randint(0, 4, (40, 3)).astype(float)
    beaten = np.array([any((y >= x).all() and (y > x).any() for y in scores) for x in scores])
    order = np.random.RandomState(1).permutation(40)
    for rows in (slice(None), order):
        found = nondominated(jnp.asarray(scores[rows]))
        np.testing.assert_array_equal(found, ~beaten[rows])
    assert nondominated(jnp.zeros((3, 2))).all() and nondominated(jnp.zeros((1, 1))).all()


# --- B7: the behaviour ----------------------------------------------------------------------------


def test_nothing_is_differentiated_through_the_behaviour():
    """A behaviour with parameters of its own, and of the policy's, is data."""
    dag = TableDag(DIAMOND)
    params, energies = parameters(dag, 13), normal(22, 5)

    def loss(theta, key, hot):
        params, scale = theta
        behaviour = lambda logits, s: scale * logits + (params["flow"][s] if hot else 0.0)  # noqa: E731
        objective = balance(dag, TABULAR, lambda s: energies[s], behaviour=behaviour)
        return ppgen.expectation(objective, draws=4)(key, params)

    slope = jax.jit(jax.grad(loss), static_argnums=2)
    for seed in range(3):
        key = jax.random.key(seed)
        (gradient, own), (plain, _) = (
            slope((params, jnp.array(0.5)), key, hot) for hot in (True, False)
        )
        assert own == 0.0
        jax.tree.map(np.testing.assert_array_equal, gradient, plain)


# --- what is refused, and what there is nothing of ------------------------------------------------


def test_what_lacks_something_is_refused():
    dag = TableDag(DIAMOND)
    bare = Policy(TABULAR.forward)
    with pytest.raises(DagError, match="no log flow"):
        balance(dag, bare, lambda s: 0.0)
    with pytest.raises(DagError, match="no log flow"):
        adapt(dag, bare, dag.states(), jnp.zeros(5))
    for over in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="positive and finite"):
            balance(dag, TABULAR, lambda s: 0.0, over=over)
    with pytest.raises(DagError, match="cycle"):
        TableDag([[1], [2], [1]])
    with pytest.raises(DagError, match="state 2 cannot be reached"):
        TableDag([[1], [-1], [1]])
    with pytest.raises(DagError, match="no row"):
        TableDag([[1]])


@pytest.mark.parametrize("over", ["transition", "trajectory", 0.7])
def test_a_source_that_is_an_object_has_nothing_to_learn(over):
    dag = TableDag([[-1]])
    params, key = parameters(dag, 0), jax.random.key(0)
    loss = ppgen.expectation(balance(dag, TABULAR, lambda s: 2.0, over=over))
    value, gradient = jax.jit(jax.value_and_grad(loss, argnums=1))(key, params)
    assert value == 0 and all(np.all(x == 0) for x in jax.tree.leaves(gradient))
    assert terminal_law(dag, TABULAR)(params) == 1.0


def test_actions_that_are_not_allowed_leave_no_nan():
    """Masks are -inf and not a large number; derivatives are finite all the same, in float32."""
    with jax.enable_x64(False):
        dag = TableDag(DIAMOND)
        params = jax.tree.map(lambda x: 1e4 * jnp.asarray(x, jnp.float32), parameters(dag, 1))
        loss = balance(dag, TABULAR, lambda s: 0.0, over="transition")
        slope = jax.jit(jax.grad(ppgen.expectation(loss, draws=8), argnums=1))
        gradient = slope(jax.random.key(0), params)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
        assert gradient["forward"].dtype == jnp.float32
        assert (gradient["forward"][1, 2], gradient["forward"][2, 1]) == (0.0, 0.0)
