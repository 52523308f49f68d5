"""Several draws: each is a baseline for the others, whatever is summed over after it.

A choice with a score function decides with what probabilities a later one takes its values. The
values of that are summed over, so that their costs are the same in all draws: a baseline for each
value would take the whole cost away, and the gradient with it.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import Enumerate, MeasureValued, ScoreFunction, UnorderedSet

AT = 0.3
KEYS = 4000
COSTS = jnp.array([0.2, 2.0, -1.0])
GIVEN = jnp.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
AFTER = {
    "enumerated": Enumerate(),
    "unordered": UnorderedSet(size=2),
    "measure_valued": MeasureValued(),
    "scored": ScoreFunction(),
}


def agrees(f, exact, *, draws=4):
    """Whether value and slope are those of `exact`, within five standard errors."""
    run = jax.value_and_grad(ppgen.expectation(f, draws=draws), 1)
    found = jax.jit(jax.vmap(run, (0, None)))(jax.random.split(jax.random.key(3), KEYS), AT)
    for got, wanted in zip(found, jax.value_and_grad(exact)(AT), strict=True):
        got = np.asarray(got, np.float64)
        assert abs(got.mean() - float(wanted)) < 5 * got.std() / KEYS**0.5 + 1e-5


@pytest.mark.parametrize("after", AFTER)
def test_one_choice_after_another(after):
    def f(t):
        first = ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction())
        return COSTS[ppgen.draw(dist.Categorical(GIVEN[first]), grad=AFTER[after])]

    def exact(t):
        return jnp.array([1 - t, t]) @ GIVEN @ COSTS

    agrees(f, exact)


@pytest.mark.parametrize("between", AFTER)
def test_what_is_between_the_two_hands_it_on(between):
    """The weights of the last one depend on the first one through the second alone."""

    def f(t):
        first = ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction())
        second = ppgen.draw(dist.Categorical(GIVEN[first]), grad=AFTER[between])
        probs = jnp.array([0.1, 0.8, 0.4])[second]
        return ppgen.draw(dist.Bernoulli(probs), grad=Enumerate()) * t

    def exact(t):
        return t * jnp.array([1 - t, t]) @ GIVEN @ jnp.array([0.1, 0.8, 0.4])

    agrees(f, exact)


@pytest.mark.parametrize("n", [1, 3])
def test_in_a_batch_and_after_what_is_summed_over(n):
    """One is summed over before, n after; the costs are sums over the elements and products."""
    scale = jnp.arange(1.0, n + 1)

    def f(t):
        before = ppgen.draw(dist.Bernoulli(t), grad=Enumerate())
        first = ppgen.draw(dist.Bernoulli(jnp.where(before == 1, t, 0.6)), grad=ScoreFunction())
        probs = jax.nn.sigmoid((first - before * t) * scale)
        after = ppgen.draw(dist.Bernoulli(probs), grad=Enumerate())
        return jnp.sum(after * scale) + jnp.prod(after + 0.5) * first

    def exact(t):
        total = 0.0
        for before, first in itertools.product((0, 1), repeat=2):
            p = t if before else 0.6
            weight = (t if before else 1 - t) * (p if first else 1 - p)
            probs = jax.nn.sigmoid((first - before * t) * scale)
            total += weight * (jnp.sum(probs * scale) + jnp.prod(probs + 0.5) * first)
        return total

    agrees(f, exact)


def test_in_a_scan():
    def f(t):
        def step(state, _):
            first = ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction())
            probs = jnp.where((first == 1) ^ (state == 1), 0.2, 0.8)
            state = ppgen.draw(dist.Bernoulli(probs), grad=Enumerate())
            return state, 1.0 * state

        return jnp.sum(jax.lax.scan(step, jnp.int32(0), None, length=2)[1])

    def exact(t):
        one, other = t * 0.2 + (1 - t) * 0.8, t * 0.8 + (1 - t) * 0.2
        return one + one * other + (1 - one) * one

    agrees(f, exact)
