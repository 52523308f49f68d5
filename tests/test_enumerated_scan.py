"""Enumeration inside of scan: exact in linear time, or over the joint values, or an error."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ppgen
from ppgen._staging.primitives import equations
from ppgen.errors import PpgenError
from ppgen.inference import elbo
from ppgen.testing import exact

pytestmark = pytest.mark.sweep(of=3)

KEY = jax.random.key(0)
ENUMERATE = {"grad": ppgen.Enumerate()}


def transition(theta, size):
    return theta * jnp.eye(size) + 0.3 * jnp.cos(jnp.arange(size * size).reshape(size, size))


def hmm(length, size):
    y = jax.random.normal(jax.random.key(1), (length,))

    def model(theta):
        def step(z, y):
            z = numpyro.sample("z", dist.Categorical(logits=transition(theta, size)[z]))
            numpyro.sample("y", dist.Normal(0.5 * z, 1.0), obs=y)
            return z, None

        scan(step, 0, y)

    def guide(theta):
        def step(z, y):
            logits = transition(theta, size)[z] + y * jnp.arange(size)
            return numpyro.sample("z", dist.Categorical(logits=logits), infer=ENUMERATE), None

        scan(step, 0, y)

    return model, guide, y


def forward_backward(theta, y, size):
    """The bound of `hmm`, from the marginals of the guide's chain, in float64 with NumPy."""
    a = theta * np.eye(size) + 0.3 * np.cos(np.arange(size * size).reshape(size, size))
    states = np.arange(size)
    log_p = a - np.logaddexp.reduce(a, axis=1, keepdims=True)
    alpha, total = np.eye(size)[0], 0.0
    for t in range(len(y)):
        logits = a + y[t] * states
        log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        log_y = -0.5 * (y[t] - 0.5 * states) ** 2 - 0.5 * np.log(2 * np.pi)
        pairs = alpha[:, None] * np.exp(log_q)
        total += np.sum(pairs * (log_p + log_y - log_q))
        alpha = pairs.sum(0)
    return total


@pytest.mark.parametrize("length, size", [(4, 3), (500, 10)])
def test_evidence_bound_of_an_hmm_is_that_of_the_forward_algorithm(length, size):
    model, guide, y = hmm(length, size)
    g = jax.jit(jax.value_and_grad(ppgen.expectation(elbo(model, guide)), 1))
    value, slope = g(KEY, 0.7)
    y = np.asarray(y, np.float64)
    np.testing.assert_allclose(value, forward_backward(0.7, y, size), rtol=1e-5)
    h = 1e-5
    numerical = forward_backward(0.7 + h, y, size) - forward_backward(0.7 - h, y, size)
    # In float32 the slope is a difference of sums as large as the value.
    np.testing.assert_allclose(slope, numerical / (2 * h), rtol=1e-4, atol=2e-6 * abs(value))


def test_compiled_size_does_not_depend_on_the_length():
    def size(length):
        model, guide, _ = hmm(length, 3)
        g = jax.value_and_grad(ppgen.expectation(elbo(model, guide)), 1)
        return sum(1 for _ in equations(jax.make_jaxpr(g)(KEY, 0.7)))

    assert size(5) == size(50)


def test_memory_of_the_reverse_pass_is_linear_in_the_number_of_states():
    def memory(size):
        model, guide, _ = hmm(400, size)
        g = jax.jit(jax.grad(ppgen.expectation(elbo(model, guide)), 1))
        return g.lower(KEY, 0.7).compile().memory_analysis().temp_size_in_bytes

    # All pairs of states at all steps would take 100 times as much for 10 times the states.
    assert memory(160) < 25 * memory(16)


def chain(carry, cost, length=4, shape=(), estimator=None):
    """A user's own scan: what is carried and what a step costs, as functions of old and new."""

    def f(theta):
        def step(z, t):
            logits = theta[0] * z + theta[1] * jnp.cos(t)
            flip = dist.Bernoulli(logits=jnp.broadcast_to(logits, shape))
            b = ppgen.draw(flip, name="b", grad=estimator or ppgen.Enumerate())
            return carry(z, b), cost(z, b)

        z, costs = jax.lax.scan(step, jnp.zeros(shape), jnp.arange(float(length)))
        return z, costs

    return f


def exactly(f, theta=(0.7, -0.4), rtol=1e-5):
    theta = jnp.array(theta)
    g = ppgen.expectation(f)
    with jax.enable_x64(True):
        point = np.asarray(theta, np.float64)
        value, slope = jax.value_and_grad(exact(f))(jnp.asarray(point))
        value, slope = np.asarray(value), np.asarray(slope)
    got, got_slope = jax.jit(jax.value_and_grad(g, 1))(KEY, theta)
    np.testing.assert_allclose(got, value, rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(got_slope, slope, rtol=10 * rtol, atol=1e-5)
    return g


def loops(g, theta=(0.7, -0.4)):
    jaxpr = jax.make_jaxpr(g)(KEY, jnp.array(theta))
    return any(e.primitive.name == "scan" for e in equations(jaxpr))


def last(z, b):
    return b * 1.5 - 0.2


COSTS = {
    "new": lambda z, b: jnp.sin(2.0 * b),
    "old": lambda z, b: jnp.cos(z),
    "pair": lambda z, b: jnp.sin(z + 2.0 * b),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_of_a_step(name):
    f = chain(last, COSTS[name])
    g = exactly(lambda theta: jnp.sum(f(theta)[1]))
    assert loops(g)


@pytest.mark.parametrize("name", COSTS)
def test_weights_and_signs_of_steps(name):
    f = chain(last, COSTS[name])
    g = exactly(lambda theta: jnp.dot(f(theta)[1], jnp.arange(4.0)) * theta[0] - f(theta)[1][2])
    assert loops(g)


def test_elementwise_functions_of_new_choices_after_the_loop():
    f = chain(last, lambda z, b: b * 1.0)
    g = exactly(lambda theta: jnp.sum(jnp.exp(theta[0] * f(theta)[1]) / (1 + jnp.arange(4.0))))
    assert loops(g)


AFTER = {
    "the last state": lambda z, costs: z**2 + jnp.sum(costs),
    "a product of steps": lambda z, costs: jnp.prod(1.5 + costs),
    "a function of pairs": lambda z, costs: jnp.sum(costs[1:] * costs[:-1]),
    "a running sum": lambda z, costs: jnp.sum(jnp.cumsum(costs) ** 2),
}


@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("cost", ["new", "pair"])
def test_what_needs_joint_values_of_steps_gets_them(name, cost):
    f = chain(last, COSTS[cost])
    exactly(lambda theta: AFTER[name](*f(theta)))


def test_a_state_that_remembers_everything_gets_joint_values():
    f = chain(lambda z, b: 0.5 * z + b, COSTS["pair"])
    exactly(lambda theta: jnp.sum(f(theta)[1]))


def test_joint_values_of_many_steps_are_refused_with_their_number():
    f = chain(lambda z, b: 0.5 * z + b, COSTS["pair"], length=60)
    with pytest.raises(PpgenError, match="more than 1,048,576 joint values(.|\n)*site 'b'"):
        # Before anything is compiled, so shapes are enough.
        jax.eval_shape(ppgen.expectation(lambda theta: jnp.sum(f(theta)[1])), KEY, jnp.ones(2))


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_independent_chains_side_by_side(shape):
    f = chain(last, COSTS["pair"], shape=shape, length=3)
    weights = jnp.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)

    def one(w):
        single = chain(last, COSTS["pair"], length=3)
        return lambda theta: jnp.sum(w * single(theta)[1])

    g = ppgen.expectation(lambda theta: jnp.sum(weights * f(theta)[1]))
    theta = jnp.array([0.7, -0.4])
    got, slope = jax.value_and_grad(g, 1)(KEY, theta)
    each = [jax.value_and_grad(ppgen.expectation(one(w)), 1)(KEY, theta) for w in weights.ravel()]
    np.testing.assert_allclose(got, sum(v for v, _ in each), rtol=1e-5)
    np.testing.assert_allclose(slope, sum(s for _, s in each), rtol=1e-4)
    assert loops(g)


def test_a_cost_that_mixes_chains_side_by_side():
    f = chain(last, lambda z, b: jnp.sin(jnp.sum(b) + z[0]), shape=(2,), length=3)
    g = exactly(lambda theta: jnp.sum(f(theta)[1]))
    assert loops(g)


def test_a_transition_that_mixes_chains_side_by_side():
    f = chain(lambda z, b: jnp.flip(b) * 1.5, lambda z, b: jnp.sin(z + 2 * b), shape=(2,), length=3)
    exactly(lambda theta: jnp.sum(f(theta)[1]))


def test_several_choices_in_a_step():
    def f(theta):
        def step(state, t):
            z, w = state
            a = ppgen.draw(dist.Bernoulli(logits=theta[0] * z + w), grad=ppgen.Enumerate())
            logits = jnp.stack([theta[1] * a, z, 0.3 * w])
            k = ppgen.draw(dist.Categorical(logits=logits), grad=ppgen.Enumerate())
            return (a * 1.0, jnp.cos(k * 1.0)), jnp.sin(k + a + 0.5 * z) + w

        _, costs = jax.lax.scan(step, (0.5, 0.1), jnp.arange(3))
        return jnp.sum(costs)

    assert loops(exactly(f))


def test_a_choice_before_and_a_choice_after():
    def f(theta):
        start = ppgen.draw(dist.Bernoulli(logits=theta[1]), grad=ppgen.Enumerate())

        def step(z, t):
            b = ppgen.draw(dist.Bernoulli(logits=theta[0] * z - t), grad=ppgen.Enumerate())
            return b * 1.0, jnp.sin(z + 2 * b)

        _, costs = jax.lax.scan(step, start * 1.0, jnp.arange(3.0))
        x = ppgen.draw(dist.Bernoulli(logits=theta[0] * start), grad=ppgen.Enumerate())
        return jnp.sum(costs) * (1 + start) + x * start

    exactly(f)


def test_noise_in_a_step_is_that_of_the_sample():
    def f(theta):
        def step(z, t):
            b = ppgen.draw(dist.Bernoulli(logits=theta[0] * z), grad=ppgen.Enumerate())
            x = ppgen.draw(dist.Normal(theta[1] * b, 1.0))
            return b * 1.0, x**2

        return jnp.sum(jax.lax.scan(step, 0.5, jnp.arange(3))[1])

    ppgen.testing.assert_unbiased(f, jnp.array([0.7, -0.4]), order=1, samples=20_000)


def test_second_derivatives():
    f = chain(last, COSTS["pair"])

    def objective(theta):
        return jnp.sum(f(theta)[1])

    with jax.enable_x64(True):
        theta = jnp.array([0.7, -0.4])
        expected = jax.hessian(exact(objective))(theta)
        np.testing.assert_allclose(
            jax.hessian(ppgen.expectation(objective), 1)(KEY, theta), expected, rtol=1e-8
        )


def test_seed_and_simulate_keep_the_loop():
    _, guide, _ = hmm(50, 3)
    jaxpr = jax.make_jaxpr(ppgen.seed(lambda: ppgen.simulate(guide)(0.7).choices["z"]))(KEY)
    assert sum(1 for _ in equations(jaxpr)) < 400
    assert ppgen.seed(lambda: ppgen.simulate(guide)(0.7).choices["z"])(KEY).shape == (50,)


def test_a_refusal_names_the_users_line():
    """Not the one in which ppgen stages NumPyro's scan."""

    def guide(p, name):
        def step(state, _):
            flip = dist.Bernoulli(logits=p + state)
            return state + numpyro.sample(name, flip, infer={"grad": ppgen.Enumerate()}), None

        return scan(step, 0.0, jnp.zeros(25))[0]

    with pytest.raises(
        ppgen.errors.EstimatorError, match=r"computed at \S*test_enumerated_scan.py:"
    ):
        ppgen.expectation(lambda p: jnp.exp(guide(p, "a")) * guide(-p, "b"))(jax.random.key(0), 0.3)
