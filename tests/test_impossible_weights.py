"""Weights of zero, sums that are put off, and densities far out in a tail."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special

import ppgen
from ppgen import Enumerate, MeasureValued
from ppgen._derivatives import expected, weighed
from ppgen._distributions.truncated import log_normal_mass
from ppgen.inference import cubo, elbo, iwelbo, renyi, tvo

KEY = jax.random.key(0)
ALLOWED = jnp.array([False, True, True])


def value_and_derivatives(f, t):
    g = ppgen.expectation(f)
    return [float(h(KEY, t)) for h in (g, jax.grad(g, 1), jax.jacfwd(g, 1))]


@pytest.mark.parametrize("x", [2.0, np.inf, np.nan])
def test_a_weight_of_zero_takes_out_the_value_and_all_derivatives(x):
    assert weighed(jnp.float32(x), jnp.float32(0.0)) == 0
    assert jax.grad(weighed)(jnp.float32(x), jnp.float32(0.0)) == 0

    def hidden(w):
        return jnp.where(False, weighed(jnp.float32(x), w), 1.0)

    assert jax.grad(hidden)(1.0) == 0
    assert jax.vmap(jax.grad(hidden))(jnp.ones(2)).tolist() == [0, 0]
    seen = jax.grad(weighed, 1)(jnp.float32(x), jnp.float32(1.0))
    assert np.array_equal(seen, x, equal_nan=True)  # what counts is not hidden


@pytest.mark.parametrize("x", [2.0, np.inf, np.nan])
def test_what_a_sum_over_points_makes_of_a_term_with_a_weight_of_zero(x):
    finite = np.isfinite(x)
    at = jnp.float32(x), jnp.float32(0.0)
    assert expected(*at) == 0
    # Whatever the term's tangent is; and a weight that leaves zero counts a finite term.
    for tangent in (1.0, np.inf, np.nan):
        value, moved = jax.jvp(expected, at, (jnp.float32(tangent), jnp.float32(1.0)))
        assert value == 0 and moved == (x if finite else 0)
    assert jax.grad(expected, (0, 1))(*at) == (0, x if finite else 0)
    for outer, inner in ((jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd)):
        hessian = outer(inner(expected, (0, 1)), (0, 1))(*at)
        assert np.array_equal(hessian, [[0, finite], [finite, 0]])
    value, moved = jax.jvp(expected, (jnp.float32(x), jnp.float32(1.0)), (jnp.ones(()),) * 2)
    assert np.array_equal([value, moved], [x, 1 + x], equal_nan=True)  # nothing that counts hides


def test_an_impossible_class_of_infinite_cost_contributes_nothing():
    def entropy(t):
        d = dist.Categorical(logits=jnp.where(ALLOWED, t * jnp.arange(3.0), -jnp.inf))
        return -d.log_prob(ppgen.draw(d, grad=Enumerate()))

    def exact(t):
        q = jax.nn.log_softmax(t * jnp.arange(1.0, 3.0))
        return -jnp.sum(jnp.exp(q) * q)

    found = value_and_derivatives(entropy, 0.4)
    wanted = [exact(0.4), jax.grad(exact)(0.4), jax.grad(exact)(0.4)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_an_impossible_class_among_the_points_of_a_measure_valued_derivative():
    def f(t):
        d = dist.Categorical(logits=jnp.where(ALLOWED, t * jnp.arange(3.0), -jnp.inf))
        return jnp.array([jnp.inf, 1.0, 3.0])[ppgen.draw(d, grad=MeasureValued())]

    def exact(t):
        return 1 + 2 * jax.nn.sigmoid(t)

    _, *derivatives = value_and_derivatives(f, 0.4)
    np.testing.assert_allclose(derivatives, [jax.grad(exact)(0.4)] * 2, rtol=1e-5)


def test_a_value_that_no_particle_can_give_has_a_density_of_zero_and_no_derivative():
    """As for a bound: the estimate is zero for good, whatever the parameters are."""

    def program(t):
        k = numpyro.sample("k", dist.Bernoulli(0.5))
        logits = jnp.where(ALLOWED, t * jnp.arange(3.0) + k, -jnp.inf)
        numpyro.sample("x", dist.Categorical(logits=logits))

    kept = ppgen.marginal(program, keep=["x"], particles=3)

    def log_p(t, x):
        return ppgen.log_density(kept)({"x": jnp.int32(x)}, t)

    value, slope = jax.value_and_grad(ppgen.expectation(log_p), 1)(KEY, 0.4, 0)
    assert value == -jnp.inf and slope == 0
    value, slope = jax.value_and_grad(ppgen.expectation(log_p), 1)(KEY, 0.4, 1)
    np.testing.assert_allclose(value, jax.nn.log_sigmoid(-0.4), rtol=1e-5)
    np.testing.assert_allclose(slope, -jax.nn.sigmoid(0.4), rtol=1e-5)


def test_steps_that_add_a_constant_are_not_done_once_for_two_terms():
    steps = {
        "concatenate": lambda s: jnp.concatenate([s, jnp.ones(1)]),
        "pad": lambda s: jnp.pad(s, 1, constant_values=1.0),
        "where": lambda s: jnp.where(jnp.array([True, False]), s, 1.0),
        "gather": lambda s: s.at[jnp.array([0, 5])].get(mode="fill", fill_value=1.0),
        "zero": lambda s: jnp.where(jnp.array([True, False]), s, 0.0),
        "linear": lambda s: 2 * jnp.cumsum(s)[::-1],
    }
    weights = jnp.arange(1.0, 5.0)
    for name, step in steps.items():

        def f(t, step=step):
            a = ppgen.draw(dist.Bernoulli(jnp.full((2, 3), t)), grad=Enumerate()) * 1.0
            both = step(jnp.sum(2 * a, -1)) + step(jnp.sum(jnp.exp(a), -1))
            return jnp.sum(both * weights[: both.size])

        def exact(t, step=step):
            both = step(jnp.full(2, 6 * t)) + step(jnp.full(2, 3 * (t * jnp.e + 1 - t)))
            return jnp.sum(both * weights[: both.size])

        slope = jax.grad(exact)(0.3)
        np.testing.assert_allclose(
            value_and_derivatives(f, 0.3), [exact(0.3), slope, slope], rtol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_top_k_mixes_the_axis_it_is_told(axis):
    w = jnp.array([[1.0, 10.0], [3.0, 7.0]])

    def f(t):
        a = ppgen.draw(dist.Bernoulli(jnp.full((2, 2), t)), grad=Enumerate()) * 1.0
        return jnp.sum(jax.lax.top_k(a, 2, axis=axis)[0] * w)

    def exact(t):
        largest, smallest = 2 * t - t**2, t**2
        first, second = (w[0], w[1]) if axis == 0 else (w[:, 0], w[:, 1])
        return jnp.sum(first) * largest + jnp.sum(second) * smallest

    slope = jax.grad(exact)(0.3)
    np.testing.assert_allclose(value_and_derivatives(f, 0.3), [exact(0.3), slope, slope], rtol=1e-5)


INTERVALS = [(0, 1), (5, 6), (-6, -5), (12, 13), (-1, 3), (-3, 1), (0, 0.001), (-1e-3, 1e-3)]
INTERVALS += [(5, 5.019), (5, 5.021), (4, np.inf), (-np.inf, -20), (-np.inf, 3), (30, 31)]


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("interval", INTERVALS)
def test_the_mass_of_an_interval_in_single_precision(interval):
    a, b = (np.float64(np.float32(x)) for x in interval)
    low, high = (-b, -a) if a + b > 0 else (a, b)
    upper = special.log_ndtr(high)
    exact = upper + np.log(-np.expm1(special.log_ndtr(low) - upper))
    density = [np.exp(-0.5 * x**2 - exact) / np.sqrt(2 * np.pi) for x in (a, b)]
    found = log_normal_mass(jnp.float32(a), jnp.float32(b))
    slopes = jax.grad(log_normal_mass, (0, 1))(jnp.float32(a), jnp.float32(b))
    np.testing.assert_allclose(found, exact, rtol=2e-6, atol=3e-5)
    np.testing.assert_allclose(slopes, [-density[0], density[1]], rtol=2e-3, atol=1e-6)


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("alone", [True, False], ids=["of the guide", "of both"])
@pytest.mark.parametrize("particles", [1, 2])
def test_a_draw_that_is_impossible_has_no_weight_in_a_bound(alone, particles):
    """An enumerated guide looks at a class that it never draws, which the model may have or not."""
    prior = jnp.array([0.3 if alone else 0.0, 0.2, 0.5])

    def model(t):
        z = numpyro.sample("z", dist.Categorical(prior / prior.sum()))
        numpyro.sample("x", dist.Normal(1.0 * z, t), obs=0.7)

    def guide(t):
        logits = jnp.where(ALLOWED, t * jnp.arange(3.0), -jnp.inf)
        numpyro.sample("z", dist.Categorical(logits=logits), infer={"grad": Enumerate()})

    def log_weights(t, z):
        log_q = jax.nn.log_softmax(t * jnp.arange(1.0, 3.0))[z - 1]
        return jnp.log(prior / prior.sum())[z] + dist.Normal(1.0 * z, t).log_prob(
            0.7
        ) - log_q, log_q

    def exact(f):
        def total(t):
            runs = jnp.array(list(itertools.product((1, 2), repeat=particles)))
            log_w, log_q = log_weights(t, runs)
            return jnp.sum(jnp.exp(log_q.sum(1)) * jax.vmap(f)(log_w))

        return jax.value_and_grad(total)(0.4)

    def mean_exp(log_w):
        return jax.nn.logsumexp(log_w) - jnp.log(particles)

    bounds = {
        iwelbo(model, guide, particles=particles): mean_exp,
        renyi(model, guide, alpha=0.5, particles=particles): lambda w: 2 * mean_exp(w / 2),
        cubo(model, guide, particles=particles): lambda w: mean_exp(2 * w) / 2,
        tvo(model, guide, particles=particles, temperatures=[0.0]): jnp.mean,
    }
    for bound, of_log_weights in bounds.items():
        run = jax.value_and_grad(ppgen.expectation(bound), 1)
        np.testing.assert_allclose(run(KEY, 0.4), exact(of_log_weights), rtol=1e-4)


def test_one_weight_is_no_exponential_of_a_minibatch():
    """A plate around some sites: its log weight is right on average, its exponential is not."""
    xs = jnp.array([0.3, -1.0, 2.0, 0.1])

    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", 4, subsample_size=2) as i:
            numpyro.sample("x", dist.Normal(z, 1.0), obs=xs[i])

    def guide():
        numpyro.sample("z", dist.Normal(0.2, 0.7))

    with pytest.raises(ppgen.errors.SiteError, match="'data' is subsampled"):
        ppgen.seed(ppgen.importance(model, guide))(KEY)
    with pytest.raises(ppgen.errors.SiteError, match="'data' is subsampled"):
        ppgen.seed(ppgen.importance(model, guide, particles=2, linear=True))(KEY)
    keys = jax.random.split(KEY, 20_000)
    found = [
        np.asarray(jax.jit(jax.vmap(ppgen.expectation(bound)))(keys))
        for bound in (elbo(model, guide), iwelbo(model, guide, particles=1))
    ]
    error = (found[0].var() / len(keys) + found[1].var() / len(keys)) ** 0.5
    assert abs(found[0].mean() - found[1].mean()) < 5 * error
