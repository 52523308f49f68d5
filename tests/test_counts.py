"""Finite supports whose size is in a parameter: right where it is known, refused with advice."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import Enumerate, ScoreFunction, UnorderedSet
from ppgen.inference import elbo

KEY = jax.random.key(0)
AT = 0.3


def cost(x):
    return (x - 0.3) ** 3


def binomial(n, p):
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def mean_of(probs, first=0):
    return sum(p * cost(first + k) for k, p in enumerate(probs))


def beta_binomial(n, a, b):
    choose = [math.comb(n, k) for k in range(n + 1)]
    beta = jax.scipy.special.beta
    return [c * beta(k + a, n - k + b) / beta(a, b) for k, c in enumerate(choose)]


FAMILIES = {
    "Binomial": (lambda n, t: dist.Binomial(n, t), lambda n, t: mean_of(binomial(n, t))),
    "logits": (
        lambda n, t: dist.Binomial(n, logits=t),
        lambda n, t: mean_of(binomial(n, jax.nn.sigmoid(t))),
    ),
    "BetaBinomial": (
        lambda n, t: dist.BetaBinomial(1.0 + t, 2.0, n),
        lambda n, t: mean_of(beta_binomial(n, 1.0 + t, 2.0)),
    ),
    "to n": (
        lambda n, t: dist.DiscreteUniform(0, n),
        lambda n, t: mean_of([1 / (n + 1)] * (n + 1)),
    ),
    "from n": (
        lambda n, t: dist.DiscreteUniform(5 * n, 5 * n + 1),
        lambda n, t: mean_of([0.5, 0.5], 5 * n),
    ),
}


def same(f, exact, t=AT, **options):
    found = jax.value_and_grad(ppgen.expectation(f, **options), 1)(KEY, t)
    np.testing.assert_allclose(found, jax.value_and_grad(exact)(t), rtol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grad", [Enumerate(), UnorderedSet(size=10)])
def test_a_count_that_depends_on_an_enumerated_choice(family, grad):
    make, mean = FAMILIES[family]

    def f(t):
        n = 1 + ppgen.draw(dist.Bernoulli(t), grad=Enumerate())
        return cost(ppgen.draw(make(n, t), grad=grad))

    same(f, lambda t: t * mean(2, t) + (1 - t) * mean(1, t))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [np.array, jnp.array])
def test_counts_that_differ_along_a_batch(family, kind):
    make, mean = FAMILIES[family]

    def f(t):
        return jnp.sum(cost(ppgen.draw(make(kind([0, 1, 3]), t), grad=Enumerate()))) * t

    same(f, lambda t: t * sum(mean(n, t) for n in (0, 1, 3)))


def test_an_empty_count_is_zero():
    def f(t):
        return ppgen.draw(dist.Binomial(0, t), grad=Enumerate()) + 3 * t

    same(f, lambda t: 3 * t)


def test_counts_in_model_and_guide():
    def model(t):
        n = numpyro.sample("n", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("k", dist.Binomial(n, 0.4))

    def guide(t):
        n = numpyro.sample(
            "n", dist.Categorical(jnp.array([t, 0.5 - t, 0.5])), infer={"grad": Enumerate()}
        )
        numpyro.sample("k", dist.Binomial(n, t), infer={"grad": Enumerate()})

    def exact(t):
        total = 0.0
        for p, q, n in zip((0.2, 0.3, 0.5), (t, 0.5 - t, 0.5), range(3), strict=True):
            for a, b in zip(binomial(n, 0.4), binomial(n, t), strict=True):
                total += q * b * (jnp.log(p * a) - jnp.log(q * b))
        return total

    same(elbo(model, guide), exact)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_count_that_is_not_known_is_refused_and_the_advice_is_right(family):
    make, mean = FAMILIES[family]

    def f(t, grad):
        n = 1 + ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction())
        return cost(ppgen.draw(make(n, t), grad=grad))

    with pytest.raises(ppgen.errors.EstimatorError, match="how many values") as error:
        jax.jit(ppgen.expectation(lambda t: f(t, Enumerate())))(KEY, AT)
    assert error.value.where.endswith(f"test_counts.py:{f.__code__.co_firstlineno + 2}")
    assert "ScoreFunction()" in error.value.instead and "jnp.where(k <= n" in error.value.instead

    def advised(t):
        n = 1 + ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction())
        k = jnp.arange(12)  # all values that it ever has, those beyond with probability zero
        inside = make(n, t).support(k)
        log_probs = make(n, t).log_prob(jnp.where(inside, k, n))
        logits = jnp.where(inside, log_probs, -jnp.inf)
        return cost(ppgen.draw(dist.Categorical(logits=logits), grad=Enumerate()))

    wanted = jax.value_and_grad(lambda t: t * mean(2, t) + (1 - t) * mean(1, t))(AT)
    for program in (functools.partial(f, grad=ScoreFunction()), advised):
        run = jax.value_and_grad(ppgen.expectation(program, draws=4), 1)
        found = jax.jit(jax.vmap(run, (0, None)))(jax.random.split(KEY, 6000), AT)
        for got, exact in zip(map(np.asarray, found), wanted, strict=True):
            assert abs(got.mean() - float(exact)) < 5 * got.std() / len(got) ** 0.5


@pytest.mark.parametrize("count", [lambda n: n, jnp.asarray], ids=["python", "array"])
def test_an_argument_is_not_known_within_jit_and_is_where_it_is_a_number(count):
    def f(t, n):
        return cost(ppgen.draw(dist.Binomial(n, t), grad=Enumerate()))

    same(lambda t: f(t, 2), lambda t: mean_of(binomial(2, t)))
    with pytest.raises(ppgen.errors.EstimatorError, match="how many values"):
        jax.jit(ppgen.expectation(f))(KEY, AT, count(2))
