"""Every objective against exact values and gradients: enumeration, or closed forms."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from monte_carlo import assert_close_in_mean, estimates

import ppgen
from ppgen.errors import EstimatorError, SiteError
from ppgen.inference import (
    cubo,
    diwhvi,
    dreg,
    elbo,
    f_divergence,
    forward_kl,
    hvi,
    iwelbo,
    iwhvi,
    renyi,
    reweighted_wake_sleep,
    sleep,
    sticking_the_landing,
    tvo,
    vimco,
)
from ppgen.testing import exact

pytestmark = pytest.mark.sweep(of=3)

X = 0.7


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


# --- two flips: everything can be enumerated ------------------------------------------------------


def model(t):
    a = numpyro.sample("a", dist.Bernoulli(0.3))
    b = numpyro.sample("b", dist.Bernoulli(jax.nn.sigmoid(t[2] + a)))
    numpyro.sample("x", dist.Normal(a + 2 * b + t[2], 1.0), obs=X)


def guide(t):
    a = numpyro.sample("a", dist.Bernoulli(logits=t[0]))
    numpyro.sample("b", dist.Bernoulli(logits=t[1] - a))


# NumPy's: made before 64-bit types are enabled.
T = np.array([0.4, -0.3, 0.2])


def log_joint(t):
    """log p and log q of the four values, by hand."""
    rows = []
    for a, b in itertools.product((0.0, 1.0), repeat=2):
        p_b, q_a, q_b = jax.nn.sigmoid(t[2] + a), jax.nn.sigmoid(t[0]), jax.nn.sigmoid(t[1] - a)
        p = (0.3 if a else 0.7) * (p_b if b else 1 - p_b)
        log_p = jnp.log(p) + dist.Normal(a + 2 * b + t[2], 1.0).log_prob(X)
        rows.append((log_p, jnp.log((q_a if a else 1 - q_a) * (q_b if b else 1 - q_b))))
    log_p, log_q = zip(*rows, strict=True)
    return jnp.stack(log_p), jnp.stack(log_q)


def over_particles(t, particles, function):
    """The expectation of a function of K log weights, by summing over all K-tuples."""
    log_p, log_q = log_joint(t)
    index = tuples(4, particles)
    values = jax.vmap(function)((log_p - log_q)[index])
    return jnp.sum(jnp.exp(jnp.sum(log_q[index], axis=1)) * values)


def tuples(n, particles):
    return np.array(list(itertools.product(range(n), repeat=particles)))


def log_mean_exp(x):
    return jax.nn.logsumexp(x) - jnp.log(len(x))


def thermodynamic(x):
    edges = [0.0, 0.2, 0.5, 1.0]
    return sum(
        (end - start) * jnp.sum(jax.nn.softmax(start * x) * x)
        for start, end in itertools.pairwise(edges)
    )


BY_ENUMERATION = {
    "elbo": (elbo(model, guide), 1, lambda x: x[0]),
    "iwelbo": (iwelbo(model, guide, particles=2), 2, log_mean_exp),
    "renyi": (
        renyi(model, guide, alpha=0.5, particles=2),
        2,
        lambda x: log_mean_exp(0.5 * x) / 0.5,
    ),
    "renyi, negative": (
        renyi(model, guide, alpha=-1.0, particles=2),
        2,
        lambda x: log_mean_exp(2 * x) / 2,
    ),
    "cubo": (cubo(model, guide, order=2, particles=2), 2, lambda x: log_mean_exp(2 * x) / 2),
    "tvo": (
        tvo(model, guide, particles=2, temperatures=(0.0, 0.2, 0.5)),
        2,
        thermodynamic,
    ),
    "chi squared": (
        f_divergence(model, guide, lambda log_u: jnp.expm1(log_u) ** 2, log_scale=-1.3),
        1,
        lambda x: jnp.expm1(x[0] + 1.3) ** 2,
    ),
}


@pytest.mark.parametrize("name", BY_ENUMERATION)
def test_of_discrete_choices(name):
    """Value and gradient, by enumeration of the particles, and by Monte Carlo."""
    objective, particles, function = BY_ENUMERATION[name]

    def right(t):
        return over_particles(t, particles, function)

    enumerated = exact(objective)
    np.testing.assert_allclose(enumerated(T), right(T), rtol=1e-9)
    np.testing.assert_allclose(jax.grad(enumerated)(T), jax.grad(right)(T), rtol=1e-7, atol=1e-9)
    value, gradient = estimates(ppgen.expectation(objective), T, samples=40_000)
    assert_close_in_mean(value, right(T), rtol=1e-9)
    assert_close_in_mean(gradient, jax.grad(right)(T), what="gradient", rtol=1e-9)


def test_vimco_is_the_gradient_of_the_bound():
    for particles in (2, 3):
        objective = vimco(model, guide, particles=particles)

        def right(t, particles=particles):
            return over_particles(t, particles, log_mean_exp)

        # Its draws have no derivative, so that enumerating them averages the estimator.
        np.testing.assert_allclose(exact(objective)(T), right(T), rtol=1e-9)
        np.testing.assert_allclose(
            jax.grad(exact(objective))(T), jax.grad(right)(T), rtol=1e-7, atol=1e-9
        )


def test_vimco_has_less_variance_than_the_plain_score():
    def variance(objective):
        _, gradient = estimates(ppgen.expectation(objective), T, samples=4_000)
        return gradient[:, :2].var(0).sum()

    plain = variance(iwelbo(model, guide, particles=8))
    assert variance(vimco(model, guide, particles=8)) < plain / 20


def test_reweighted_wake_sleep():
    """The bound's gradient for the model, the self-normalised one of the cross entropy besides."""
    objective = reweighted_wake_sleep(model, guide, particles=3)
    loss = forward_kl(model, guide, particles=3)

    def wake(t):
        _, log_q = log_joint(t)
        fixed_p, fixed_q = log_joint(jax.lax.stop_gradient(t))
        index = tuples(4, 3)
        weights = jax.nn.softmax((fixed_p - fixed_q)[index])
        sums = jnp.sum(weights * log_q[index], axis=1)
        return jnp.sum(jnp.exp(jnp.sum(fixed_q[index], axis=1)) * sums)

    def bound(t):
        return over_particles(t, 3, log_mean_exp)

    np.testing.assert_allclose(exact(objective)(T), bound(T), rtol=1e-9)
    slope = jax.grad(exact(objective))(T)
    np.testing.assert_allclose(slope[:2], jax.grad(wake)(T)[:2], rtol=1e-7)
    np.testing.assert_allclose(slope[2], jax.grad(bound)(T)[2], rtol=1e-7)
    np.testing.assert_allclose(jax.grad(exact(loss))(T), -jax.grad(wake)(T), rtol=1e-7, atol=1e-12)


def test_forward_kl_approaches_the_posterior():
    log_p, _ = log_joint(T)
    posterior = jax.nn.softmax(log_p)

    def right(t):
        return -jnp.sum(posterior * log_joint(t)[1])

    errors = []
    for particles in (4, 64):
        loss = ppgen.expectation(forward_kl(model, guide, particles=particles))
        _, gradient = estimates(loss, T, samples=20_000)
        errors.append(np.abs(gradient.mean(0) - jax.grad(right)(T))[:2].max())
    assert errors[1] < errors[0] / 5


def test_sleep():
    def dreaming(t):
        a = numpyro.sample("a", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Bernoulli(0.2 + 0.5 * a))

    def recognising(t, x):
        numpyro.sample("a", dist.Bernoulli(logits=t[0] + t[1] * x))

    loss = sleep(
        dreaming, recognising, observed=["x"], guide_args=lambda choices, t: (t, choices["x"])
    )

    def right(t):
        total = 0.0
        for a, x in itertools.product((0, 1), repeat=2):
            p = (0.3 if a else 0.7) * ((0.2 + 0.5 * a) if x else (0.8 - 0.5 * a))
            total -= p * jax.nn.log_sigmoid((1 if a else -1) * (t[0] + t[1] * x))
        return total

    np.testing.assert_allclose(jax.grad(exact(loss))(T), jax.grad(right)(T), rtol=1e-8, atol=1e-12)


# --- a normal: closed forms and quadrature --------------------------------------------------------


def normal_model(t):
    z = numpyro.sample("z", dist.Normal(t[2], 1.0))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=X)


def normal_guide(t):
    numpyro.sample("z", dist.Normal(t[0], jnp.exp(t[1])))


POSTERIOR = np.array([(X + 0.2) / 2, 0.5 * np.log(0.5), 0.2])


def test_sticking_the_landing():
    stl = sticking_the_landing(normal_model, normal_guide)
    right = exact(elbo(normal_model, normal_guide))
    value, gradient = estimates(ppgen.expectation(stl), T, samples=20_000)
    assert_close_in_mean(value, right(T))
    assert_close_in_mean(gradient, jax.grad(right)(T), what="gradient")
    # The gradient by the guide vanishes at the posterior, draw by draw; the plain one does not.
    _, landed = estimates(ppgen.expectation(stl), POSTERIOR, samples=50)
    _, plain = estimates(ppgen.expectation(elbo(normal_model, normal_guide)), POSTERIOR, samples=50)
    assert np.abs(landed[:, :2]).max() < 1e-12 < 0.1 < plain[:, 1].std()


@pytest.mark.parametrize("particles", [1, 2])
def test_doubly_reparameterised(particles):
    objective = dreg(normal_model, normal_guide, particles=particles)
    right = exact(iwelbo(normal_model, normal_guide, particles=particles))
    value, gradient = estimates(ppgen.expectation(objective), T, samples=40_000)
    assert_close_in_mean(value, right(T))
    assert_close_in_mean(gradient, jax.grad(right)(T), what="gradient")


def test_doubly_reparameterised_signal():
    """With many particles its relative noise is far below that of the plain gradient."""

    def noise(objective):
        _, gradient = estimates(ppgen.expectation(objective), T, samples=1_000)
        return gradient[:, 0].std() / abs(gradient[:, 0].mean())

    plain = noise(iwelbo(normal_model, normal_guide, particles=64))
    assert noise(dreg(normal_model, normal_guide, particles=64)) < plain / 3


def test_dreg_shares_parameters():
    """A parameter that guide and model both read gets both gradients."""

    def shared(t):
        numpyro.sample("z", dist.Normal(t[0] + t[2], jnp.exp(t[1])))

    right = exact(iwelbo(normal_model, shared, particles=2))
    _, gradient = estimates(
        ppgen.expectation(dreg(normal_model, shared, particles=2)), T, samples=40_000
    )
    assert_close_in_mean(gradient, jax.grad(right)(T), what="gradient")


def test_dreg_refuses_an_estimated_model():
    def hidden(t):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("z", dist.Normal(u, 1.0))

    objective = dreg(ppgen.marginal(hidden, ["z"]), normal_guide, particles=2)
    with pytest.raises(SiteError, match="estimated"):
        ppgen.expectation(objective)(jax.random.key(0), T)


def test_dreg_refuses_a_score_function():
    with pytest.raises(EstimatorError, match="pathwise"):
        ppgen.expectation(dreg(model, guide, particles=2))(jax.random.key(0), T)


def vague_model(t):
    z = numpyro.sample("z", dist.Normal(t[2], 1.0))
    numpyro.sample("x", dist.Normal(z, 5.0), obs=X)


def test_analytic_kl():
    """The same mean with less variance; without a closed form the plain terms."""
    plain, closed = (elbo(vague_model, normal_guide, analytic_kl=flag) for flag in (False, True))
    right = exact(elbo(vague_model, normal_guide))
    got = {}
    for name, objective in {"plain": plain, "closed": closed}.items():
        got[name] = estimates(ppgen.expectation(objective), T, samples=4_000)
        assert_close_in_mean(got[name][0], right(T))
        assert_close_in_mean(got[name][1], jax.grad(right)(T), what="gradient")
    # What varies is log p(x | z) alone.
    assert got["closed"][0].var() < 0.1 * got["plain"][0].var()

    def unknown(t):
        numpyro.sample("z", dist.StudentT(5.0, t[0], jnp.exp(t[1])))

    key = jax.random.key(0)
    one, other = (
        ppgen.expectation(elbo(vague_model, unknown, analytic_kl=flag))(key, T)
        for flag in (False, True)
    )
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_analytic_kl_in_another_order():
    """Where the guide draws a parent after its child, the divergence is not the expectation."""

    def chain(t):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("b", dist.Normal(a + t[2], 1.0))
        numpyro.sample("x", dist.Normal(a, 1.0), obs=X)

    def reversed_guide(t):
        b = numpyro.sample("b", dist.Normal(t[0], 0.6))
        numpyro.sample("a", dist.Normal(t[1] + 0.8 * b, 0.7))

    right = exact(elbo(chain, reversed_guide))
    g = ppgen.expectation(elbo(chain, reversed_guide, analytic_kl=True))
    value, gradient = estimates(g, T, samples=20_000)
    assert_close_in_mean(value, right(T))
    assert_close_in_mean(gradient, jax.grad(right)(T), what="gradient")


# --- hierarchical guides --------------------------------------------------------------------------


def one_normal(t):
    numpyro.sample("z", dist.Normal(t[2], 1.0))
    numpyro.factor("x", 0.3)


def mixed_guide(t):
    u = numpyro.sample("u", dist.Bernoulli(logits=t[0]))
    numpyro.sample("z", dist.Normal(t[1] + 2 * u, 0.8))


def reverse(kept, t):
    numpyro.sample("u", dist.Bernoulli(logits=kept["z"] + t[0] - 1))


@pytest.mark.parametrize("proposal", [None, reverse])
def test_hierarchical_bounds_rise_to_the_elbo_of_the_marginal(proposal):
    def plain(t):
        """The guide's marginal is a mixture, so its ELBO is known."""
        weights = jax.nn.sigmoid(t[0])
        mixture = dist.MixtureSameFamily(
            dist.Categorical(probs=jnp.stack([1 - weights, weights])),
            dist.Normal(jnp.stack([t[1], t[1] + 2]), 0.8),
        )
        z = numpyro.sample("z", mixture, infer={"grad": ppgen.ScoreFunction()})
        return dist.Normal(t[2], 1.0).log_prob(z) + 0.3 - mixture.log_prob(z)

    limit = float(
        jnp.mean(
            jax.vmap(lambda k: ppgen.seed(plain)(k, T))(
                jax.random.split(jax.random.key(1), 200_000)
            )
        )
    )
    values = [
        float(exact(objective)(T))
        for objective in (
            hvi(one_normal, mixed_guide, ["z"], proposal=proposal),
            iwhvi(one_normal, mixed_guide, ["z"], inner=2, proposal=proposal),
            iwhvi(one_normal, mixed_guide, ["z"], inner=6, proposal=proposal),
        )
    ]
    assert values[0] < values[1] < values[2] < limit + 0.01
    assert limit - values[2] < 0.4 * (limit - values[0])


@pytest.mark.long
def test_doubly_weighted_hierarchical_bound():
    objective = diwhvi(one_normal, mixed_guide, ["z"], particles=2, inner=2)
    right = exact(objective, nodes=24)
    value, gradient = estimates(ppgen.expectation(objective), T, samples=40_000)
    assert_close_in_mean(value, right(T))
    assert_close_in_mean(gradient, jax.grad(right)(T), what="gradient")
    assert float(exact(hvi(one_normal, mixed_guide, ["z"]))(T)) < float(right(T)) < 0.3


def test_objectives_that_rescore_refuse_an_estimated_guide():
    estimated = ppgen.marginal(mixed_guide, ["z"])
    for objective in (
        sticking_the_landing(one_normal, estimated),
        vimco(one_normal, estimated, particles=2),
        reweighted_wake_sleep(one_normal, estimated, particles=2),
    ):
        with pytest.raises(SiteError, match="estimated"):
            ppgen.expectation(objective)(jax.random.key(0), T)


# --- plates ---------------------------------------------------------------------------------------

DATA = np.array([0.3, -1.2, 0.8, 2.0])


def plated_model(t, size=None):
    with numpyro.plate("N", 4, subsample_size=size):
        x = numpyro.subsample(DATA, event_dim=0)
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)


def plated_guide(t, size=None):
    with numpyro.plate("N", 4, subsample_size=size):
        x = numpyro.subsample(DATA, event_dim=0)
        numpyro.sample("z", dist.Bernoulli(logits=t[0] + t[1] * x))


def each_element(t, particles=2):
    """The sum of the bounds for each datum, by enumeration."""
    total = 0.0
    for x in DATA:
        log_q = jax.nn.log_sigmoid((t[0] + t[1] * x) * jnp.array([-1.0, 1.0]))
        log_p = jnp.log(jnp.array([0.7, 0.3])) + dist.Normal(jnp.array([0.0, 2.0]), 1.0).log_prob(x)
        index = tuples(2, particles)
        bounds = jax.vmap(log_mean_exp)((log_p - log_q)[index])
        total += jnp.sum(jnp.exp(jnp.sum(log_q[index], axis=1)) * bounds)
    return total


@pytest.mark.parametrize("size", [None, 2])
def test_each_element_of_a_shared_plate_has_its_bound(size):
    objective = iwelbo(plated_model, plated_guide, particles=2)
    value, gradient = estimates(ppgen.expectation(lambda t: objective(t, size)), T, samples=20_000)
    assert_close_in_mean(value, each_element(T))
    assert_close_in_mean(gradient, jax.grad(each_element)(T), what="gradient")


@pytest.mark.parametrize("make", [vimco, reweighted_wake_sleep])
def test_each_element_has_its_weights(make):
    """A plate of four is four objectives, whatever is normalised within one."""
    whole = make(plated_model, plated_guide, particles=2)

    def one(x):
        def single_model(t):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)

        def single_guide(t):
            numpyro.sample("z", dist.Bernoulli(logits=t[0] + t[1] * x))

        return exact(make(single_model, single_guide, particles=2))

    @jax.jit
    def right(t):
        return jnp.sum(jax.lax.map(lambda x: one(x)(t), jnp.asarray(DATA)))

    value, gradient = estimates(ppgen.expectation(whole), T, samples=20_000)
    assert_close_in_mean(value, right(T))
    assert_close_in_mean(gradient, jax.grad(right)(T), what="gradient")


def test_a_global_choice_makes_it_one_bound():
    def with_global(t):
        w = numpyro.sample("w", dist.Bernoulli(0.4))
        with numpyro.plate("N", 2):
            numpyro.sample("x", dist.Normal(w, 1.0), obs=DATA[:2])

    def global_guide(t):
        numpyro.sample("w", dist.Bernoulli(logits=t[0]))

    def right(t):
        log_q = jax.nn.log_sigmoid(t[0] * jnp.array([-1.0, 1.0]))
        log_p = jnp.log(jnp.array([0.6, 0.4])) + jnp.array(
            [jnp.sum(dist.Normal(w, 1.0).log_prob(DATA[:2])) for w in (0.0, 1.0)]
        )
        return sum(
            jnp.exp(log_q[i] + log_q[j]) * log_mean_exp((log_p - log_q)[jnp.array([i, j])])
            for i, j in itertools.product(range(2), repeat=2)
        )

    got = exact(iwelbo(with_global, global_guide, particles=2))(T)
    np.testing.assert_allclose(got, right(T), rtol=1e-9)


def test_subsampling_inside_of_a_global_choice_is_refused():
    def with_global(t):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("N", 4, subsample_size=2):
            numpyro.sample("x", dist.Normal(w, 1.0), obs=numpyro.subsample(DATA, event_dim=0))

    def global_guide(t):
        numpyro.sample("w", dist.Normal(t[0], 1.0))

    with pytest.raises(SiteError, match="subsampled"):
        ppgen.expectation(iwelbo(with_global, global_guide, particles=2))(jax.random.key(0), T)
    # The ELBO is linear in log densities.
    ppgen.expectation(elbo(with_global, global_guide))(jax.random.key(0), T)


# --- power ----------------------------------------------------------------------------------------


@pytest.mark.long
def test_planted_bugs_are_seen():
    """A baseline that depends on its own draw, and draws that keep their derivative."""

    def leaking(t):
        runs = ppgen.importance(model, ppgen.inference.detached(guide), particles=2, density=guide)(
            t
        )
        whole = jax.nn.logsumexp(runs.log_weights) - jnp.log(2)
        signal = jax.lax.stop_gradient(whole - runs.log_weights)
        return whole + jnp.sum(signal * (runs.log_q - jax.lax.stop_gradient(runs.log_q)))

    def right(t):
        return over_particles(t, 2, log_mean_exp)

    wrong = jax.grad(exact(leaking))(T) - jax.grad(right)(T)
    assert np.abs(wrong[:2]).max() > 0.01
