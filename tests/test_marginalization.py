"""Marginalization models: programs, objectives against enumeration, and training."""

from __future__ import annotations

import itertools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from weights import stirred

import ppgen
from ppgen.inference import elbo, fit
from ppgen.models.cli import main
from ppgen.models.marginalization import (
    MaM,
    any_order,
    any_order_bound,
    consistency,
    importance_weighted_kl,
    inconsistency,
    log_marginal,
    published_kl,
    target,
    uniform_order,
)
from ppgen.models.marginalization.recipe import MarginalizationRecipe
from ppgen.models.marginalization.scores import (
    ancestral,
    independent_sites,
    log_conditionals,
    log_marginals,
    marginal_divergence,
    random_part,
    step_errors,
    subsets,
)
from ppgen.models.marginalization.training import (
    Chained,
    block_gibbs,
    fit_energy,
    fit_likelihood,
    persistent_chains,
)
from ppgen.models.parts.data import Ising, Molecules, all_strings
from ppgen.models.parts.networks import DualMLP, DualTorus, DualTransformer
from ppgen.models.parts.runs import each_of, fit_recipe
from ppgen.testing import assert_unbiased, exact

SITES = 2
X = all_strings(SITES, 2)


class Table(eqx.Module):
    """A number for each partly known vector, and logits: whatever a network could say."""

    log_p: jax.Array
    logits: jax.Array

    def __call__(self, seen):
        state = jnp.sum(3 ** jnp.arange(seen.shape[0]) * (seen @ jnp.array([1.0, 2.0])))
        return self.log_p[state.astype(int)], self.logits[state.astype(int)]


def random_model(seed=0, sites=SITES, scale=0.7):
    keys = jax.random.split(jax.random.key(seed))
    log_p = scale * jax.random.normal(keys[0], (3**sites,))
    return MaM(Table(log_p, scale * jax.random.normal(keys[1], (3**sites, sites, 2))), sites, 2)


def consistent_model(p):
    """The tables that belong to the probabilities `p` of all vectors."""
    sites = p.size.bit_length() - 1
    x = all_strings(sites, 2)
    log_p, logits = np.zeros(3**sites), np.zeros((3**sites, sites, 2))

    def mass(seen):
        agree = [all(s in (None, v) for s, v in zip(seen, row, strict=True)) for row in x]
        return np.log(p[agree].sum())

    for seen in itertools.product((None, 0, 1), repeat=sites):
        state = sum(3**i * (0 if s is None else 1 + s) for i, s in enumerate(seen))
        log_p[state] = mass(seen)
        for i in range(sites):
            logits[state, i] = [mass((*seen[:i], value, *seen[i + 1 :])) for value in (0, 1)]
    return MaM(Table(jnp.asarray(log_p), jnp.asarray(logits)), sites, 2)


def log_weight(x):
    return 0.6 * x[0] - 0.8 * x[1] + 1.1 * x[0] * x[1]


def log_p_phi(mam):
    """log p_φ(x | σ) of every order and vector, multiplied out by hand."""
    out = {}
    for order in itertools.permutations(range(mam.sites)):
        for x in itertools.product((0, 1), repeat=mam.sites):
            known, total = np.zeros(mam.sites, bool), 0.0
            for site in order:
                total += mam(jnp.array(x), jnp.array(known.copy()))[1][site, x[site]]
                known[site] = True
            out[order, x] = total
    return out


# --- programs -------------------------------------------------------------------------------------


def test_the_density_of_any_order_is_the_product_of_the_conditionals():
    mam = random_model(sites=3)
    by_hand = log_p_phi(mam)
    orders, x = (jnp.array(part) for part in zip(*by_hand, strict=True))

    @jax.jit
    @jax.vmap
    def both(order, x):
        drawn = ppgen.log_density(any_order)({"order": order, "values": x[order]}, mam)
        return drawn, ppgen.log_density(any_order)({"order": order}, mam, x)

    expected = np.array(list(by_hand.values())) - np.log(6)
    for log_density in both(orders, x):
        np.testing.assert_allclose(log_density, expected, rtol=1e-5)
    np.testing.assert_allclose(np.exp(expected).sum(), 1.0, rtol=1e-5)


def test_draws_have_the_probabilities_of_the_conditionals():
    mam = random_model(1)
    expected = np.zeros(4)
    for (_, x), log_p in log_p_phi(mam).items():
        expected[2 * x[0] + x[1]] += np.exp(log_p) / 2
    draws = np.asarray(ancestral(mam, 8000, key=jax.random.key(0)).x) @ [2, 1]
    counts = np.bincount(draws, minlength=4)
    assert (np.abs(counts - 8000 * expected) < 5 * np.sqrt(8000 * expected)).all()


def test_a_move_leaves_the_rest_and_keeps_a_consistent_distribution():
    p = np.random.RandomState(0).dirichlet(np.ones(8))
    mam, x = consistent_model(p), all_strings(3, 2)
    start = x[np.random.RandomState(1).choice(8, 8000, p=p)]
    moved = np.asarray(block_gibbs(jax.random.key(0), mam, jnp.asarray(start), erased=2))
    assert ((moved != start).sum(1) <= 2).all() and (moved != start).any(0).all()
    counts = np.bincount(moved @ [4, 2, 1], minlength=8)
    assert (np.abs(counts - 8000 * p) < 5 * np.sqrt(8000 * p) + 1).all()


def test_a_corrected_move_keeps_the_target_whatever_the_conditionals_are():
    mam, x = random_model(8, sites=3), all_strings(3, 2)
    p = np.random.RandomState(0).dirichlet(np.ones(8))
    start = jnp.asarray(x[np.random.RandomState(1).choice(8, 8000, p=p)])
    log_p = jnp.log(jnp.asarray(p, jnp.float32))

    def misfit(log_weight):
        chains = start
        for i in range(3):
            key = jax.random.key(i)
            chains = block_gibbs(key, mam, chains, erased=2, log_weight=log_weight)
        assert (chains != start).any(0).all()
        counts = np.bincount(np.asarray(chains) @ [4, 2, 1], minlength=8)
        return np.abs((counts - 8000 * p) / np.sqrt(8000 * p)).max()

    assert misfit(lambda x: log_p[x @ jnp.array([4, 2, 1])]) < 5
    assert misfit(None) > 10


NETWORKS = pytest.mark.parametrize("network", [DualMLP, DualTransformer])


@pytest.mark.sweep(of=2)
@NETWORKS
def test_nothing_is_certain_and_unknown_values_do_not_matter(network):
    mam = MaM(stirred(network(5, 3, 8, 1, key=jax.random.key(0)), jax.random.key(1)), 5, 3)
    x, other = jnp.array([0, 1, 2, 0, 1]), jnp.array([0, 1, 0, 2, 2])
    known = jnp.array([True, True, False, False, False])
    assert log_marginal(mam, x, jnp.zeros(5, bool)) == 0
    for one, two in zip(mam(x, known), mam(other, known), strict=True):
        np.testing.assert_array_equal(one, two)
    assert log_marginal(mam, x) != log_marginal(mam, other)


@pytest.mark.sweep(of=2)
@NETWORKS
def test_a_dual_network_begins_uniform_and_answers_in_float32(network):
    network = network(5, 3, 8, 2, key=jax.random.key(0))
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), network)
    x = jnp.array([0, 1, 2, 0, 1])
    for mam in (MaM(network, 5, 3), MaM(half, 5, 3)):
        log_p, conditionals = mam(x, x < 2)
        assert log_p.dtype == conditionals.dtype == jnp.float32
        np.testing.assert_allclose(log_p, -4 * np.log(3), rtol=1e-6)
        np.testing.assert_allclose(conditionals, -np.log(3), rtol=1e-6)
        assert float(consistency_of(mam, x)) < 1e-10


def consistency_of(mam, x):
    return ppgen.expectation(consistency)(jax.random.key(0), mam, x)


def test_a_torus_network_is_local_the_same_everywhere_and_of_any_size():
    network = DualTorus(2, 8, 2, key=jax.random.key(0))
    x = jnp.arange(36) % 2
    log_p, conditionals = MaM(network, 36, 2)(x, x > 0)
    np.testing.assert_allclose(log_p, -18 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(conditionals, -np.log(2), rtol=1e-6)

    network = stirred(network, jax.random.key(1))

    def at(side, known):
        ones = jnp.ones(side**2, int)
        log_p, logits = MaM(network, side**2, 2)(ones, known.ravel())
        return log_p, logits.reshape(side, side, 2)

    def mask(side, *sites):
        return jnp.zeros((side, side), bool).at[tuple(zip(*sites, strict=True))].set(True)

    one, logits = at(9, mask(9, (4, 4)))
    moved, shifted = at(9, mask(9, (0, 7)))
    np.testing.assert_allclose(moved, one, rtol=1e-3)
    np.testing.assert_allclose(shifted, jnp.roll(logits, (-4, 3), (0, 1)), rtol=1e-4, atol=1e-5)
    # Two layers see two sites: those farther than that, and four for the log density, are apart.
    far = jnp.abs(logits - logits[0, 0]).max(-1) > 1e-5
    assert far[2:7, 2:7].any() and far.sum() == far[2:7, 2:7].sum()
    apart, near = (at(15, mask(15, (3, 3), (3, 3 + gap)))[0] for gap in (5, 2))
    np.testing.assert_allclose(apart, 2 * at(15, mask(15, (3, 3)))[0], rtol=1e-3)
    assert abs(near - apart) > 1e-3
    np.testing.assert_allclose(at(15, mask(15, (3, 3)))[0], one, rtol=1e-3)


# --- likelihood and consistency -------------------------------------------------------------------


def test_the_bound_in_one_pass_is_the_bound_in_d_passes():
    mam, x = random_model(2, sites=3), jnp.array([1, 0, 1])
    by_passes = exact(elbo(any_order, uniform_order))(mam, x)
    np.testing.assert_allclose(exact(any_order_bound)(mam, x), by_passes, rtol=1e-6)
    log_p = [log_p for (_, y), log_p in log_p_phi(mam).items() if y == (1, 0, 1)]
    np.testing.assert_allclose(by_passes, np.mean(log_p), rtol=1e-5)
    assert by_passes < np.log(np.mean(np.exp(log_p)))


def test_consistency_is_the_mean_square_over_orders_and_steps():
    mam, x = random_model(3, sites=3), jnp.array([1, 0, 1])
    squares = [
        inconsistency(mam, x, jnp.array(rank), jnp.array(d)) ** 2
        for rank in itertools.permutations(range(3))
        for d in range(3)
    ]
    np.testing.assert_allclose(exact(consistency)(mam, x), np.mean(squares), rtol=1e-5)
    assert_unbiased(consistency, mam, x, order=1, samples=40_000)
    true = consistent_model(np.random.RandomState(0).dirichlet(np.ones(8)))
    assert exact(consistency)(true, x) < 1e-10
    wrong = eqx.tree_at(lambda m: m.network.log_p, true, replace_fn=lambda t: t.at[0].add(0.1))
    # The empty set is what all else counts from, and one step of three starts there.
    np.testing.assert_allclose(exact(consistency)(wrong, x), 0.01 / 3, rtol=1e-3)


# --- energies -------------------------------------------------------------------------------------


def generalised_kl(mam, baseline=None):
    """What `importance_weighted_kl` is to estimate, by enumeration: the sum in its docstring."""
    costs = jax.vmap(lambda x: log_marginal(mam, x) - log_weight(x))(X)
    p = jnp.exp(jax.vmap(lambda x: log_marginal(mam, x))(X))
    if baseline is None:
        q = jnp.zeros(len(X))
        for (_, x), log_p in log_p_phi(mam).items():
            q = q.at[2 * x[0] + x[1]].add(jnp.exp(log_p) / 2)
        baseline = jax.lax.stop_gradient(q @ costs)
    return p @ (costs - 1 - baseline) + 1 + baseline


def marginals_only(mam):
    """p_φ enters the sum by the baseline only, which is held fixed."""
    return lambda log_p: generalised_kl(with_marginals(mam, log_p))


def with_marginals(mam, log_p):
    return eqx.tree_at(lambda m: m.network.log_p, mam, log_p)


def test_the_importance_weighted_divergence_is_unbiased():
    mam = random_model(4)

    def divergence(log_p):
        return importance_weighted_kl(with_marginals(mam, log_p), log_weight, draws=3)

    assert_unbiased(
        divergence, mam.network.log_p, order=1, exact=marginals_only(mam), samples=60_000
    )
    value = jax.jit(jax.grad(ppgen.expectation(importance_of(3)), argnums=1))
    assert not value(jax.random.key(0), mam).network.logits.any()


def importance_of(draws):
    return lambda mam: importance_weighted_kl(mam, log_weight, draws=draws)


@pytest.mark.long
def test_without_its_weights_the_divergence_is_biased():
    """A planted bug: the same estimator, with p_θ scored on what p_φ draws."""
    mam = random_model(4)

    def unweighted(log_p):
        model = with_marginals(mam, log_p)
        x = jax.vmap(lambda _: any_order(jax.lax.stop_gradient(model)))(jnp.arange(3))
        log_p = jax.vmap(log_marginal, (None, 0))(model, x)
        cost = jax.lax.stop_gradient(log_p - jax.vmap(log_weight)(x))
        baseline = (cost.sum() - cost) / 2
        weight = jnp.exp(log_p - jax.lax.stop_gradient(log_p))
        return jnp.mean(weight * (cost - baseline) + baseline)

    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(
            unweighted, mam.network.log_p, order=1, exact=marginals_only(mam), samples=60_000
        )


class Apart(eqx.Module):
    """Independent sites, normalised whatever the numbers are, and conditionals that disagree."""

    marginal: jax.Array
    conditional: jax.Array

    def __call__(self, seen):
        return jnp.sum(seen * jax.nn.log_softmax(self.marginal)), self.conditional


def independent(marginal):
    return MaM(Apart(marginal, jnp.array([[0.3, -0.4], [0.0, 0.9]])), 2, 2)


def kullback_leibler(marginal):
    """KL(p_θ ‖ f), by enumeration."""
    log_p = jax.nn.log_softmax(marginal)
    log_p = jnp.array([log_p[0, x[0]] + log_p[1, x[1]] for x in X])
    return jnp.exp(log_p) @ (log_p - jax.vmap(log_weight)(X))


MARGINAL = jnp.array([[0.5, -0.2], [1.0, 0.1]])


@pytest.mark.long
def test_where_p_theta_is_normalised_the_gradient_is_that_of_kullback_leibler():
    def divergence(marginal):
        return importance_weighted_kl(independent(marginal), log_weight, draws=2)

    assert_unbiased(divergence, MARGINAL, order=1, exact=kullback_leibler, samples=60_000)


@pytest.mark.long
def test_the_published_gradient_is_the_one_of_the_paper_and_biased():
    def drawn(marginal, draws=4):
        mam = independent(marginal)
        return jax.vmap(lambda _: any_order(jax.lax.stop_gradient(mam)))(jnp.arange(draws))

    def published(marginal):
        return published_kl(independent(marginal), log_weight, drawn(marginal))

    x = ppgen.seed(drawn)(jax.random.key(0), MARGINAL, 50)
    score = jax.vmap(lambda x: jax.grad(lambda m: log_marginal(independent(m), x))(MARGINAL))(x)
    cost = jax.vmap(lambda x: log_marginal(independent(MARGINAL), x) - log_weight(x))(x)
    by_hand = jnp.mean((cost - cost.mean())[:, None, None] / cost.std() * score, 0)
    fixed = ppgen.expectation(lambda m: published_kl(independent(m), log_weight, x))
    gradient = jax.grad(fixed, argnums=1)(jax.random.key(0), MARGINAL)
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-4, atol=1e-6)

    # Its bias, at all lengths: the difference from any multiple of the gradient of KL.
    truth = jax.grad(kullback_leibler)(MARGINAL)[:, 0]
    many = jax.jit(jax.vmap(jax.grad(ppgen.expectation(published), argnums=1), (0, None)))(
        jax.random.split(jax.random.key(1), 20_000), MARGINAL
    )[:, :, 0]
    across = jnp.array([-truth[1], truth[0]]) / jnp.linalg.norm(truth)
    off = np.asarray(many @ across)
    assert abs(off.mean()) > 6 * off.std() / np.sqrt(len(off))
    # But its minimum is right: at the target it vanishes, whatever p_φ draws.
    p = np.exp(jax.vmap(log_weight)(X))
    there = consistent_model(p / p.sum())
    assert published_kl_at(there, X) < 1e-5


def published_kl_at(mam, x):
    return ppgen.expectation(published_kl)(jax.random.key(0), mam, log_weight, jnp.asarray(x))


def test_the_elbo_of_the_target_is_that_of_every_order():
    mam = random_model(5)
    bound = elbo(lambda mam: target(mam, log_weight), any_order)
    expected = sum(
        np.exp(log_p) / 2 * (log_weight(np.array(x)) - log_p)
        for (_, x), log_p in log_p_phi(mam).items()
    )
    np.testing.assert_allclose(exact(bound)(mam), expected, rtol=1e-5)


# --- training -------------------------------------------------------------------------------------

ISING = Ising(3)
STATES = all_strings(9, 2)
LOG_TARGET = jax.vmap(ISING.log_weight)(STATES) - ISING.log_normalizer()


def fresh(width=16):
    return MaM(DualMLP(9, 2, width, 1, key=jax.random.key(0)), 9, 2)


OF_ALL = eqx.filter_jit(jax.vmap(log_marginal, (None, 0)))
ELBO = eqx.filter_jit(
    ppgen.expectation(elbo(lambda mam: target(mam, ISING.log_weight), any_order), draws=2000)
)


def divergences(mam):
    """KL(p_θ ‖ f / Z), p_θ normalised, and that of p_φ with its order, from draws."""
    log_p = OF_ALL(mam, STATES)
    log_p = log_p - jax.nn.logsumexp(log_p)
    of_phi = ISING.log_normalizer() - ELBO(jax.random.key(9), mam)
    return float(jnp.exp(log_p) @ (log_p - LOG_TARGET)), float(of_phi)


@pytest.fixture(scope="module")
def start():
    return divergences(fresh())


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(
    "objective, erased", [("published", 2), ("importance", None), ("corrected", 2)]
)
def test_training_by_an_energy_reaches_the_target(objective, erased, start):
    mam = fit_energy(
        fresh(),
        ISING.log_weight,
        optax.adam(optax.cosine_decay_schedule(5e-3, 300)),
        key=jax.random.key(1),
        steps=300,
        objective=objective,
        draws=64,
        erased=erased,
    )
    assert min(start) > 0.5
    of_theta, of_phi = divergences(mam)
    assert of_theta < 0.03 and of_phi < 0.1


@pytest.mark.long
def test_training_by_the_elbo_improves_the_conditionals(start):
    optimizer = optax.adam(5e-3)
    mam = fit_energy(
        fresh(),
        ISING.log_weight,
        optimizer,
        key=jax.random.key(1),
        steps=150,
        objective="elbo",
        draws=32,
    )
    of_theta, of_phi = divergences(mam)
    assert of_phi < 0.5 * start[1]


def test_objectives_that_cannot_be_are_refused():
    common = {"key": jax.random.key(0), "steps": 1}
    with pytest.raises(ValueError, match="not from chains"):
        fit_energy(fresh(), log_weight, optax.sgd(0.1), objective="importance", erased=2, **common)
    with pytest.raises(ValueError, match="too few"):
        ppgen.expectation(importance_of(1))(jax.random.key(0), random_model())


def test_chains_move_with_the_model_and_stay_configurations():
    mam, x = random_model(6), jnp.zeros((2000, 2))
    moving = persistent_chains(optax.sgd(0.0), mam, erased=1, key=jax.random.key(0))
    fitted = fit(
        lambda p: jnp.sum(p.mam.network.log_p**2),
        Chained(mam, x),
        moving,
        key=jax.random.key(1),
        steps=6,
    )
    chains = np.asarray(fitted.params.chains)
    assert set(np.unique(chains)) == {0.0, 1.0}
    # A site of a random order is drawn anew six times: the chain of its four states, by hand.
    step = np.zeros((4, 4))
    for state, x in enumerate(X):
        for site in (0, 1):
            log_p = np.asarray(mam(jnp.array(x), jnp.arange(2) != site)[1][site])
            for value in (0, 1):
                other = x.copy()
                other[site] = value
                step[state, other @ [2, 1]] += np.exp(log_p[value]) / 2
    expected = 2000 * np.linalg.matrix_power(step, 6)[0]
    counts = np.bincount((chains @ [2, 1]).astype(int), minlength=4)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.long
def test_maximum_likelihood_in_two_stages():
    data = STATES[
        np.random.RandomState(0).choice(512, 4000, p=np.exp(LOG_TARGET) / np.exp(LOG_TARGET).sum())
    ]
    seen = []
    mam = fit_likelihood(
        fresh(),
        data,
        (optax.adam(optax.cosine_decay_schedule(5e-3, 300)),) * 2,
        key=jax.random.key(1),
        steps=(300, 300),
        batch_sizes=(64, 64),
        draws=1000,
        callback=lambda progress: seen.append(progress.step),
    )
    assert seen == [100, 200, 300] * 2
    of_theta, of_phi = divergences(mam)
    assert of_theta < 0.1 and of_phi < 0.1
    # The second stage makes p_θ what p_φ is.
    assert abs(float(jax.nn.logsumexp(OF_ALL(mam, STATES)))) < 0.1


def test_each_stage_has_an_optimizer_of_its_own():
    # At the uniform distribution both heads agree, so that there is nothing to move.
    start = jax.tree.map(lambda w: w + 0.1, fresh())

    def networks(*optimizers):
        options = {"key": jax.random.key(1), "steps": (2, 2), "batch_sizes": (64, 32)}
        network = fit_likelihood(start, STATES, optimizers, **options).network
        return network.marginals, network.conditionals

    moving, still = optax.sgd(0.01), optax.sgd(0.0)
    untrained = start.network
    marginals, conditionals = networks(moving, still)
    assert eqx.tree_equal(marginals, conditionals) and not eqx.tree_equal(marginals, untrained)
    marginals, conditionals = networks(still, moving)
    assert eqx.tree_equal(conditionals, untrained) and not eqx.tree_equal(marginals, untrained)


# --- figures --------------------------------------------------------------------------------------


def test_figures_are_those_of_enumeration():
    mam = random_model(7)
    every = log_p_phi(mam)
    known = np.array([[True, False], [False, True], [True, True], [True, False]])
    by_one_pass = [
        log_marginal(mam, jnp.array(x), jnp.array(k)) for x, k in zip(X, known, strict=True)
    ]
    np.testing.assert_allclose(log_marginals(mam, X, known), by_one_pass, rtol=1e-6)

    # Of one site, its conditional given nothing; of both, that of one of the two orders.
    found = np.asarray(log_conditionals(mam, X, known, key=jax.random.key(0)))
    first = jax.nn.log_softmax(mam(jnp.zeros(2, int), jnp.zeros(2, bool))[1])
    for i, site in ((0, 0), (1, 1), (3, 0)):
        np.testing.assert_allclose(found[i], first[site, X[i, site]], rtol=1e-5)
    both = [log_p for (_, x), log_p in every.items() if x == tuple(X[2])]
    assert np.abs(found[2] - both).min() < 1e-5

    x, log_q = map(np.asarray, ancestral(mam, 4000, key=jax.random.key(1)))
    for row, log_p in zip(x[:20], log_q[:20], strict=True):
        orders = [value for (_, y), value in every.items() if y == tuple(row)]
        assert np.abs(log_p - orders).min() < 1e-5
    mass = np.exp(np.asarray(log_marginals(mam, x)) - log_q)
    exact_mass = np.exp(np.asarray(log_marginals(mam, X))).sum()
    assert abs(mass.mean() - exact_mass) < 5 * mass.std() / np.sqrt(len(mass))

    p = np.random.RandomState(0).dirichlet(np.ones(4))
    true = consistent_model(p)
    divergence, log_mass = marginal_divergence(true, X, np.log(p))
    assert abs(divergence) < 1e-5 and abs(log_mass) < 1e-5
    q = np.random.RandomState(1).dirichlet(np.ones(4))
    louder = eqx.tree_at(lambda m: m.network.log_p, true, replace_fn=lambda t: t.at[1:].add(0.3))
    divergence, log_mass = marginal_divergence(louder, X, np.log(q))
    np.testing.assert_allclose(divergence, p @ np.log(p / q), rtol=1e-5)
    np.testing.assert_allclose(log_mass, 0.3, rtol=1e-4)
    assert np.abs(step_errors(true, X, key=jax.random.key(2))).max() < 1e-5
    # Steps from the empty set are off by .3, the others are right.
    errors = np.asarray(step_errors(louder, np.tile(X, (50, 1)), key=jax.random.key(2)))
    values, counts = np.unique(np.abs(errors).round(4), return_counts=True)
    np.testing.assert_allclose(values, [0.0, 0.3], atol=1e-4)
    assert 60 < counts[1] < 140


def test_random_parts_are_of_all_sizes_and_sites():
    known = subsets(8000, 4, key=jax.random.key(0))
    sizes = np.bincount(known.sum(1), minlength=5)
    assert sizes[0] == 0 and (np.abs(sizes[1:] - 2000) < 5 * np.sqrt(2000)).all()
    assert (np.abs(known.sum(0) - 8000 * 5 / 8) < 5 * np.sqrt(2000)).all()


@pytest.mark.parametrize("given", [True, False])
def test_a_random_part_is_scored_by_both_heads(given):
    mam = random_model(3)
    every, rows = log_p_phi(mam), np.tile(X, (50, 1)) if given else 200
    parts = each_of(lambda *x: random_part(mam, *x), rows, key=jax.random.key(0))
    if given:
        np.testing.assert_array_equal(parts.x, rows)
    marginals = log_marginals(mam, parts.x, parts.known)
    np.testing.assert_allclose(parts.by_marginals, marginals, rtol=1e-5)
    first = jax.nn.log_softmax(mam(jnp.zeros(2, int), jnp.zeros(2, bool))[1])
    seen = set()
    for x, known, found in zip(parts.x, parts.known, parts.by_conditionals, strict=True):
        orders = [value for (_, y), value in every.items() if y == tuple(x)]
        site = int(np.argmax(known))
        expected = orders if known.all() else [first[site, x[site]]]
        distance = np.abs(found - np.array(expected))
        assert distance.min() < 1e-5
        seen.add((known.tobytes(), int(distance.argmin())))
    # Each of the sites alone, and both in either order.
    assert len(seen) == 4


def test_what_is_known_of_molecules_is_summed_over_all_of_them():
    task = Molecules(3)
    strings = all_strings(3, task.values)
    p = np.exp(np.asarray(jax.vmap(task.log_weight)(strings), np.float64))
    np.testing.assert_allclose(task.log_normalizer(), np.log(p.sum()), rtol=1e-6)
    x, known = np.array([2, 1, 4]), np.array([True, False, True])
    agree = (strings[:, 0] == 2) & (strings[:, 2] == 4)
    expected = np.log(p[agree].sum() / p.sum())
    np.testing.assert_allclose(task.log_marginal(x, known), expected, rtol=1e-6)
    alone = np.log(p[strings[:, 1] == 1].sum() / p.sum())
    np.testing.assert_allclose(independent_sites(task)[1, 1], alone, rtol=1e-6)


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "options, floor, model",
    [
        (["--task", "digits"], "per-pixel histograms", "conditionals, any-order bound"),
        (["--task", "molecules"], "independent sites", "conditionals, with their order"),
    ],
)
def test_the_command_beats_what_is_trivial_within_seconds(
    tmp_path, monkeypatch, options, floor, model
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["--hidden", "32", "--steps", "300", "--learning-rate", "5e-3", "--joined", "500"]
    folder = tmp_path / "run"
    assert main(["fit", "marginalization", *options, *small, "--out", str(folder)]) == 0
    figures = json.loads((folder / "figures.json").read_text())["figures"]
    unit = "nats per image" if "digits" in options else "nats of divergence"
    (trivial, ours) = (figures[label][unit] for label in (floor, model))
    error = np.hypot(trivial["standard_error"], ours["standard_error"])
    gain = ours["mean"] - trivial["mean"]
    assert (gain if "digits" in options else -gain) > 5 * error
    assert {"samples.png", "marginals.png"} <= {path.name for path in folder.glob("*.png")}
    stages = ["conditionals", "marginals"] if "digits" in options else ["."]
    assert all((folder / stage / "metrics.jsonl").is_file() for stage in stages)


def test_an_energy_has_the_same_figures_for_either_split_and_a_network_of_a_torus():
    options = {"side": 3, "network": "torus", "hidden": 4, "draws": 8, "erased": None}
    recipe = MarginalizationRecipe(task="ising", **options)
    run = fit_recipe(recipe, steps=2)
    figures = [run.figures(particles=20, split=split) for split in ("held-out", "train")]
    assert figures[0].record() == figures[1].record()
    assert {x.title.split(";")[0] for x in figures} == {"held out: all but the energy"}
    assert run.sample(jax.random.key(0), 5).shape == (5, 9)
    # What does not depend on the size of a torus is a model of a larger one.
    assert log_marginals(MaM(run.model.network, 16, 2), all_strings(16, 2)[:3]).shape == (3,)


@pytest.mark.parametrize(
    "options",
    [
        ["--side", "13"],
        ["--erased", "17"],
        ["--draws", "1"],
        ["--early-stopping", "2"],
        ["--objective", "corrected", "--erased", "None"],
        ["--network", "torus", "--task", "molecules"],
    ],
)
def test_options_that_make_no_sense_are_refused(options, tmp_path, capsys):
    arguments = ["fit", "marginalization", "--task", "ising", *options]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert options[0] in capsys.readouterr().err
