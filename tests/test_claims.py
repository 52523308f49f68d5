"""The page "Is it unbiased?": it is whole, and what it says of objectives is so."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import test_bounds as flips
from monte_carlo import assert_close_in_mean, estimates

import ppgen
import ppgen.inference as inference
from ppgen.claims import Claim, claim_of, claims
from ppgen.testing import ESTIMATORS, exact

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
from unbiased import estimators, is_objective, page, public  # noqa: E402

OBJECTIVES = {name.split(".")[-1]: value for name, value in public() if is_objective(value)}
CLAIMED = {name: claim for name, value in public() if (claim := claim_of(value)) is not None}

# Docstrings that emphasise such a word of something else than an expectation: of rounding, of the
# objective that is given, of a part of what is returned, of a field, of a promise that is broken.
OF_OTHERS = {
    "ppgen.assume_continuous",
    "ppgen.inference.classifier_free",
    "ppgen.inference.fit",
    "ppgen.inference.as_numpyro_elbo",
    "ppgen.inference.draw_ancestors",
    "ppgen.inference.retrain",
    "ppgen.inference.fit_rewards",
}


def emphasised(value):
    """The words in single asterisks, code aside."""
    text = re.sub(r"`[^`]*`", "", inspect.getdoc(value) or "")
    return " ".join(re.findall(r"\*([^*]+)\*", text)).lower()


# --- the page is whole, and says what the docstrings say ------------------------------------------


def test_every_objective_and_estimator_is_on_the_page():
    assert len(OBJECTIVES) > 20 and len(estimators()) > 10
    text = page()
    for name in OBJECTIVES:
        assert f"{{py:func}}`ppgen.inference.{name}` |" in text, f"{name} declares nothing"
    for name in estimators():
        assert f"{{py:class}}`{name}` |" in text


def test_a_docstring_that_claims_is_declared():
    words = re.compile(r"unbiased|biased|bound|heuristic")
    found = {
        name
        for name, value in public()
        if inspect.isfunction(value) and words.search(emphasised(value))
    }
    assert found - OF_OTHERS <= CLAIMED.keys()
    assert OF_OTHERS <= found


@pytest.mark.parametrize("name", CLAIMED)
def test_the_docstring_says_the_same(name):
    claim, words = CLAIMED[name], emphasised(dict(public())[name])
    assert claim.value in words
    assert claim.gradient in (None, claim.value) or claim.gradient in words


@pytest.mark.parametrize("name", estimators())
def test_estimators_say_the_same(name):
    cls = estimators()[name]
    biased = cls.biased is True
    assert ("biased" in emphasised(cls).replace("unbiased", "")) == biased
    # What is not biased faces the laws, by itself or inside of the estimator that it wraps.
    assert biased or cls in {type(e) for e in ESTIMATORS.values()} | {ppgen.ControlVariate}


def test_a_decorator_changes_nothing_but_the_claim():
    def f():
        return 3

    assert claims("exact", "three")(f) is f
    assert claim_of(f) == Claim("exact", "three", None, "")
    assert claim_of(len) is None


# --- what it says is so: on two flips, by enumeration ---------------------------------------------

T, model, guide = flips.T, flips.model, flips.guide
PAIRS = np.array(list(itertools.product((0.0, 1.0), repeat=2)))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def log_evidence(t):
    return jax.nn.logsumexp(flips.log_joint(t)[0])


def expected_under_guide(f):
    """Of a function of both flips and of log p, log q."""

    def value(t):
        log_p, log_q = flips.log_joint(t)
        return jnp.sum(jnp.exp(log_q) * jax.vmap(f)(PAIRS, log_p, log_q))

    return value


def cross_entropy(t):
    log_p, log_q = flips.log_joint(t)
    return -jnp.sum(jax.nn.softmax(jax.lax.stop_gradient(log_p)) * log_q)


def drawn(t):
    """The guide as a program that returns its choices."""
    a = numpyro.sample("a", dist.Bernoulli(logits=t[0]))
    b = numpyro.sample("b", dist.Bernoulli(logits=t[1] - a))
    return jnp.stack([a, b]).astype(float)


def fixed(t):
    """A law of the same flips."""
    a = numpyro.sample("a", dist.Bernoulli(0.4))
    b = numpyro.sample("b", dist.Bernoulli(0.6))
    return jnp.stack([a, b]).astype(float)


def log_fixed(pair):
    return jnp.sum(
        jnp.where(pair == 1, jnp.log(jnp.array([0.4, 0.6])), jnp.log(jnp.array([0.6, 0.4])))
    )


def wide(t):
    """A guide that draws a flip more than the model has."""
    u = numpyro.sample("u", dist.Bernoulli(logits=0.3 + t[0]))
    a = numpyro.sample("a", dist.Bernoulli(logits=t[0] + u))
    numpyro.sample("b", dist.Bernoulli(logits=t[1] - a))


def reward(pair):
    return pair[0] - 0.5 * pair[1] + pair[0] * pair[1]


def energy(pair):
    return -reward(pair)


def log_normaliser(t):
    return -jax.nn.logsumexp(jax.vmap(log_fixed)(PAIRS) + jax.vmap(reward)(PAIRS))


def dream(t):
    numpyro.sample("a", dist.Bernoulli(0.3))
    numpyro.sample("b", dist.Bernoulli(0.4))


def dreamt(t, b):
    numpyro.sample("a", dist.Bernoulli(logits=t[0] + t[1] * b))


def dream_cross_entropy(t):
    total = 0.0
    for a, b in itertools.product((0, 1), repeat=2):
        p = (0.3 if a else 0.7) * (0.4 if b else 0.6)
        total -= p * jax.nn.log_sigmoid((1 if a else -1) * (t[0] + t[1] * b))
    return total


regularised = inference.kl_regularized_reward(drawn, fixed, reward, beta=0.7)
tilted_kl = inference.kl_to_tilted(drawn, fixed, energy)


def flips_dag():
    """The two flips as a graph of strings, and the guide as a policy on it."""

    def forward(t, s):
        logit = jnp.where(s.size == 0, t[0], t[1] - s.tokens[0])
        return jnp.stack([0 * logit, logit])

    return inference.Strings(2, 2), inference.Policy(forward, log_flow=lambda t, s: t[2])


def string_energy(s):
    return -reward(s.tokens.astype(float))


def trajectory_imbalance(t):
    """Walks are drawn by the policy, which is held fixed."""
    log_q = flips.log_joint(t)[1]
    squares = (t[2] + log_q - jax.vmap(reward)(PAIRS)) ** 2
    return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_q)) * squares)


def two_ordered(t):
    """Of two walks, those whose reward is not the lower one should be likely."""
    log_q, rewards = flips.log_joint(t)[1], jax.vmap(reward)(PAIRS)
    total = 0.0
    for i, j in itertools.product(range(4), repeat=2):
        shares = jax.nn.log_softmax(jnp.stack([log_q[i], log_q[j]]))
        best = jnp.stack([rewards[i] >= rewards[j], rewards[j] >= rewards[i]])
        weight = jnp.exp(jax.lax.stop_gradient(log_q[i] + log_q[j]))
        total -= weight * jnp.sum(jnp.where(best, shares, 0.0)) / jnp.sum(best)
    return total


# By name: the objective; what the claim is of; and, where the gradient is claimed to be that of
# another function than `exact` makes of the objective (by its own draws), that function.
CASES = {
    "elbo": (inference.elbo(model, guide), log_evidence, None),
    "beta_elbo": (inference.beta_elbo(model, guide, beta=2.0), log_evidence, None),
    "iwelbo": (inference.iwelbo(model, guide, particles=2), log_evidence, None),
    "log_evidence": (
        inference.log_evidence(model, guide, levels=1),
        exact(inference.iwelbo(model, guide, particles=2)),
        None,
    ),
    "vimco": (
        inference.vimco(model, guide, particles=2),
        log_evidence,
        exact(inference.iwelbo(model, guide, particles=2)),
    ),
    "sticking_the_landing": (
        inference.sticking_the_landing(model, guide),
        log_evidence,
        exact(inference.elbo(model, guide)),
    ),
    "hvi": (inference.hvi(model, wide, ["a", "b"]), log_evidence, None),
    "iwhvi": (inference.iwhvi(model, wide, ["a", "b"], inner=2), log_evidence, None),
    "diwhvi": (
        inference.diwhvi(model, wide, ["a", "b"], particles=2, inner=1),
        log_evidence,
        None,
    ),
    "renyi": (inference.renyi(model, guide, alpha=0.5, particles=2), log_evidence, None),
    "cubo": (inference.cubo(model, guide, particles=2), log_evidence, None),
    "tvo": (inference.tvo(model, guide, particles=2), log_evidence, None),
    "f_divergence": (
        inference.f_divergence(model, guide, lambda log_u: jnp.expm1(log_u) ** 2, log_scale=-1.0),
        expected_under_guide(lambda pair, p, q: jnp.expm1(p - q + 1.0) ** 2),
        None,
    ),
    "forward_kl": (
        inference.forward_kl(model, guide, particles=2),
        cross_entropy,
        cross_entropy,
    ),
    "reweighted_wake_sleep": (
        inference.reweighted_wake_sleep(model, guide, particles=2),
        log_evidence,
        exact(inference.iwelbo(model, guide, particles=2)),
    ),
    "sleep": (
        inference.sleep(
            dream, dreamt, observed=["b"], guide_args=lambda choices, t: (t, choices["b"])
        ),
        dream_cross_entropy,
        None,
    ),
    "expected_reward": (
        inference.expected_reward(drawn, reward),
        expected_under_guide(lambda pair, p, q: reward(pair)),
        None,
    ),
    "kl_regularized_reward": (
        regularised,
        expected_under_guide(lambda pair, p, q: reward(pair) - 0.7 * (q - log_fixed(pair))),
        None,
    ),
    "per_batch": (
        lambda t: inference.per_batch(lambda t, w: w * inference.elbo(model, guide)(t))(
            t, jnp.array([0.5, 2.0])
        ),
        expected_under_guide(lambda pair, p, q: 1.25 * (p - q)),
        None,
    ),
    "kl_to_tilted": (tilted_kl, log_normaliser, None),
    "balance": (inference.balance(*flips_dag(), string_energy), trajectory_imbalance, None),
    "order_loss": (
        inference.order_loss(*flips_dag(), lambda s: -string_energy(s), batch=2),
        two_ordered,
        None,
    ),
    "lagrangian": (
        lambda t: inference.lagrangian(tilted_kl, drawn, lambda x: x[0], 0.3)(t[2], t),
        expected_under_guide(
            lambda pair, p, q: q - log_fixed(pair) - reward(pair) + T[2] * (pair[0] - 0.3)
        ),
        None,
    ),
    "dpo": (
        lambda t: inference.dpo(drawn, fixed, beta=0.5)({"a": 1, "b": 0}, {"a": 0, "b": 1}, t),
        lambda t: vote(flips.log_joint(t)[1]),
        None,
    ),
    "ddo": (
        lambda t: inference.ddo(drawn, fixed, alpha=2.0, beta=0.5)({"a": 1, "b": 0}, t),
        lambda t: discriminated(flips.log_joint(t)[1]),
        None,
    ),
}
# On other programs, in tests of their own.
ELSEWHERE = {
    "dreg": "test_bounds.test_doubly_reparameterised",
    "fivo": "test_smc.test_fivo_has_the_exact_value_and_gradient",
    "regress": "test_paths.test_regression_is_unbiased_whatever_times_are_drawn",
    "implicit_score_matching": "test_paths.test_score_matching_has_its_exact_value_and_gradient",
    "sliced_score_matching": "test_paths.test_score_matching_has_its_exact_value_and_gradient",
    "ddo_jensen": "test_preferences.test_ddo_by_bounds",
}


def vote(log_q):
    ratio = log_q - jax.vmap(log_fixed)(PAIRS)
    return jax.nn.softplus(-0.5 * (ratio[2] - ratio[1]))


def discriminated(log_q):
    log_p = jax.vmap(log_fixed)(PAIRS)
    ratio = log_q - log_p
    fake = jnp.sum(jnp.exp(log_p) * jax.nn.softplus(0.5 * ratio))
    return jax.nn.softplus(-0.5 * ratio[2]) + 2.0 * fake


def test_each_is_held_to_its_claim():
    assert CASES.keys() | ELSEWHERE.keys() == OBJECTIVES.keys()
    for test in ELSEWHERE.values():
        module, function = test.split(".")
        assert callable(getattr(import_module(module), function))


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", CASES)
def test_the_claim_of_the_value_is_so(name):
    objective, of, _ = CASES[name]
    mean, right = float(exact(objective)(T)), float(of(T))
    holds = {
        "unbiased": abs(mean - right) < 1e-9,
        "lower bound": mean < right - 1e-3,
        "upper bound": mean > right + 1e-3,
        "biased": abs(mean - right) > 1e-3,
        "heuristic": abs(mean - right) > 1e-3,
    }
    assert holds[claim_of(OBJECTIVES[name]).value], (mean, right)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", CASES)
def test_the_claim_of_the_gradient_is_so(name):
    """Of what `exact` makes of the objective; the score function is at work, with its noise."""
    objective, _, mean = CASES[name]
    right = jax.grad(mean or exact(objective))(T)
    value, gradient = estimates(ppgen.expectation(objective), T, samples=20_000)
    if claim_of(OBJECTIVES[name]).gradient == "unbiased":
        assert_close_in_mean(gradient, right, what="gradient", rtol=1e-9)
    else:
        with pytest.raises(AssertionError, match="gradient: estimate"):
            assert_close_in_mean(gradient, right, what="gradient", rtol=1e-9)
