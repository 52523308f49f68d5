"""Estimators picked by rule, and what is said of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.testing import assert_unbiased, exact

KEY = jax.random.key(0)


def picks(f, *args, draws=1):
    report = ppgen.check(ppgen.with_estimators(f, "auto"), draws=draws)(*args)
    assert report.ok, report.verdict
    return {c.name: c.estimator for c in report.choices}, report


def one(distribution, cost):
    def f(theta):
        return jnp.sum(cost(numpyro.sample("x", distribution(theta))))

    return f


MANY = jnp.ones(64)
CASES = {
    "pathwise": (lambda t: dist.Normal(t, 1.0), jnp.square, "Reparameterize"),
    "a jump": (lambda t: dist.Normal(t, 1.0), lambda x: x > 0, "MeasureValued"),
    "a jump of a rare family": (lambda t: dist.Gumbel(t, 1.0), lambda x: x > 0, "ScoreFunction"),
    "a flip": (lambda t: dist.Bernoulli(logits=t), jnp.square, "Enumerate"),
    "independent flips": (lambda t: dist.Bernoulli(logits=t * MANY), jnp.square, "Enumerate"),
    "flips": (lambda t: dist.Bernoulli(logits=t * MANY), lambda x: x.sum() ** 2, "DisARM"),
    "counts": (lambda t: dist.Poisson(jnp.exp(t)), jnp.cos, "MeasureValued"),
    "many counts": (
        lambda t: dist.Poisson(jnp.exp(t) * jnp.ones(100)),
        lambda x: jnp.cos(x.sum()),
        "ScoreFunction",
    ),
    "many kinds": (
        lambda t: dist.Categorical(logits=t * jnp.ones((40, 5))),
        lambda x: jnp.cos(x.sum()),
        "ScoreFunction",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    make, cost, expected = CASES[name]
    found, report = picks(one(make, cost), 0.3)
    assert found == {"x": expected}
    (text,) = report.picks
    assert text.startswith(f"x: {expected}, because ")
    assert text in str(report).replace("\n    ", " ")


def test_the_picks_are_unbiased_together():
    def f(theta):
        k = numpyro.sample("k", dist.Categorical(logits=theta[0] * jnp.arange(3.0)))
        with numpyro.plate("N", 2):
            b = numpyro.sample("b", dist.Bernoulli(logits=theta[1] * k))
        x = numpyro.sample("x", dist.Normal(theta[0] + b.sum(), 1.0))
        y = numpyro.sample("y", dist.Normal(theta[1], 1.0))
        return jnp.sin(x) + (y > 0.2) * b[0] + k

    auto = ppgen.with_estimators(f, "auto")
    assert_unbiased(
        auto, jnp.array([0.4, -0.3]), order=1, exact=exact(f, nodes=160), samples=20_000
    )


def test_enumeration_that_is_too_large_together_is_not_picked_everywhere():
    def f(theta):
        total = 0.0
        for i in range(12):
            total += numpyro.sample(f"k{i}", dist.Categorical(logits=theta * jnp.arange(8.0)))
        return jnp.sin(total)

    found, report = picks(f, 0.1)
    assert set(found.values()) == {"Enumerate", "MeasureValued"}
    assert any("enumerating it with the others is too large" in text for text in report.picks)


def test_loops():
    def chain(theta, length):
        def step(z, t):
            z = numpyro.sample("z", dist.Categorical(logits=theta * jnp.arange(4.0) * (z - t)))
            return z, jnp.sin(z * 1.0)

        from numpyro.contrib.control_flow import scan

        return jnp.sum(scan(step, 0, jnp.arange(float(length)))[1])

    assert picks(lambda t: chain(t, 300), 0.2)[0] == {"z": "Enumerate"}


def test_draws_change_the_baseline():
    make, cost, _ = CASES["many kinds"]
    assert "no baseline" in picks(one(make, cost), 0.3)[1].picks[0]
    assert "the other draws as baseline" in picks(one(make, cost), 0.3, draws=4)[1].picks[0]


def test_some_sites_only():
    def f(theta):
        a = numpyro.sample("a", dist.Bernoulli(logits=theta))
        return a * numpyro.sample("b", dist.Bernoulli(logits=theta))

    chosen = ppgen.with_estimators(f, {"a": "auto", "b": ppgen.ScoreFunction()})
    report = ppgen.check(chosen)(0.3)
    assert [c.estimator for c in report.choices] == ["Enumerate", "ScoreFunction"]
    assert len(report.picks) == 1


def test_seed_runs_a_program_with_automatic_estimators():
    f = ppgen.with_estimators(one(lambda t: dist.Normal(t, 1.0), jnp.square), "auto")
    assert ppgen.seed(f)(KEY, 0.3) >= 0


def test_many_draws_are_baselines_of_flips():
    """An antithetic pair is a good baseline; so are many draws, and they cost no second run."""
    make, cost, _ = CASES["flips"]
    for draws, expected in ((2, "DisARM"), (8, "ScoreFunction")):
        found, report = picks(one(make, cost), 0.3, draws=draws)
        assert found == {"x": expected}
    assert "8 draws are good baselines" in str(report).replace("\n    ", " ")
