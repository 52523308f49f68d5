"""Random choices inside control flow, with every estimator, against exact expectations.

Each program is written twice: with JAX control flow, and in plain Python for the oracle, which runs
through all paths.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.special import xlogy
from monte_carlo import bernoulli, categorical, check, count_equations, expected, normal

import ppgen
from ppgen import Enumerate, MeasureValued, Reparameterize, ScoreFunction

THETA = np.array([0.3, 0.6])


class Family(NamedTuple):
    """How a program chooses: `draw(p)` in JAX, `points(p)` in the oracle; and how it flips."""

    draw: callable
    points: callable
    flip: callable
    index: callable


def _family(draw, points, discrete):
    return Family(
        draw,
        points,
        lambda p: ppgen.draw(dist.Bernoulli(p), name="flip", grad=discrete),
        lambda probs: ppgen.draw(dist.Categorical(probs), name="index", grad=discrete),
    )


def _bernoulli(estimator):
    def draw(p, name="b"):
        return ppgen.draw(dist.Bernoulli(p), name=name, grad=estimator) * 1.0

    return _family(draw, bernoulli, estimator)


def _normal(estimator, discrete):
    def draw(p, name="x"):
        return ppgen.draw(dist.Normal(p, 0.5), name=name, grad=estimator)

    return _family(draw, lambda p: normal(p, 0.5), discrete)


FAMILIES = {
    "flip-score": _bernoulli(ScoreFunction()),
    "flip-enumerate": _bernoulli(Enumerate()),
    "flip-measure": _bernoulli(MeasureValued()),
    "normal-pathwise": _normal(Reparameterize(), ScoreFunction()),
    "normal-measure": _normal(MeasureValued(), Enumerate()),
    "normal-score": _normal(ScoreFunction(), MeasureValued()),
}
PROGRAMS = {}


def program(fn):
    """Register `(jax_program, oracle)`; both take `(theta, family)`."""
    PROGRAMS[fn.__name__] = fn()
    return fn


@program
def in_jit():
    def f(t, c):
        once = jax.jit(lambda p: c.draw(p))
        return (once(t[0]) + 2 * once(t[1])) ** 2 * t[0]

    def exact(t, choose, c):
        return (choose(c.points(t[0])) + 2 * choose(c.points(t[1]))) ** 2 * t[0]

    return f, exact


@program
def cond_on_data_used_afterwards():
    def f(t, c):
        x = jax.lax.cond(
            t[0] > 0.1, lambda p: c.draw(p[0]) * 3, lambda p: c.draw(p[1]) + c.draw(p[0]), t
        )
        y = jax.lax.cond(
            t[0] < 0.1, lambda p: c.draw(p[0]) * 3, lambda p: c.draw(p[1]) + c.draw(p[0]), t
        )
        return (x - 0.3) ** 2 * t[1] + x * y

    def exact(t, choose, c):
        x = choose(c.points(t[0])) * 3
        y = choose(c.points(t[1])) + choose(c.points(t[0]))
        return (x - 0.3) ** 2 * t[1] + x * y

    return f, exact


@program
def cond_on_a_flip_used_afterwards():
    def f(t, c):
        b = c.flip(t[0])
        x = jax.lax.cond(b == 1, lambda p: c.draw(p) * 2, lambda p: p * 0.5, t[1])
        y = c.draw(0.2 + 0.1 * b)
        return (x + 1) ** 2 + b * y * t[0]

    def exact(t, choose, c):
        b = choose(bernoulli(t[0]))
        x = choose(c.points(t[1])) * 2 if b else t[1] * 0.5
        y = choose(c.points(0.2 + 0.1 * b))
        return (x + 1) ** 2 + b * y * t[0]

    return f, exact


@program
def switch_on_an_index():
    def f(t, c):
        probs = jnp.stack([0.2 + 0 * t[0], 0.5 * t[0], 0.8 - 0.5 * t[0]])
        i = c.index(probs)
        x, y = jax.lax.switch(
            i,
            [
                lambda p: (c.draw(p[0]), 1.0),
                lambda p: (p[1] ** 2, c.draw(p[1])),
                lambda p: (c.draw(p[0]) + c.draw(p[1]), p[0]),
            ],
            t,
        )
        return x * y + (x - y) ** 2

    def exact(t, choose, c):
        i = choose(categorical([0.2, 0.5 * t[0], 0.8 - 0.5 * t[0]]))
        if i == 0:
            x, y = choose(c.points(t[0])), 1.0
        elif i == 1:
            x, y = t[1] ** 2, choose(c.points(t[1]))
        else:
            x, y = choose(c.points(t[0])) + choose(c.points(t[1])), t[0]
        return x * y + (x - y) ** 2

    return f, exact


def _scan(reverse):
    scales = np.array([1.0, 0.5, 2.0])

    def f(t, c):
        def step(carry, s):
            x = c.draw(0.2 + 0.4 * t[1] * carry)
            return 0.5 * carry * x + 0.5 * t[0], x * s

        last, ys = jax.lax.scan(step, 0.5, jnp.asarray(scales, float), reverse=reverse)
        return last**2 + jnp.sum(ys * jnp.cumsum(ys)) * t[0]

    def exact(t, choose, c):
        carry, ys = 0.5, np.zeros(3)
        for i in reversed(range(3)) if reverse else range(3):
            x = choose(c.points(0.2 + 0.4 * t[1] * carry))
            ys[i] = x * scales[i]
            carry = 0.5 * carry * x + 0.5 * t[0]
        return carry**2 + np.sum(ys * np.cumsum(ys)) * t[0]

    return f, exact


@program
def scan_forward():
    return _scan(False)


@program
def scan_reverse():
    return _scan(True)


@program
def scan_nested():
    def f(t, c):
        def outer(total, p):
            start = c.draw(p)

            def inner(carry, q):
                return carry + c.draw(0.1 + 0.5 * q) * carry, carry

            carry, ys = jax.lax.scan(inner, 1.0 + start, t[:1])
            return total + carry * p, ys[0] * start

        total, ys = jax.lax.scan(outer, 0.0, t)
        return total + ys[0] * ys[1]

    def exact(t, choose, c):
        total, ys = 0.0, []
        for p in t:
            start = choose(c.points(p))
            carry = 1.0 + start
            ys.append(carry * start)
            carry = carry + choose(c.points(0.1 + 0.5 * t[0])) * carry
            total += carry * p
        return total + ys[0] * ys[1]

    return f, exact


@program
def fori_loop():
    def f(t, c):
        def body(i, x):
            return x * 0.5 + c.draw(t[i % 2]) * (i + 1)

        return jax.lax.fori_loop(0, 3, body, t[0]) ** 2

    def exact(t, choose, c):
        x = t[0]
        for i in range(3):
            x = x * 0.5 + choose(c.points(t[i % 2])) * (i + 1)
        return x**2

    return f, exact


@program
def lax_map():
    def f(t, c):
        xs = jax.lax.map(lambda p: c.draw(p) * p + c.draw(0.4), t)
        return jnp.sum(xs**2) + xs[0] * xs[1]

    def exact(t, choose, c):
        xs = [choose(c.points(p)) * p + choose(c.points(0.4)) for p in t]
        return xs[0] ** 2 + xs[1] ** 2 + xs[0] * xs[1]

    return f, exact


@program
def vmap_mapped():
    def f(t, c):
        xs = jax.vmap(lambda p, s: c.draw(p) * s)(t, jnp.array([1.0, 2.0]))
        return jnp.sum(xs) ** 2 + jnp.sum(t * xs**2)

    def exact(t, choose, c):
        xs = np.array([choose(c.points(p)) * s for p, s in zip(t, (1.0, 2.0), strict=True)])
        return np.sum(xs) ** 2 + np.sum(t * xs**2)

    return f, exact


@program
def vmap_unmapped():
    def f(t, c):
        # Every lane has its own randomness although no operand of the choice is mapped.
        xs = jax.vmap(lambda s: c.draw(t[0]) * s)(jnp.array([1.0, 2.0]))
        return (xs[0] - xs[1]) ** 2 * t[1]

    def exact(t, choose, c):
        xs = [choose(c.points(t[0])), choose(c.points(t[0])) * 2]
        return (xs[0] - xs[1]) ** 2 * t[1]

    return f, exact


@program
def vmap_of_scan_of_jit():
    def f(t, c):
        @jax.jit
        def once(p, s):
            return c.draw(p) * s

        def chain(p):
            def step(carry, s):
                x = once(0.3 + 0.3 * p * carry, s)
                return 0.5 * x, x

            last, xs = jax.lax.scan(step, p, jnp.array([1.0, 1.5]))
            return last + jnp.sum(xs) ** 2

        costs = jax.vmap(chain)(t)
        return jnp.sum(costs) + costs[0] * t[1]

    def exact(t, choose, c):
        costs = []
        for p in t:
            carry, xs = p, []
            for s in (1.0, 1.5):
                xs.append(choose(c.points(0.3 + 0.3 * p * carry)) * s)
                carry = 0.5 * xs[-1]
            costs.append(carry + sum(xs) ** 2)
        return sum(costs) + costs[0] * t[1]

    return f, exact


@program
def vmap_of_cond():
    def f(t, c):
        # Under vmap a cond with a mapped predicate becomes a select: both branches are drawn.
        def one(p, s):
            return jax.lax.cond(s > 0, lambda p: c.draw(p) * 2, lambda p: c.draw(1 - p) + p, p)

        xs = jax.vmap(one)(t, jnp.array([1.0, -1.0]))
        return xs[0] * xs[1] + jnp.sum(xs**2)

    def exact(t, choose, c):
        xs = [choose(c.points(t[0])) * 2, choose(c.points(1 - t[1])) + t[1]]
        return xs[0] * xs[1] + xs[0] ** 2 + xs[1] ** 2

    return f, exact


@program
def in_remat():
    def f(t, c):
        @jax.checkpoint
        def layer(x, p):
            return c.draw(p) * x + p**2

        return layer(layer(t[0], t[0]), t[1]) ** 2

    def exact(t, choose, c):
        def layer(x, p):
            return choose(c.points(p)) * x + p**2

        return layer(layer(t[0], t[0]), t[1]) ** 2

    return f, exact


@jax.custom_jvp
def _square(x):
    return x**2


_square.defjvp(lambda primals, tangents: (_square(*primals), 2 * primals[0] * tangents[0]))


@jax.custom_vjp
def _cube(x):
    return x**3


_cube.defvjp(lambda x: (_cube(x), x), lambda x, ct: (3 * x**2 * ct,))


@program
def under_custom_derivatives():
    def f(t, c):
        x = c.draw(t[0])
        y = c.draw(t[1])
        # Shifts keep relu's kink and xlogy's pole out of reach, so that quadrature is exact.
        return jax.nn.relu(x + 20) * _square(y) + _cube(x * t[1]) + xlogy(t[0], 2.0) * y

    def exact(t, choose, c):
        x = choose(c.points(t[0]))
        y = choose(c.points(t[1]))
        return (x + 20) * y**2 + (x * t[1]) ** 3 + t[0] * np.log(2.0) * y

    return f, exact


@pytest.mark.sweep(of=8)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_unbiased_in_control_flow(name, family):
    f, exact = PROGRAMS[name]
    c = FAMILIES[family]
    got = check(
        lambda t: f(t, c),
        THETA,
        lambda t: expected(lambda choose: exact(t, choose, c)),
        samples=6000,
    )
    if family == "flip-enumerate":
        assert max(x.std(0).max() for x in got) < 1e-4, "enumeration leaves no variance"


@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate(), MeasureValued()])
def test_discrete_choice_under_relu_softplus_and_xlogy(estimator):
    def f(t):
        b = ppgen.draw(dist.Bernoulli(t), grad=estimator) * 1.0
        x = t[0] + b[0] - 2 * b[1]
        return jax.nn.relu(x) + jax.nn.softplus(x * t[1]) + xlogy(b[0], t[0]) + jax.nn.silu(x)

    def exact(t):
        def run(choose):
            b = [choose(bernoulli(p)) for p in t]
            x = t[0] + b[0] - 2 * b[1]
            silu = x / (1 + np.exp(-x))
            return max(x, 0) + np.log1p(np.exp(x * t[1])) + b[0] * np.log(t[0]) + silu

        return expected(run)

    check(f, THETA, exact)


# --- where an estimator cannot follow -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["custom_vjp", "custom_jvp"])
@pytest.mark.parametrize("estimator", [ScoreFunction(), Reparameterize()])
def test_choice_inside_a_custom_derivative_is_refused(kind, estimator):
    def noisy(x):
        return ppgen.draw(dist.Normal(x, 1.0), name="inside", grad=estimator)

    if kind == "custom_vjp":
        noisy = jax.custom_vjp(noisy)
        noisy.defvjp(lambda x: (noisy(x), None), lambda _, ct: (ct,))
    else:
        noisy = jax.custom_jvp(noisy)
        noisy.defjvp(lambda primals, tangents: (noisy(*primals), tangents[0]))
    with pytest.raises(ppgen.PpgenError, match="custom derivative") as info:
        ppgen.expectation(lambda t: noisy(t) ** 2)(jax.random.key(0), 1.0)
    assert "Write instead" in str(info.value)


def _geometric_walk(estimator, flip, *, bounded=True):
    """Steps until a flip comes up, at most five; each adds a draw."""

    def f(t):
        def keep_going(state):
            i, go, _ = state
            return go & (i < (5 if bounded else 5.0))

        def step(state):
            i, _, total = state
            x = ppgen.draw(dist.Normal(t[0], 0.5), name="x", grad=estimator)
            go = ppgen.draw(dist.Bernoulli(t[1]), name="go", grad=flip) == 1
            return i + 1, go, total * 0.5 + x * t[1]

        # A counter that is not an integer bounds nothing that is known.
        total = jax.lax.while_loop(keep_going, step, (0 if bounded else 0.0, True, 1.0))[2]
        return total**2

    def exact(t):
        def run(choose):
            total = 1.0
            for _ in range(5):
                total = total * 0.5 + choose(normal(t[0], 0.5, nodes=2)) * t[1]
                if not choose(bernoulli(t[1])):
                    break
            return total**2

        return expected(run)

    return f, exact


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("estimator", [Reparameterize(), ScoreFunction()])
def test_while_loop_in_forward_mode(estimator, bounded):
    f, exact = _geometric_walk(estimator, ScoreFunction(), bounded=bounded)
    check(f, THETA, exact, forward=True, samples=20_000)


@pytest.mark.parametrize("estimator", [Reparameterize(), ScoreFunction()])
def test_bounded_while_loop_in_reverse_mode(estimator):
    f, exact = _geometric_walk(estimator, ScoreFunction())
    check(f, THETA, exact, samples=20_000)


@pytest.mark.parametrize("estimator", [Reparameterize(), ScoreFunction()])
def test_while_loop_in_reverse_mode_says_what_to_do(estimator):
    f, _ = _geometric_walk(estimator, ScoreFunction(), bounded=False)
    g = ppgen.expectation(f)
    for run in (jax.grad(g, argnums=1), jax.jit(jax.value_and_grad(g, argnums=1))):
        with pytest.raises(ppgen.PpgenError, match="reverse-mode") as info:
            run(jax.random.key(0), jnp.asarray(THETA, float))
        assert type(info.value).__name__ == "ControlFlowError"
        assert "test_control_flow.py" in str(info.value)
        # The test above does what it advises.
        assert "bound in its condition" in str(info.value)


@pytest.mark.parametrize("estimator", [Enumerate(), MeasureValued()])
def test_several_points_in_a_while_loop_are_refused(estimator):
    f, _ = _geometric_walk(Reparameterize(), estimator)
    with pytest.raises(ppgen.PpgenError, match="while_loop") as info:
        ppgen.expectation(f)(jax.random.key(0), jnp.asarray(THETA, float))
    assert type(info.value).__name__ == "ControlFlowError"
    assert info.value.site == "go" and "test_control_flow.py" in info.value.where


def test_choice_in_the_condition_of_a_while_loop_is_refused():
    def f(t):
        return jax.lax.while_loop(
            lambda x: ppgen.draw(dist.Bernoulli(t), name="stop") == 0, lambda x: x + 1.0, t
        )

    with pytest.raises(ppgen.PpgenError, match="condition of a while_loop"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


def test_reparameterised_value_in_the_condition_of_a_while_loop_is_refused():
    def f(t):
        def step(state):
            total, _ = state
            x = ppgen.draw(dist.Normal(t, 1.0), name="x")
            return total + x, x

        return jax.lax.while_loop(lambda s: s[0] < 3.0, step, (t, t))[0]

    with pytest.raises(ppgen.PpgenError, match="predicate of a while_loop"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


# --- compiled size --------------------------------------------------------------------------------


def _size(f, *args):
    g = ppgen.expectation(f)
    return count_equations(
        jax.make_jaxpr(jax.value_and_grad(g, argnums=1))(jax.random.key(0), *args)
    )


@pytest.mark.parametrize("family", ["flip-score", "normal-pathwise", "flip-enumerate"])
def test_sequential_conds_stay_linear(family):
    c = FAMILIES[family]

    def f(t, k):
        x = t
        for i in range(k):
            x = x + jax.lax.cond(
                jnp.asarray(i) % 2 == 0, lambda p: c.draw(p) * p, lambda p: c.draw(1 - p), t
            )
        return x

    sizes = [_size(functools.partial(f, k=k), 0.3) for k in (4, 8, 16)]
    assert sizes[2] - sizes[1] <= 2.3 * (sizes[1] - sizes[0]), sizes
