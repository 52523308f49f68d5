"""Loops of unknown but bounded length: which are bounded, and their derivatives in reverse mode."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import Antithetic, Reparameterize, ScoreFunction
from ppgen._analysis.loop_bounds import most_steps


def equation(going, step, init):
    jaxpr = jax.make_jaxpr(lambda x: jax.lax.while_loop(going, step, init(x)))(0.5)
    return next(e for e in jaxpr.eqns if e.primitive.name == "while")


def up(by):
    return lambda s: (s[0] + by, s[1] * 0.9)


LIMIT = 8
BOUNDED = {
    "less": (lambda s: s[0] < 5, up(1), 0),
    "at most": (lambda s: s[0] <= 5, up(1), 0),
    "mirrored": (lambda s: 5 > s[0], up(1), 0),
    "mirrored, at most": (lambda s: 5 >= s[0], up(1), 0),
    "steps of two": (lambda s: s[0] < 5, up(2), 0),
    "steps of two, at most": (lambda s: s[0] <= 6, up(2), 0),
    "steps of three": (lambda s: s[0] < 7, up(3), -2),
    "number first": (lambda s: s[0] < 5, lambda s: (1 + s[0], s[1]), 0),
    "downwards": (lambda s: s[0] > 0, up(-1), 5),
    "downwards, at least": (lambda s: s[0] >= 0, up(-2), 5),
    "subtracted": (lambda s: s[0] > 0, lambda s: (s[0] - 2, s[1]), 5),
    "unsigned": (lambda s: s[0] < 5, lambda s: (s[0] + np.uint8(1), s[1]), np.uint8(1)),
    "with more": (lambda s: (s[1] > -1.0) & (s[0] < 5), up(1), 1),
    "with more, twice": (lambda s: jnp.logical_and(s[1] > -1, (s[0] < 9) & (s[0] < 4)), up(1), 1),
    "never": (lambda s: s[0] < 5, up(1), 7),
    "the constant of the enclosing function": (lambda s: s[0] < LIMIT, up(1), 0),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_bound_is_the_number_of_steps(name):
    going, step, start = BOUNDED[name]
    eqn = equation(going, step, lambda x: (start, x))
    state, steps = (start, 0.5), 0
    while bool(going(state)):
        state, steps = step(state), steps + 1
    assert most_steps(eqn) == steps


UNBOUNDED = {
    "float": (lambda s: s[0] < 5.0, up(1.0), lambda x: (0.0, x)),
    "or": (lambda s: (s[0] < 5) | (s[1] > 0.1), up(1), lambda x: (0, x)),
    "not": (lambda s: ~(s[0] < 5), up(1), lambda x: (0, x)),
    "wrong way": (lambda s: s[0] < 5, up(-1), lambda x: (0, x)),
    "wrong way down": (lambda s: s[0] > 5, up(1), lambda x: (9, x)),
    "no step": (lambda s: s[0] < 5, lambda s: (s[0], s[1]), lambda x: (0, x)),
    "steps of zero": (lambda s: s[0] < 5, up(0), lambda x: (0, x)),
    "another's step": (lambda s: s[0] < 5, lambda s: (s[1] + 1, s[1]), lambda x: (0, 0)),
    "a step that depends": (
        lambda s: s[0] < 5,
        lambda s: (s[0] + (s[1] > 0.1), s[1]),
        lambda x: (0, x),
    ),
    "a step at times": (
        lambda s: s[0] < 5,
        lambda s: (jnp.where(s[1] > 0.1, s[0] + 1, s[0]), s[1]),
        lambda x: (0, x),
    ),
    "limit carried": (lambda s: s[0] < s[1], up(1), lambda x: (0, 5.0 * x)),
    "start unknown": (lambda s: s[0] < 5, up(1), lambda x: (x.astype(int), x)),
    "subtracted from": (lambda s: s[0] > 0, lambda s: (1 - s[0], s[1]), lambda x: (5, x)),
    "different": (lambda s: s[0] != 5, up(1), lambda x: (0, x)),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_has_no_bound(name):
    assert most_steps(equation(*UNBOUNDED[name])) is None


def waiting(estimator, limit, power=2, start=0):
    """The number of trials until the first success, at most `limit`, and a sum of as many draws."""

    def f(t):
        def step(state):
            n, _, total = state
            x = ppgen.draw(dist.Normal(t[0], 0.5), name="x", grad=estimator)
            success = ppgen.draw(dist.Bernoulli(t[1]), name="s", grad=ScoreFunction())
            return n + 1, success == 0, total + x

        n, _, total = jax.lax.while_loop(
            lambda s: s[1] & (s[0] < start + limit), step, (start, True, 0.0)
        )
        return total + (n - start) ** power

    return f


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("estimator", [Reparameterize(), ScoreFunction(), Antithetic()])
@pytest.mark.parametrize("draws", [1, 2])
def test_geometric_waiting_time_has_its_closed_form(estimator, draws):
    # The limit is met in one run of 10^12.
    g = ppgen.expectation(waiting(estimator, 30), draws=draws)
    if draws == 1 and isinstance(estimator, Antithetic):
        pytest.skip("antithetic draws come in pairs")
    run = jax.jit(jax.vmap(jax.value_and_grad(g, argnums=1), (0, None)))
    mean, p = 0.7, 0.6
    value, slope = run(jax.random.split(jax.random.key(0), 100_000), jnp.array([mean, p]))
    # E[N] = 1/p, E[N²] = (2 - p)/p².
    exact = np.array([mean / p + (2 - p) / p**2, 1 / p, -mean / p**2 - 4 / p**3 + 1 / p**2])
    found = np.column_stack([value, slope])
    error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - exact) < 4.5 * error)
    assert np.all(error < 0.1 * np.abs(exact)), "too few draws to find a bias"


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 17])
def test_same_derivatives_in_both_modes(limit):
    g = ppgen.expectation(waiting(Reparameterize(), limit))

    @jax.jit
    @jax.vmap
    def both(key):
        t = jnp.array([0.4, 0.2])
        return jax.grad(g, argnums=1)(key, t), jax.jacfwd(g, argnums=1)(key, t)

    reverse, forward = both(jax.random.split(jax.random.key(3), 50))
    np.testing.assert_allclose(reverse, forward, rtol=1e-5, atol=1e-6)
    assert limit < 2 or len(np.unique(np.round(forward[:, 0]))) > 1, "all runs took as many steps"


def test_same_draws_as_without_a_known_bound():
    def f(start, limit):
        def step(state):
            n, total = state
            return n + 1, jnp.sin(total + ppgen.draw(dist.Normal(0.3, 1.0), name="x"))

        return jax.lax.while_loop(lambda s: s[0] < limit, step, (start, 0.1))[1]

    known, unknown = (ppgen.expectation(lambda _, n=n: f(*n)) for n in ((0, 7), (0.0, 7.0)))
    for key in jax.random.split(jax.random.key(0), 3):
        np.testing.assert_allclose(known(key, 0.0), unknown(key, 0.0), rtol=1e-6)


def test_second_derivatives():
    f = waiting(Reparameterize(), 6, power=1)
    run = jax.jit(jax.vmap(jax.hessian(ppgen.expectation(f), argnums=1), (0, None)))
    p, mean = 0.6, 0.7
    found = run(jax.random.split(jax.random.key(0), 100_000), jnp.array([mean, p]))

    def exact(t):
        n = jnp.arange(1, 7)
        reached = jnp.where(n < 6, t[1], 1.0) * (1 - t[1]) ** (n - 1)
        return jnp.sum(reached * (n * t[0] + n))

    error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(
        np.abs(found.mean(axis=0) - jax.hessian(exact)(jnp.array([mean, p]))) <= 4.5 * error
    )
    assert error.max() < 0.5


def test_what_has_stopped_leaks_no_nan_into_what_goes_on():
    """A step that is undefined where the loop has ended, in lanes that end at different times."""

    def f(t, start):
        def step(state):
            i, x = state
            flip = ppgen.draw(dist.Bernoulli(0.5), name="flip", grad=ScoreFunction())
            return i + 1, x - t * jnp.sqrt(x) - 0.0 * flip

        return jax.lax.while_loop(lambda s: (s[1] > 0.5) & (s[0] < 9), step, (0, start))[1]

    starts = jnp.array([-1.0, 0.2, 0.6, 2.0, 4.0])
    g = ppgen.expectation(f)

    def total(t):
        return jnp.sum(jax.vmap(lambda s: g(jax.random.key(0), t, s))(starts))

    def by_hand(t):
        out = 0.0
        for x in starts.tolist():
            while x > 0.5:
                x = x - t * x**0.5
            out += x
        return out

    h = 1e-6
    slope = (by_hand(0.9 + h) - by_hand(0.9 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(total)(0.9), slope, rtol=1e-4)
    np.testing.assert_allclose(jax.jacfwd(total)(0.9), slope, rtol=1e-4)


def test_memory_grows_as_the_square_root_of_the_bound():
    def f(t, limit):
        def step(state):
            i, _, c = state
            x = ppgen.draw(dist.Normal(t, 0.5), name="x")
            stop = ppgen.draw(dist.Bernoulli(0.01), name="stop", grad=ScoreFunction())
            return i + 1, stop == 0, jnp.sin(c + x)

        init = 0, True, jnp.ones(1000)  # 4 kB, all of which a derivative needs
        return jnp.sum(jax.lax.while_loop(lambda s: s[1] & (s[0] < limit), step, init)[2])

    sizes = []
    for limit in (64, 64 * 16):
        g = jax.jit(jax.grad(ppgen.expectation(lambda t, n=limit: f(t, n)), argnums=1))
        sizes.append(g.lower(jax.random.key(0), 0.3).compile().memory_analysis().temp_size_in_bytes)
    assert 64 * 4000 / 8 < sizes[0] and 2 * sizes[0] < sizes[1] < 5 * sizes[0]


def test_the_body_is_compiled_once():
    counts = []
    for limit in (4, 4000):
        g = jax.grad(ppgen.expectation(waiting(ScoreFunction(), limit)), argnums=1)
        counts.append(str(jax.make_jaxpr(g)(jax.random.key(0), jnp.array([0.3, 0.4]))).count("\n"))
    assert counts[0] == counts[1]
