"""What other libraries get silently wrong: each case of it, against the exact gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from monte_carlo import assert_close_in_mean, bernoulli, check, count_equations, expected
from numpyro.contrib.control_flow import scan as numpyro_scan

import ppgen
from ppgen import Enumerate, MeasureValued, ScoreFunction

KEY = jax.random.key(0)
DISCRETE = pytest.mark.parametrize(
    "estimator", [ScoreFunction(), Enumerate(), MeasureValued()], ids=["score", "enum", "measure"]
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal_density(x, loc, scale=1.0):
    return np.exp(-0.5 * ((x - loc) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))


def elbo(model, guide):
    def objective(t, *args):
        trace = ppgen.simulate(guide)(t, *args)
        return ppgen.log_density(model)(trace, t, *args) - trace.log_density

    return objective


def iwae(model, guide, particles):
    def objective(t, *args):
        def weight(_):
            trace = ppgen.simulate(guide)(t, *args)
            return ppgen.log_density(model)(trace, t, *args) - trace.log_density

        log_w = jax.vmap(weight)(jnp.arange(particles))
        return jax.nn.logsumexp(log_w) - jnp.log(particles)

    return objective


# --- the PLDI'24 artifact and GenJAX --------------------------------------------------------------


@DISCRETE
def test_choice_in_a_cond_branch_whose_result_is_used_afterwards(estimator):
    def f(t):
        b = jax.lax.cond(
            t[0] > 0,
            lambda p: ppgen.draw(dist.Bernoulli(p), grad=estimator) * 1.0,
            lambda p: p,
            t[0],
        )
        return (b * 3.0 - 2.0) ** 2 * b

    check(f, [0.3], lambda t: t[0])


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("inside", ["scan", "jit", "map"])
@pytest.mark.parametrize("family", ["normal", "flip"])
def test_a_choice_is_not_frozen_into_the_compiled_program(inside, family):
    def one(p):
        if family == "normal":
            return ppgen.draw(dist.Normal(p, 1.0))
        return ppgen.draw(dist.Bernoulli(p)) * 1.0

    def f(t):
        if inside == "scan":
            xs = jax.lax.scan(lambda c, _: (c, one(t[0])), None, None, length=3)[1]
        elif inside == "map":
            xs = jax.lax.map(lambda _: one(t[0]), jnp.arange(3))
        else:
            run = jax.jit(one)
            xs = jnp.stack([run(t[0]) for _ in range(3)])
        return jnp.sum(xs) ** 2

    def exact(t):
        m = t[0]
        variance = 1.0 if family == "normal" else m * (1 - m)
        return 9 * m**2 + 3 * variance

    got = check(f, [0.4], exact, samples=8000)
    assert got[0].std() > 0.1, "another sample in every run"


@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate()], ids=["score", "enum"])
def test_second_derivative_of_a_product_of_flips(estimator):
    def f(t):
        one = ppgen.draw(dist.Bernoulli(t[0]), grad=estimator)
        return one * ppgen.draw(dist.Bernoulli(t[0]), grad=estimator) * 1.0

    *_, second = check(f, [0.4], lambda t: t[0] ** 2, order=2, samples=20_000)
    assert_close_in_mean(second, [[2.0]])


def test_two_reparameterised_sites_differ():
    def f(t):
        x = numpyro.sample("x", dist.Normal(t[0], 1.0))
        y = numpyro.sample("y", dist.Normal(t[0], 1.0))
        return (x - y) ** 2 * t[0]

    check(f, [0.7], lambda t: 2 * t[0])


def test_an_elbo_counts_the_guide_density():
    def model(t):
        numpyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(t):
        numpyro.sample("z", dist.Normal(t[0], t[1]))

    # -KL; the derivative by the scale shows a missing log q.
    check(
        elbo(model, guide),
        [0.5, 0.7],
        lambda t: -(-np.log(t[1]) + (t[1] ** 2 + t[0] ** 2 - 1) / 2),
        samples=10_000,
    )


def test_lanes_of_a_vmap_have_keys_of_their_own():
    def f(t):
        def program(_):
            return numpyro.sample("x", dist.Normal(t[0], 1.0))

        xs = jax.vmap(lambda i: ppgen.simulate(program)(i)["x"])(jnp.arange(2))
        return (xs[0] - xs[1]) ** 2 * t[0]

    check(f, [0.7], lambda t: 2 * t[0])


@DISCRETE
def test_sequential_choices_stay_linear(estimator):
    def f(t, k):
        return sum(ppgen.draw(dist.Bernoulli(t), grad=estimator) * (1.0 + i) for i in range(k))

    def size(k):
        g = jax.value_and_grad(ppgen.expectation(functools.partial(f, k=k)), argnums=1)
        return count_equations(jax.make_jaxpr(g)(jax.random.key(0), 0.3))

    four, eight, sixteen = size(4), size(8), size(16)
    assert sixteen - eight <= 2.3 * (eight - four), (four, eight, sixteen)


def test_particles_are_vectorised_not_unrolled():
    def model(t):
        numpyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(t):
        numpyro.sample("z", dist.Normal(t, 1.0))

    def size(k):
        g = jax.value_and_grad(ppgen.expectation(iwae(model, guide, k)), argnums=1)
        return count_equations(jax.make_jaxpr(g)(jax.random.key(0), 0.3))

    assert size(20) == size(5)


def test_site_scores_of_an_array_are_summed():
    def program():
        numpyro.sample("x", dist.Normal(jnp.zeros((4, 3)), 1.0))

    choices = {"x": jnp.ones((4, 3))}
    density = ppgen.log_density(program)(choices)
    assert density.shape == ()
    assert np.isclose(density, 12 * np.log(normal_density(1.0, 0.0)), rtol=1e-5)


# --- NumPyro 0.22 ---------------------------------------------------------------------------------


@DISCRETE
def test_iwae_with_a_discrete_latent(estimator):
    particles, x = 3, 0.8

    def model(t):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(2.0 * z + t[1], 1.0), obs=x)

    def guide(t):
        numpyro.sample("z", dist.Bernoulli(logits=t[0]), infer={"grad": estimator})

    def exact(t):
        q = sigmoid(t[0])
        joint = [0.7 * normal_density(x, t[1]), 0.3 * normal_density(x, 2.0 + t[1])]

        def run(choose):
            z = [choose(bernoulli(q)) for _ in range(particles)]
            return np.log(np.mean([joint[b] / (q if b else 1 - q) for b in z]))

        return expected(run)

    check(iwae(model, guide, particles), [0.4, 0.2], exact, samples=12_000)


X = np.array([0.5, -1.0, 2.0, 0.3])


def _local_elbo(t, x):
    """The exact ELBO of one datum: z ~ Bernoulli(.4), x ~ N(2z - 1, 1), q = Bernoulli(t)."""
    q = sigmoid(t)
    terms = [
        (1 - q) * (np.log(0.6) + np.log(normal_density(x, -1.0)) - np.log(1 - q)),
        q * (np.log(0.4) + np.log(normal_density(x, 1.0)) - np.log(q)),
    ]
    return sum(terms)


def _mixture_program(data, estimator, *, subsample=None, scale=None):
    def model(t):
        with numpyro.plate("N", len(X), subsample_size=subsample) as i:
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(2.0 * z - 1.0, 1.0), obs=jnp.asarray(data)[i])

    def guide(t):
        with numpyro.plate("N", len(X), subsample_size=subsample) as i:
            numpyro.sample("z", dist.Bernoulli(logits=t[i]), infer={"grad": estimator})

    if scale is not None:
        model, guide = numpyro.handlers.scale(model, scale), numpyro.handlers.scale(guide, scale)
    return model, guide


LOGITS = np.array([0.3, -0.5, 1.0, 0.1])


@pytest.mark.sweep(of=3)
@DISCRETE
@pytest.mark.parametrize("subsample, scale", [(2, None), (None, 3.0), (2, 3.0)])
def test_subsampled_plate_and_scale_count_once(estimator, subsample, scale):
    model, guide = _mixture_program(X, estimator, subsample=subsample, scale=scale)

    def exact(t):
        return (scale or 1.0) * sum(map(_local_elbo, t, X))

    check(elbo(model, guide), LOGITS, exact, samples=12_000)


def test_minibatch_is_the_same_in_model_and_guide():
    # The same density of the same rows on both sides: any other minibatch would show.
    def program(t):
        with numpyro.plate("N", 50, subsample_size=5) as i:
            numpyro.sample("z", dist.Normal(jnp.arange(50.0)[i] + t, 0.01))

    g = ppgen.expectation(elbo(program, program))
    values = jax.jit(jax.vmap(lambda key: g(key, 0.3)))(jax.random.split(KEY, 20))
    assert np.all(values == 0)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate()], ids=["score", "enum"])
@pytest.mark.parametrize("loop", ["numpyro", "lax", "python"])
def test_scan_keeps_future_costs(estimator, loop):
    # A Markov chain z_t with observations, its guide as independent flips.
    x = np.array([0.5, -0.7, 1.2])
    infer = {"grad": estimator}

    def step(z, x):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.6 * z))
        numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)
        return z, None

    def guide_step(z, t):
        z = numpyro.sample("z", dist.Bernoulli(jax.nn.sigmoid(t + 0.5 * z)), infer=infer)
        return z, None

    def model(t):
        data = jnp.asarray(x, float)
        if loop == "python":
            z = 0
            for i in range(3):
                with numpyro.handlers.scope(prefix=str(i)):
                    z, _ = step(z, data[i])
        else:
            (numpyro_scan if loop == "numpyro" else jax.lax.scan)(step, 0, data)

    def guide(t):
        if loop == "python":
            z = 0
            for i in range(3):
                with numpyro.handlers.scope(prefix=str(i)):
                    z, _ = guide_step(z, t[i])
        else:
            (numpyro_scan if loop == "numpyro" else jax.lax.scan)(guide_step, 0, t)

    def exact(t):
        def run(choose):
            z, total = 0, 0.0
            for i in range(3):
                q, p = sigmoid(t[i] + 0.5 * z), 0.2 + 0.6 * z
                z = choose(bernoulli(q))
                total += np.log(p if z else 1 - p) - np.log(q if z else 1 - q)
                total += np.log(normal_density(x[i], 2.0 * z))
            return total

        return expected(run)

    check(elbo(model, guide), [0.3, -0.4, 0.8], exact, samples=12_000)


@DISCRETE
def test_masked_latent_that_feeds_unmasked_sites(estimator):
    # The masked density contributes nothing, but the value still moves the observation.
    def model(t):
        with numpyro.handlers.mask(mask=False):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=0.7)

    def guide(t):
        with numpyro.handlers.mask(mask=False):
            numpyro.sample("z", dist.Bernoulli(logits=t[0]), infer={"grad": estimator})

    def exact(t):
        q = sigmoid(t[0])
        return (1 - q) * np.log(normal_density(0.7, 0.0)) + q * np.log(normal_density(0.7, 2.0))

    check(elbo(model, guide), [0.4], exact, samples=8000)


@DISCRETE
def test_partly_masked_latents(estimator):
    mask = np.array([True, False, True])

    def model(t):
        with numpyro.plate("N", 3), numpyro.handlers.mask(mask=jnp.asarray(mask)):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(jnp.sum(z * jnp.array([1.0, 2.0, 3.0])), 2.0), obs=1.0)

    def guide(t):
        with numpyro.plate("N", 3), numpyro.handlers.mask(mask=jnp.asarray(mask)):
            numpyro.sample("z", dist.Bernoulli(logits=t), infer={"grad": estimator})

    def exact(t):
        q = sigmoid(t)

        def run(choose):
            z = np.array([choose(bernoulli(p)) for p in q])
            ratio = np.log(np.where(z, 0.4, 0.6)) - np.log(np.where(z, q, 1 - q))
            return np.sum(ratio * mask) + np.log(normal_density(1.0, z @ [1, 2, 3], 2.0))

        return expected(run)

    check(elbo(model, guide), [0.4, -0.3, 0.2], exact, samples=12_000)


@DISCRETE
@pytest.mark.parametrize("logits", [0.0, 0.5])
def test_flips_with_logits_of_zero(estimator, logits):
    # NumPyro's d log_prob / d logits is 1 or 0 there, instead of +-0.5.
    def f(t):
        b = ppgen.draw(dist.Bernoulli(logits=t[0]), grad=estimator)
        return 3.0 * b + b * t[0]

    def exact(t):
        return sigmoid(t[0]) * (3 + t[0])

    check(f, [logits], exact, samples=8000)


@pytest.mark.parametrize("value", [0, 1, 3])
def test_observed_logits_of_zero(value):
    # The density of an observation is affected as well.
    def program(t):
        numpyro.sample("x", dist.Binomial(total_count=3, logits=t), obs=value)
        numpyro.sample("y", dist.Bernoulli(logits=t), obs=min(value, 1))

    gradient = jax.grad(lambda t: ppgen.expectation(ppgen.log_density(program))(KEY, {}, t))(0.0)
    assert np.isclose(gradient, value - 1.5 + min(value, 1) - 0.5)


def test_infer_is_not_shared_between_sites_or_mutated():
    infer = {"grad": ScoreFunction()}

    def program(t):
        def step(carry, _):
            b = numpyro.sample("b", dist.Bernoulli(t), infer=infer)
            return carry, b * 1.0

        return jnp.sum(numpyro_scan(step, None, None, length=2)[1])

    ppgen.expectation(lambda t: ppgen.simulate(program)(t).value)(KEY, 0.3)
    assert set(infer) == {"grad"} and isinstance(infer["grad"], ScoreFunction)


def test_a_users_distribution_without_pytree_fields():
    class Shifted(dist.Distribution):
        support = dist.constraints.real

        def __init__(self, loc):
            self.loc = loc
            super().__init__(jnp.shape(loc), ())

        def sample(self, key, sample_shape=()):
            return self.loc + jax.random.normal(key, sample_shape + self.batch_shape)

        def log_prob(self, value):
            return dist.Normal(self.loc, 1.0).log_prob(value)

    def f(t):
        x = jax.vmap(lambda p: ppgen.draw(Shifted(p)))(t)
        return x[0] * x[1] + jnp.sum(x**2)

    # It declares no parameter, so it gets the score function, and the right gradient.
    check(f, [0.3, 0.6], lambda t: t[0] * t[1] + t[0] ** 2 + t[1] ** 2 + 2, samples=12_000)


def test_vmapped_distribution_keeps_its_batch_shape():
    def program(p):
        return numpyro.sample("x", dist.Normal(p, 1.0).expand([2]).to_event(1))

    def f(t):
        trace = jax.vmap(lambda p: ppgen.simulate(program)(p))(t)
        assert trace["x"].shape == (3, 2) and trace.log_density.shape == (3,)
        return jnp.sum(trace["x"] ** 2) + 0.0 * jnp.sum(trace.log_density)

    check(f, [0.3, 0.6, 0.1], lambda t: 2 * np.sum(t**2) + 6)
