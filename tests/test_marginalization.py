"""Marginalization models: programs, networks and objectives, against enumeration."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marginalizations import X, consistent_model, importance_of, log_p_phi, log_weight, random_model
from weights import stirred

import ppgen
from ppgen.inference import elbo
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
from ppgen.models.marginalization.scores import (
    ancestral,
)
from ppgen.models.marginalization.training import (
    block_gibbs,
)
from ppgen.models.parts.data import all_strings
from ppgen.models.parts.networks import DualMLP, DualTorus, DualTransformer
from ppgen.testing import assert_unbiased, exact

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
