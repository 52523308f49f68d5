"""Unbiased estimates from consistent ones: means against closed forms, what is refused, reports."""

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
from ppgen import Enumerate, MeasureValued, Reparameterize, ScoreFunction
from ppgen._programs import debias as module
from ppgen.inference import fivo, forward_kl, iwelbo, log_evidence


def log_mean(draws):
    """The family of `log(mean of n draws)`; `draws(n, theta)` are `(n,)`."""
    return lambda n: lambda theta: jnp.log(jnp.mean(draws(n, theta)))


def gamma(theta, name="x", grad=None):
    return ppgen.draw(dist.Gamma(3.0, 3.0 / theta), name=name, grad=grad)


def particles(one):
    return lambda n, theta: jax.vmap(lambda _: one(theta))(jnp.arange(n))


def estimates(f, *args, count=40_000, seed=0):
    run = jax.jit(
        jax.vmap(jax.value_and_grad(ppgen.expectation(f), argnums=1), (0,) + (None,) * len(args))
    )
    value, gradient = run(jax.random.split(jax.random.key(seed), count), *args)
    return np.column_stack([value, gradient]).astype(float)


def z_scores(found, exact):
    error = found.std(axis=0) / np.sqrt(len(found)) + 1e-5
    return np.abs(found.mean(axis=0) - exact) / error


def log_mean_of_gammas(n):
    """E log of the mean of n Gamma(3, 3): itself a Gamma(3n, 3n)."""
    return special.digamma(3 * n) - np.log(3 * n)


FORMS = ["single", "roulette"]


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", [1, 3])
def test_mean_is_that_of_the_last_level(form, base):
    """Exactly: with three levels the bias that is left would show."""
    f = ppgen.debias(log_mean(particles(gamma)), base=base, levels=3, form=form)
    exact = np.array([np.log(2.0) + log_mean_of_gammas(8 * base), 0.5])
    assert f.max_particles == 8 * base
    assert np.all(z_scores(estimates(f, 2.0), exact) < 4.5)
    # The estimate of the first level is found to be off, and so would be that of one level less.
    first = estimates(f.difference(0), 2.0)
    assert z_scores(first, exact)[0] > 20


@pytest.mark.parametrize(
    ("estimator", "form"),
    [(Reparameterize(), "single"), (ScoreFunction(), "roulette")],
)
def test_log_evidence_of_a_normal_model(estimator, form):
    def model(t, x):
        z = numpyro.sample("z", dist.Normal(t, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(t, x):
        numpyro.sample("z", dist.Normal(0.4 * x + 0.5 * t, 0.9), infer={"grad": estimator})

    def exact(t):
        return jax.scipy.stats.norm.logpdf(2.0, t, jnp.sqrt(2.0))

    f = log_evidence(model, guide, levels=6, form=form)
    found = estimates(f, 0.3, 2.0, count=20_000)
    right = np.array([exact(0.3), jax.grad(exact)(0.3)])
    # The 64 particles of the last level leave a bias of 2e-3.
    assert np.all(z_scores(found, right) < 4.5)
    # The bound of as many particles as it draws on average is off.
    assert f.mean_particles < 8
    bound = estimates(iwelbo(model, guide, particles=8), 0.3, 2.0)
    assert z_scores(bound, right)[0] > 10


@pytest.mark.long
def test_a_million_draws_of_the_log_evidence():
    """One after the other, so that no level is computed that was not drawn."""

    def model(t, x):
        z = numpyro.sample("z", dist.Normal(t, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(t, x):
        numpyro.sample("z", dist.Normal(0.4 * x + 0.2 * t, 0.9))

    def exact(t):
        return jax.scipy.stats.norm.logpdf(2.0, t, jnp.sqrt(2.0))

    f = log_evidence(model, guide, levels=12)
    one = jax.value_and_grad(ppgen.expectation(f), argnums=1)
    run = jax.jit(lambda keys: jax.lax.map(lambda key: one(key, 0.3, 2.0), keys))
    found = run(jax.random.split(jax.random.key(0), 1_000_000))
    found = np.stack(found, axis=1).astype(float)
    right = np.array([exact(0.3), jax.grad(exact)(0.3)])
    assert np.all(z_scores(found, right) < 4)
    bound = iwelbo(model, guide, particles=round(f.mean_particles))
    assert np.all(z_scores(estimates(bound, 0.3, 2.0, count=1_000_000), right) > 20)


@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate(), MeasureValued()])
def test_flips(estimator):
    """Discrete particles, whose joint law has few values."""

    def family(n):
        def f(t):
            one = lambda _: ppgen.draw(dist.Bernoulli(t), name="b", grad=estimator)  # noqa: E731
            return jnp.log1p(jnp.mean(jax.vmap(one)(jnp.arange(n)).astype(float)))

        return f

    def exact(t):
        k = jnp.arange(5)
        mass = jnp.exp(dist.Binomial(4, t).log_prob(k))
        return jnp.sum(mass * jnp.log1p(k / 4))

    found = estimates(ppgen.debias(family, levels=2), 0.3)
    assert np.all(z_scores(found, np.array([exact(0.3), jax.grad(exact)(0.3)])) < 4.5)


def test_forward_divergence_has_the_gradient_of_the_posterior():
    """Self-normalised weights are consistent only; debiased, the gradient is that of the limit."""
    p = np.array([0.5, 0.3, 0.2])  # of z; p(x | z) is proportional to z + 1
    posterior = p * np.arange(1, 4) / np.sum(p * np.arange(1, 4))

    def model(t):
        z = numpyro.sample("z", dist.Categorical(jnp.array(p)))
        numpyro.factor("x", jnp.log(z + 1.0))

    def guide(t):
        numpyro.sample("z", dist.Categorical(logits=t * jnp.array([0.0, 1.0, -1.0])))

    def exact(t):
        return -jnp.sum(posterior * jax.nn.log_softmax(t * jnp.array([0.0, 1.0, -1.0])))

    right = np.array([exact(0.7), jax.grad(exact)(0.7)])
    f = ppgen.debias(lambda n: forward_kl(model, guide, particles=n), base=2, levels=5)
    assert np.all(z_scores(estimates(f, 0.7, count=20_000), right) < 4.5)
    assert z_scores(estimates(f.difference(0), 0.7), right)[1] > 10


@pytest.mark.long
def test_runs_of_a_particle_filter_are_particles():
    """Whose own particles depend on each other, which is no matter."""
    xs = jnp.array([1.2, -0.3])

    def step(state, x, t):
        z = numpyro.sample("z", dist.Bernoulli(logits=t - 0.8 * state))
        numpyro.sample("x", dist.Normal(1.5 * z, 1.0), obs=x)
        return z

    run = fivo(step, particles=2)

    def family(n):
        def log_mean(t):
            logs = jax.vmap(lambda _: run(jnp.array(0), xs, t))(jnp.arange(n))
            return jax.nn.logsumexp(logs) - jnp.log(n)

        return log_mean

    def exact(t):
        total = 0.0
        for a, b in itertools.product((0.0, 1.0), repeat=2):
            p = jax.nn.sigmoid(t), jax.nn.sigmoid(t - 0.8 * a)
            mass = (p[0] if a else 1 - p[0]) * (p[1] if b else 1 - p[1])
            x = jax.scipy.stats.norm.logpdf(xs, 1.5 * jnp.array([a, b])).sum()
            total += mass * jnp.exp(x)
        return jnp.log(total)

    right = np.array([exact(0.3), jax.grad(exact)(0.3)])
    # The 32 runs of the last level leave a bias of 2e-3.
    assert np.all(z_scores(estimates(ppgen.debias(family, levels=5), 0.3), right) < 4.5)
    assert z_scores(estimates(family(1), 0.3), right)[0] > 6
    # Particles of one filter are refused.
    one = ppgen.debias(lambda n: lambda t: fivo(step, particles=n)(jnp.array(0), xs, t), base=2)
    with pytest.raises(ppgen.PpgenError, match="ancestors"):
        ppgen.expectation(one)(jax.random.key(0), 0.3)


@pytest.mark.long
def test_loops_shared_draws_keys_and_sites():
    def walk(theta):
        step = lambda c, _: (c * gamma(theta), None)  # noqa: E731
        return jax.lax.scan(step, 1.0, None, length=2)[0]

    def shared(n, theta):
        scale = gamma(theta, name="a")
        return jax.vmap(lambda _: gamma(scale, name="b"))(jnp.arange(n))

    def plate(n, theta):
        with numpyro.plate("particles", n):
            return numpyro.sample("x", dist.Gamma(3.0, 3.0 / theta))

    def keys(n, theta):
        each = jax.random.split(numpyro.prng_key(), n)
        return jax.vmap(lambda k: theta * jax.random.gamma(k, 3.0) / 3.0)(each)

    rest = log_mean_of_gammas(8)
    cases = {
        "plate": (plate, np.log(2.0) + rest, 0.5),
        "batch": (
            lambda n, t: ppgen.draw(dist.Gamma(3.0 * jnp.ones(n), 3.0 / t), name="x"),
            np.log(2.0) + rest,
            0.5,
        ),
        "expanded": (
            lambda n, t: ppgen.draw(dist.Gamma(3.0, 3.0 / t).expand([n]), name="x"),
            np.log(2.0) + rest,
            0.5,
        ),
        "keys": (keys, np.log(2.0) + rest, 0.5),
        # A draw that all particles share stays in the limit.
        "shared": (shared, np.log(2.0) + log_mean_of_gammas(1) + rest, 0.5),
    }
    for name, (draws, value, slope) in cases.items():
        found = estimates(ppgen.debias(log_mean(draws), levels=3), 2.0, count=5_000)
        assert np.all(z_scores(found, np.array([value, slope])) < 4.5), name
    found = estimates(ppgen.debias(log_mean(particles(walk)), levels=3), 2.0, count=10_000)
    eight = estimates(log_mean(particles(walk))(8), 2.0, count=40_000, seed=1)
    assert np.all(z_scores(found - eight.mean(axis=0), np.zeros(2)) < 4.5)


def test_batches_draws_and_jit():
    f = ppgen.debias(log_mean(particles(gamma)), levels=3)
    mean = np.log(2.0) + log_mean_of_gammas(8)
    many = ppgen.expectation(f, draws=10_000)
    assert abs(float(jax.jit(many)(jax.random.key(0), 2.0)) - mean) < 0.03
    each = ppgen.expectation(lambda t: jnp.mean(jax.vmap(f)(t * jnp.ones(3))), draws=5_000)
    assert abs(float(each(jax.random.key(1), 2.0)) - mean) < 0.03
    assert abs(float(jax.grad(each, argnums=1)(jax.random.key(1), 2.0)) - 0.5) < 0.03


def test_twice_the_weight_is_found(monkeypatch):
    """The power of the tests above: levels that are weighted by another probability."""
    wrong = property(lambda self: 2 * self.probabilities)
    monkeypatch.setattr(module.Debiased, "_reached", wrong)
    f = ppgen.debias(log_mean(particles(gamma)), levels=3)
    exact = np.array([np.log(2.0) + log_mean_of_gammas(8), 0.5])
    assert z_scores(estimates(f, 2.0), exact)[0] > 6


def _chain(n, theta):
    a = ppgen.draw(dist.Gamma(3.0, 3.0 / theta).expand([n]), name="a")
    return ppgen.draw(dist.Gamma(3.0, 3.0 / jnp.roll(a, 1)), name="b")


def _resampled(n, theta):
    a = ppgen.draw(dist.Gamma(3.0, 3.0 / theta).expand([n]), name="a")
    return a[ppgen.draw(dist.Categorical(logits=a).expand([n]), name="i")]


def _of_the_mean(n, theta):
    a = ppgen.draw(dist.Gamma(3.0, 3.0 / theta).expand([n]), name="a")
    return ppgen.draw(dist.Gamma(3.0, 3.0 / jnp.mean(a)).expand([n]), name="b")


def _carried(n, theta):
    """The mean of the particles of a step is a parameter of the next."""

    def step(c, _):
        x = ppgen.draw(dist.Gamma(3.0, 3.0 / c).expand([n]), name="x")
        return jnp.mean(x), x

    return jax.lax.scan(step, theta, None, length=2)[1][-1]


def _branch(n, theta):
    one = lambda: gamma(theta)  # noqa: E731
    return particles(lambda t: jax.lax.cond(t > 0, one, lambda: 1.0))(n, theta)


def _one_by_one(n, theta):
    return jnp.stack([gamma(theta) for _ in range(n)])


DEPENDENT = {
    "other particles": (_chain, "depends on 'a' of other particles"),
    "resampling": (_resampled, "depends on 'a' of other particles"),
    "a mean": (_of_the_mean, "depends on 'a' of other particles"),
    "a mean in a loop": (_carried, "depends on 'x' of other particles"),
    "their number": (particles_of_n := lambda n, t: particles(
        lambda t: ppgen.draw(dist.Gamma(3.0 + n, 3.0 / t), name="x"))(n, t), "law"),
    "their index": (
        lambda n, t: jax.vmap(lambda i: ppgen.draw(dist.Gamma(3.0 + i, 3.0 / t), name="x"))(
            jnp.arange(n)
        ),
        "law",
    ),
    "a grid": (
        lambda n, t: ppgen.draw(dist.Gamma(jnp.linspace(1.0, 3.0, n), 3.0 / t), name="x"),
        "law",
    ),
    "a grid of NumPy": (
        lambda n, t: ppgen.draw(dist.Gamma(np.linspace(1.0, 3.0, n), 3.0 / t), name="x"),
        "law",
    ),
    "a running sum": (
        lambda n, t: ppgen.draw(dist.Gamma(jnp.cumsum(jnp.ones(n)), 3.0 / t), name="x"),
        "law",
    ),
    "a sum over them": (
        lambda n, t: ppgen.draw(dist.Gamma(jnp.sum(jnp.ones(n)), 3.0 / t).expand([n]), name="x"),
        "law",
    ),
    "a power of their number": (
        lambda n, t: ppgen.draw(dist.Gamma(3.0, 3.0 / t**n).expand([n]), name="x"),
        "law",
    ),
    "an edge": (
        lambda n, t: ppgen.draw(
            dist.Gamma(jnp.convolve(t * jnp.ones(n), jnp.ones(3), mode="same"), 1.0), name="x"
        ),
        "law",
    ),
    "parts of one value": (
        lambda n, t: t * jnp.exp(ppgen.draw(dist.GaussianRandomWalk(0.5, num_steps=n), name="x")),
        "parts of one value",
    ),
    "correlated": (
        lambda n, t: jnp.exp(
            ppgen.draw(dist.MultivariateNormal(jnp.zeros(n), t * jnp.eye(n)), name="x")
        ),
        "parts of one value",
    ),
    "noise from a key": (
        lambda n, t: ppgen.draw(
            dist.Gamma(1.0 + jax.random.uniform(numpyro.prng_key(), (n,)), 1.0 / t), name="x"
        ),
        "law",
    ),
    "as many steps": (
        lambda n, t: ppgen.draw(
            dist.Gamma(jax.lax.scan(lambda c, _: (c + 1.0, None), t, None, length=n)[0], 1.0)
            .expand([n]),
            name="x",
        ),
        "law",
    ),
    "another number": (
        lambda n, t: ppgen.draw(dist.Gamma(3.0, 3.0 / t).expand([n + 1]), name="x"),
        "shape",
    ),
    "a branch": (_branch, "draws in cond"),
    "one by one": (_one_by_one, "with half as many"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPENDENT)
def test_particles_that_are_not_independent_are_refused(name):
    draws, says = DEPENDENT[name]
    g = ppgen.expectation(ppgen.debias(log_mean(draws), base=2, levels=2))
    with pytest.raises(ppgen.PpgenError, match=says):
        g(jax.random.key(0), 2.0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"base": 0}, "at least 1"),
        ({"levels": 0}, "at least 1"),
        ({"rate": 1.0}, "expected cost"),
        ({"rate": 2.0}, "variance"),
        ({"rate": float("nan")}, "rate"),
        ({"form": "both"}, "roulette"),
    ],
)
def test_arguments_that_make_no_sense(arguments, says):
    # The types are checked in these tests, and say so first.
    with pytest.raises((ValueError, TypeError), match=says):
        ppgen.debias(log_mean(particles(gamma)), **arguments)


def test_decay_of_a_smooth_function_and_of_one_with_a_kink():
    smooth = ppgen.decay(ppgen.debias(log_mean(particles(gamma))), levels=5, draws=4000)
    found = smooth(jax.random.key(0), 2.0)
    # Of the logarithm of a mean: 4^-k in the limit.
    assert 1.8 < found.exponent < 3.0
    assert found.particles == (1, 2, 4, 8, 16, 32)
    assert abs(found.mean[0] - np.log(2.0) - log_mean_of_gammas(1)) < 0.05
    assert "mean square" in str(found) and "32" in str(found)

    def kinked(n):
        one = lambda t: ppgen.draw(dist.Normal(t, 1.0), name="x")  # noqa: E731
        return lambda t: jnp.sqrt(jnp.abs(jnp.mean(particles(one)(n, t))) + 1e-12)

    with pytest.raises(ppgen.PpgenError, match="grows without bound") as info:
        ppgen.decay(ppgen.debias(kinked, rate=1.9), levels=6, draws=4000)(jax.random.key(0), 0.0)
    assert "no rate" in str(info.value)
