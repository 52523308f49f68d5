"""Elimination with the steps of a scan side by side, against sums over all paths without ppgen."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ppgen
from ppgen._evaluation import steps_at_once
from ppgen._staging.primitives import equations
from ppgen.inference import elbo

KEY = jax.random.key(0)
THETA = jnp.array([0.7, -0.4])
XS = jnp.linspace(-1.0, 1.5, 4)


class Chain(NamedTuple):
    """A chain of choices with a cost for each step.

    Attributes:
        sizes: number of values of each choice of a step.
        logits: `(theta, carry, x, choices made before in the step) -> logits of the next one`.
        step: `(theta, carry, x, choices) -> (carry, cost)`.
        init: what is carried first.
        xs: inputs of the steps.
        reverse: whether the last step is made first.
    """

    logits: Callable
    step: Callable
    init: Any
    sizes: tuple[int, ...] = (3,)
    xs: Any = XS
    reverse: bool = False


def program(chain: Chain, **options: Any) -> Callable:
    def f(theta):
        def step(carry, x):
            made = []
            for _ in chain.sizes:
                logits = chain.logits(theta, carry, x, made)
                estimator = ppgen.Enumerate(**options)
                made.append(ppgen.draw(dist.Categorical(logits=logits), grad=estimator))
            return chain.step(theta, carry, x, made)

        _, costs = jax.lax.scan(step, chain.init, chain.xs, reverse=chain.reverse)
        return jnp.sum(costs * (1.0 + jnp.arange(len(costs))))

    return f


def over_all_paths(chain: Chain) -> Callable:
    """The expected cost by its definition: every path, its probability times its cost."""
    length = len(jax.tree.leaves(chain.xs)[0])
    order = range(length)[::-1] if chain.reverse else range(length)

    paths = jnp.array(list(itertools.product(*[range(n) for n in chain.sizes] * length)))

    def of_path(theta, path):
        carry, weight, cost, choices = chain.init, 1.0, 0.0, iter(path)
        for t in order:
            x = jax.tree.map(lambda x, t=t: x[t], chain.xs)
            made = []
            for _ in chain.sizes:
                now = next(choices)
                weight *= jax.nn.softmax(chain.logits(theta, carry, x, made))[now]
                made.append(now)
            carry, paid = chain.step(theta, carry, x, made)
            cost += paid * (1.0 + t)
        # An impossible path contributes nothing.
        possible = weight != 0
        return jnp.where(possible, weight * jnp.where(possible, cost, 0.0), 0.0)

    return lambda theta: jnp.sum(jax.vmap(of_path, (None, 0))(theta, paths))


def table(theta, size=3):
    return theta[0] * jnp.cos(jnp.arange(size * size, dtype=float).reshape(size, size)) + theta[1]


def forbidden(theta, z, x, made):
    """Nothing goes up by two, and value 1 is never left once it was reached."""
    allowed = jnp.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]], bool)
    return jnp.where(allowed[z], table(theta)[z] + x, -jnp.inf)


def plain(theta, z, x, made):
    return table(theta)[z] + x * jnp.arange(3.0)


def pairs(theta, z, x, made):
    return made[0], jnp.sin(z * theta[0] + 2.0 * made[0] - x * theta[1])


CHAINS = {
    "inputs in weights and costs": Chain(plain, pairs, 0),
    "the same matrix at every step": Chain(
        lambda theta, z, x, made: table(theta)[z],
        lambda theta, z, x, made: (made[0], jnp.cos(z + theta[1] * made[0])),
        0,
    ),
    "transitions that are impossible": Chain(forbidden, pairs, 0),
    "an infinite cost of what is impossible": Chain(
        forbidden,
        lambda theta, z, x, made: (
            made[0],
            jax.nn.log_softmax(forbidden(theta, z, x, made))[made[0]],
        ),
        2,
    ),
    "states that are never reached": Chain(
        lambda theta, z, x, made: jnp.where(jnp.arange(3) == 1, -jnp.inf, plain(theta, z, x, made)),
        lambda theta, z, x, made: (
            made[0],
            jnp.where(z == 1, jnp.inf, pairs(theta, z, x, made)[1]),
        ),
        0,
    ),
    "one value": Chain(
        lambda theta, z, x, made: jnp.zeros(1) * theta[0],
        lambda theta, z, x, made: (made[0], (z + theta[0]) ** 2 * x),
        0,
        (1,),
    ),
    "one step": Chain(plain, pairs, 1, xs=XS[:1]),
    "two steps": Chain(plain, pairs, 1, xs=XS[:2]),
    "from the last step to the first": Chain(plain, pairs, 0, reverse=True),
    "no memory": Chain(lambda theta, z, x, made: x * theta[0] * jnp.arange(3.0), pairs, 0),
    "a cost of the old state alone": Chain(
        plain, lambda theta, z, x, made: (made[0], jnp.exp(theta[0] * z)), 0
    ),
    "a cost of the new state alone": Chain(
        plain, lambda theta, z, x, made: (made[0], jnp.exp(theta[0] * made[0] * x)), 0
    ),
    "a state that the inputs move": Chain(
        lambda theta, z, x, made: theta[0] * z * jnp.arange(3.0),
        lambda theta, z, x, made: (made[0] * x + theta[1], jnp.sin(z + made[0])),
        0.3,
    ),
    "nothing that is remembered": Chain(
        lambda theta, c, x, made: x * theta[0] * jnp.arange(3.0) + c,
        lambda theta, c, x, made: (c, jnp.sin(made[0] * theta[1] + x)),
        0.5,
    ),
    "a counter": Chain(
        lambda theta, c, x, made: table(theta)[c[0]] / (1.0 + c[1]),
        lambda theta, c, x, made: ((made[0], c[1] + 1), jnp.sin(c[0] + made[0]) * c[1] * theta[1]),
        (0, 0),
    ),
    "a state that a counter moves": Chain(
        lambda theta, c, x, made: theta[0] * c[0] * jnp.arange(3.0),
        lambda theta, c, x, made: (
            (made[0] * c[1] * theta[1], 0.5 * c[1] + x * theta[0]),
            c[0] ** 2 * c[1],
        ),
        (0.1, 1.0),
    ),
    "a constant that is carried": Chain(
        lambda theta, c, x, made: c[1][c[0]] * theta[0],
        lambda theta, c, x, made: ((made[0], c[1]), c[1][made[0], c[0]] * theta[1]),
        (1, jnp.sin(jnp.arange(9.0).reshape(3, 3))),
    ),
    "two choices of which one is remembered": Chain(
        lambda theta, z, x, made: (
            theta[0] * made[0] * jnp.arange(2.0) if made else table(theta, 2)[z] * x
        ),
        lambda theta, z, x, made: (made[1], jnp.sin(z + made[0] + 2.0 * made[1]) * theta[1]),
        0,
        (2, 2),
    ),
    "two choices that are remembered": Chain(
        lambda theta, c, x, made: (
            theta[0] * (made[0] + c[1]) * jnp.arange(2.0) if made else table(theta, 2)[c[0]] * x
        ),
        lambda theta, c, x, made: (
            (made[0], made[1]),
            jnp.sin(c[0] - c[1] + made[0] + 2.0 * made[1]) * theta[1],
        ),
        (0, 1),
        (2, 2),
    ),
    "a loop in a step": Chain(
        plain,
        lambda theta, z, x, made: (
            made[0],
            jax.lax.scan(lambda a, _: (jnp.sin(a + z * theta[0]), None), made[0] + x, length=3)[0],
        ),
        0,
    ),
    "the number of the step decides": Chain(
        lambda theta, z, x, made: jnp.where(x[0] == 0, x[1] * jnp.arange(3.0), table(theta)[z]),
        lambda theta, z, x, made: (made[0], jnp.where(x[0] == 0, theta[0], jnp.sin(z + made[0]))),
        0,
        xs=(jnp.arange(4), XS),
    ),
}
BRANCHES = Chain(
    plain,
    lambda theta, z, x, made: (
        made[0],
        # Both branches at once would give a derivative that is not a number.
        jax.lax.cond(x > 0, lambda: jnp.sqrt(x) * theta[0] * z, lambda: theta[1] * made[0]),
    ),
    0,
)


def same(f: Callable, chain: Chain) -> None:
    g = ppgen.expectation(f)
    with jax.enable_x64(True):
        theta = jnp.asarray(np.asarray(THETA, np.float64))
        wide = jax.tree.map(
            lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            jax.tree.map(jnp.asarray, (chain.init, chain.xs)),
        )
        chain = chain._replace(init=wide[0], xs=wide[1])
        by_hand, slope = jax.jit(jax.value_and_grad(over_all_paths(chain)))(theta)
    value, own = jax.jit(jax.value_and_grad(g, 1))(KEY, THETA)
    np.testing.assert_allclose(value, by_hand, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(own, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CHAINS)
def test_values_and_gradients_are_those_of_the_sum_over_all_paths(name):
    same(program(CHAINS[name]), CHAINS[name])


PARALLEL = [
    "inputs in weights and costs",
    "the same matrix at every step",
    "transitions that are impossible",
    "no memory",
    "one step",
    "from the last step to the first",
    "two choices of which one is remembered",
]


@pytest.mark.parametrize("name", PARALLEL)
def test_so_they_are_parallel_in_time(name):
    f = program(CHAINS[name], parallel=True)
    same(f, CHAINS[name])
    # No loop is left: the matrices are multiplied in pairs.
    jaxpr = jax.make_jaxpr(ppgen.expectation(f))(KEY, THETA)
    assert all(e.primitive.name != "scan" for e in equations(jaxpr))


def test_branches_are_not_run_side_by_side():
    same(program(BRANCHES), BRANCHES)


@pytest.mark.parametrize("numbers", [1, 20, 40])
@pytest.mark.parametrize("name", ["inputs in weights and costs", "a state that a counter moves"])
def test_blocks_of_steps_give_what_all_steps_give(monkeypatch, name, numbers):
    """Blocks of one step, of some with a rest, of two."""
    monkeypatch.setattr(steps_at_once, "NUMBERS", numbers)
    same(program(CHAINS[name]), CHAINS[name])


def test_second_derivatives_are_those_of_the_sum_over_all_paths():
    chain = CHAINS["inputs in weights and costs"]
    with jax.enable_x64(True):
        theta = jnp.asarray(np.asarray(THETA, np.float64))
        expected = jax.jit(jax.hessian(over_all_paths(chain)))(theta)
        for parallel in (False, True):
            g = ppgen.expectation(program(chain, parallel=parallel))
            np.testing.assert_allclose(jax.jit(jax.hessian(g, 1))(KEY, theta), expected, rtol=1e-6)


def hidden_markov(length, size):
    """Bounds of a hidden Markov model, by ppgen and by hand, with a guide that sees the data."""
    keys = jax.random.split(jax.random.key(1), 3)
    y = jax.random.normal(keys[0], (length,))
    params = {
        "model": jax.random.normal(keys[1], (size, size)),
        "guide": jax.random.normal(keys[2], (size, size)),
        "means": jnp.linspace(-2.0, 2.0, size),
    }

    def ours(seen):
        def model(p, y):
            def step(z, y):
                z = numpyro.sample("z", dist.Categorical(logits=p["model"][z]))
                numpyro.sample("y", dist.Normal(p["means"][z], 1.0), obs=y)
                return z, None

            scan(step, 0, y)

        def guide(p, y):
            def step(z, y):
                logits = p["guide"][z] + (y * p["means"] if seen else 0.0)
                infer = {"grad": ppgen.Enumerate()}
                return numpyro.sample("z", dist.Categorical(logits=logits), infer=infer), None

            scan(step, 0, y)

        return lambda p, y: ppgen.expectation(elbo(model, guide))(KEY, p, y)

    def by_hand(seen):
        def bound(p, y):
            log_p = jax.nn.log_softmax(p["model"])
            log_y = -0.5 * (y[:, None] - p["means"]) ** 2 - 0.5 * np.log(2 * np.pi)
            tilt = (y[:, None] * p["means"])[:, None, :] if seen else 0.0
            log_q = jax.nn.log_softmax(p["guide"] + tilt)
            q = jnp.exp(log_q)

            def step(row, q_now):
                return row @ (q_now if seen else q), row

            _, rows = jax.lax.scan(step, jnp.eye(size)[0], q if seen else None, length=length)
            return jnp.sum(rows[:, :, None] * q * (log_p + log_y[:, None] - log_q))

        return bound

    return ours, by_hand, params, y


@pytest.mark.parametrize("seen, limits", [(True, (1.95, 1.75)), (False, (0.6, 0.7))])
def test_flops_of_a_hidden_markov_model_to_those_by_hand(seen, limits):
    """By hand with all that does not need the loop outside of it, which few would write.

    Where the guide sees the data, whatever is computed at all pairs is checked for what may be
    infinite; where it does not, costs are summed over new states once for all steps.
    """
    ours, by_hand, p, y = hidden_markov(50, 10)

    def flops(f):
        options = {"xla_backend_extra_options": ""}
        return jax.jit(f).lower(p, y).compile(options).cost_analysis()["flops"]

    for order, limit in enumerate(limits):
        f, g = ours(seen), by_hand(seen)
        if order:
            f, g = jax.value_and_grad(f), jax.value_and_grad(g)
        assert flops(f) <= limit * flops(g)


def test_the_loop_over_steps_is_a_product_of_a_row_and_a_matrix():
    ours, _, p, y = hidden_markov(50, 10)
    jaxpr = jax.make_jaxpr(ours(1.0))(p, y)
    (loop,) = [e for e in equations(jaxpr) if e.primitive.name == "scan"]
    # What is a product, summed: whatever else there is of a step is outside, for all at once.
    names = [e.primitive.name for e in equations(loop.params["jaxpr"])]
    assert names == ["broadcast_in_dim", "mul", "reduce_sum"]
