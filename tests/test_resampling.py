"""The laws of ancestors: frequencies, exact densities, and gradients against enumeration."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.inference import (
    MultinomialResampling,
    ResidualResampling,
    SystematicResampling,
    WithoutScore,
    draw_ancestors,
)
from ppgen.testing import assert_unbiased

LAWS = {
    "multinomial": MultinomialResampling,
    "systematic": SystematicResampling,
    "residual": ResidualResampling,
}
WEIGHTS = {
    "uneven": [0.5, 0.2, 0.3],
    "one is dead": [0.45, 0.0, 0.55],
    "one takes all": [0.0, 1.0, 0.0],
    "equal": [0.25, 0.25, 0.25, 0.25],
    "four": [0.05, 0.6, 0.15, 0.2],
}
DRAWS = 40_000
# Every comparison is within 5 standard errors: a false alarm has probability below 6e-7.
SIGMAS = 5.0

each_law = pytest.mark.parametrize("scheme", LAWS)


def vectors(k):
    return jnp.array(list(itertools.product(range(k), repeat=k)))


@pytest.mark.sweep(of=3)
@each_law
@pytest.mark.parametrize("weights", WEIGHTS)
def test_frequencies_are_the_exact_probabilities(scheme, weights):
    weights = jnp.array(WEIGHTS[weights])
    k = len(weights)
    law = LAWS[scheme](jnp.log(weights))
    probs = np.asarray(jnp.exp(law.log_prob(vectors(k))), np.float64)
    np.testing.assert_allclose(probs.sum(), 1.0, atol=2e-6)
    drawn = np.asarray(law.sample(jax.random.key(1), (DRAWS,)))
    codes = drawn @ (k ** np.arange(k)[::-1])
    found = np.bincount(codes, minlength=k**k) / DRAWS
    error = np.sqrt(probs * (1 - probs) / DRAWS)
    assert np.all(np.abs(found - probs) <= SIGMAS * error + 2e-6)


@pytest.mark.sweep(of=3)
@each_law
@pytest.mark.parametrize("weights", WEIGHTS)
def test_particles_have_their_share_of_children(scheme, weights):
    """Exactly: the mean over all ancestor vectors."""
    weights = np.array(WEIGHTS[weights])
    k = len(weights)
    probs = np.asarray(jnp.exp(LAWS[scheme](jnp.log(weights)).log_prob(vectors(k))))
    children = (np.asarray(vectors(k))[..., None] == np.arange(k)).sum(1)
    np.testing.assert_allclose(probs @ children, k * weights, atol=3e-6)
    if scheme != "multinomial":
        rounded = np.floor(k * weights * (1 + 1e-6))
        likely = children[probs > 1e-5]
        assert np.all(likely >= rounded)
    if scheme == "systematic":
        assert np.all(likely <= np.ceil(k * weights - 1e-5))


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("k", [2, 64, 5000])
@each_law
def test_what_is_drawn_has_a_density(scheme, k):
    """Whatever rounding does to the cumulated weights of many particles."""
    log_weights = 3 * jax.random.normal(jax.random.key(2), (k,))
    law = LAWS[scheme](log_weights)
    drawn = jax.jit(lambda key: law.sample(key, (20,)))(jax.random.key(3))
    assert drawn.shape == (20, k)
    assert drawn.min() >= 0 and drawn.max() < k
    assert np.all(np.isfinite(law.log_prob(drawn)))
    gradient = jax.grad(lambda w: LAWS[scheme](w).log_prob(drawn).sum())(log_weights)
    assert np.all(np.isfinite(gradient))


def cost(chosen, points):
    """Mixes all ancestors, so that their joint law matters."""
    return jnp.sin(points[chosen] @ jnp.array([1.0, -0.7, 0.4])) + points[chosen[0]] ** 2


POINTS = jnp.array([0.3, -1.1, 1.7])
THETA = jnp.array([0.4, -0.3, 0.2])


def exact_cost(scheme):
    def value(theta):
        log_probs = LAWS[scheme](theta).log_prob(vectors(3))
        return jnp.sum(jnp.exp(log_probs) * jax.vmap(lambda a: cost(a, POINTS))(vectors(3)))

    return value


def drawn_cost(scheme, **options):
    return lambda theta: cost(draw_ancestors(theta, scheme, **options), POINTS)


@pytest.mark.sweep(of=3)
@each_law
def test_the_score_gives_the_gradient_by_enumeration(scheme):
    assert_unbiased(drawn_cost(scheme), THETA, exact=exact_cost(scheme), samples=40_000, order=1)


@each_law
def test_enumeration_by_the_language_agrees(scheme):
    """Two implementations of the sum over ancestors, neither of which draws."""
    theta = THETA
    from_oracle = jax.value_and_grad(ppgen.testing.exact(drawn_cost(scheme)))(theta)
    by_hand = jax.value_and_grad(exact_cost(scheme))(theta)
    for a, b in zip(from_oracle, by_hand, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("scheme", ["multinomial", "systematic"])
def test_weights_that_move_with_a_pathwise_value(scheme):
    """The kinks of the systematic law are integrated over: no bias."""

    def f(theta):
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x")
        return cost(draw_ancestors(THETA + x * jnp.array([1.0, -1.0, 0.5]), scheme), POINTS)

    def exact(theta):
        x, w = np.polynomial.hermite_e.hermegauss(200)
        values = jax.vmap(exact_cost(scheme))(
            THETA + (theta + x)[:, None] * jnp.array([1.0, -1.0, 0.5])
        )
        return values @ (w / w.sum())

    theta, step = 0.3, 0.05
    slope = (exact(theta + step) - exact(theta - step)) / (2 * step)
    gradient = jax.grad(ppgen.expectation(f, draws=4), argnums=1)
    found = jax.jit(jax.vmap(lambda key: gradient(key, theta)))(
        jax.random.split(jax.random.key(0), DRAWS)
    )
    error = found.std() / DRAWS**0.5
    # The quadrature of a function with kinks is good to about 1e-3.
    assert abs(found.mean() - slope) < SIGMAS * error + 5e-3
    assert error < 0.02


def test_residual_resampling_of_pathwise_weights_is_refused():
    def f(theta):
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x")
        return cost(draw_ancestors(x * THETA, "residual"), POINTS)

    with pytest.raises(ppgen.PpgenError, match="floor"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


@each_law
def test_the_usual_practice_is_biased_and_has_to_be_asked_for(scheme):
    f = drawn_cost(scheme, gradient="biased")
    with pytest.raises(ppgen.PpgenError, match="biased"):
        ppgen.expectation(f)(jax.random.key(0), THETA)
    gradient = jax.grad(ppgen.expectation(f, allow_biased=True), argnums=1)
    # All that depends on the weights here are the ancestors.
    np.testing.assert_array_equal(gradient(jax.random.key(0), THETA), 0.0)
    assert np.abs(jax.grad(exact_cost(scheme))(THETA)).max() > 0.05
    assert WithoutScore().biased


@each_law
@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_resampling_can_be_left_out(scheme, flag):
    def f(theta):
        return cost(draw_ancestors(theta, scheme, flag=jnp.array(flag)), POINTS)

    def exact(theta):
        return exact_cost(scheme)(theta) if flag else cost(jnp.arange(3), POINTS) + 0 * theta[0]

    assert_unbiased(f, THETA, exact=exact, order=1, detect=np.inf)


@each_law
def test_batches_of_weights(scheme):
    logits = jax.random.normal(jax.random.key(4), (5, 3))
    law = LAWS[scheme](logits)
    drawn = law.sample(jax.random.key(5), (7,))
    assert drawn.shape == (7, 5, 3)
    each = jax.vmap(lambda w, a: LAWS[scheme](w).log_prob(a), (0, 1), 1)(logits, drawn)
    np.testing.assert_allclose(law.log_prob(drawn), each, rtol=1e-5)


@pytest.mark.parametrize("options", [{"scheme": "stratified"}, {"gradient": "none"}])
def test_names_without_meaning(options):
    with pytest.raises(ValueError, match="must be one of"):
        draw_ancestors(THETA, **options)
