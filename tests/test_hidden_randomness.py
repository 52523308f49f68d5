"""Randomness that a program draws from keys with its own hands, `seed` and nested expectations.

What is sound goes on to work, with the right derivative; what is not is an error that names a place
and gives advice that works.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import draw

R, pk = jax.random, numpyro.prng_key
nested = ppgen.expectation(lambda t: draw(dist.Bernoulli(t)) * 1.0)
nested_draws = ppgen.expectation(lambda t: draw(dist.Bernoulli(t)) * 1.0, draws=4)
pathwise = ppgen.expectation(lambda t: draw(dist.Normal(t, 1.0)))


def chosen(t):
    b = R.bernoulli(pk(), t)
    return jnp.where(b, 1.0, 2.0)


SOUND = {
    "normal": lambda t: R.normal(pk()) * t + t,
    "relu": lambda t: jax.nn.relu(R.normal(pk()) * t + t),
    "leaky": lambda t: jax.nn.leaky_relu(R.normal(pk()) * t + t),
    "lse": lambda t: jax.nn.logsumexp(R.normal(pk(), (3,)) * t + t),
    "softmax": lambda t: jax.nn.softmax(R.normal(pk(), (3,)) * t)[0],
    "const bern": lambda t: t * R.bernoulli(pk(), 0.5),
    "stopped": lambda t: t * R.bernoulli(pk(), jax.lax.stop_gradient(t)),
    "gamma": lambda t: R.gamma(pk(), t),
    "beta": lambda t: R.beta(pk(), t, 2.0),
    "uniform": lambda t: R.uniform(pk(), minval=t, maxval=2.0),
    "truncn": lambda t: R.truncated_normal(pk(), -t, 2.0),
    "laplace": lambda t: R.laplace(pk()) * t,
    "dirichlet": lambda t: R.dirichlet(pk(), jnp.ones(3) * t)[0],
    "studentt": lambda t: R.t(pk(), t),
    "perm": lambda t: R.permutation(pk(), jnp.arange(3.0) * t)[0],
    "choice": lambda t: R.choice(pk(), jnp.arange(3.0) * t),
    "nested linear": lambda t: 2 * nested(pk(), t) + t,
    "nested product": lambda t: nested(pk(), t) * nested(pk(), t),
    "nested vmap": lambda t: jnp.mean(jax.vmap(lambda a: nested(pk(), a))(t * jnp.ones(3) / 2)),
    "nested with draw": lambda t: nested(pk(), t) * draw(dist.Normal(t, 1.0)),
    "nested pathwise squared": lambda t: pathwise(pk(), t) ** 2,
    "seed pathwise": lambda t: ppgen.seed(lambda t: draw(dist.Normal(t, 1.0)))(pk(), t) ** 2,
    "seed frozen const": lambda t: t * ppgen.seed(lambda: draw(dist.Bernoulli(0.3)))(pk()),
    "nested scan": lambda t: jax.lax.scan(
        lambda c, k: (c + nested(k, t), None), 0.0, R.split(pk(), 3)
    )[0],
    "nested cond": lambda t: jax.lax.cond(
        draw(dist.Bernoulli(0.4)) == 1, lambda: nested(pk(), t), lambda: 0.0
    ),
    "nested draws": lambda t: nested_draws(pk(), t),
    "nested grad": lambda t: jax.grad(nested, argnums=1)(pk(), t),
    "nested score z": lambda t: (lambda z: z * nested(pk(), jax.nn.sigmoid(z * t)))(
        draw(dist.Bernoulli(t)) * 1.0
    ),
    "dropout": lambda t: jnp.where(R.bernoulli(pk(), 0.5, (3,)), t, 0.0).sum(),
}

UNSOUND = {
    "bern": lambda t: 1.0 * R.bernoulli(pk(), t),
    "bern where": chosen,
    "bern where moving": lambda t: jnp.where(R.bernoulli(pk(), t), t, t**2),
    "bern where other rand": lambda t: jnp.where(R.bernoulli(pk(), t), t * R.normal(pk()), 0.0),
    "bern split": lambda t: 1.0 * R.bernoulli(R.split(pk())[1], t),
    "cat": lambda t: R.categorical(pk(), jnp.array([0.0, 1.0, 2.0]) * t) * 1.0,
    "cat idx": lambda t: jnp.arange(3.0)[R.categorical(pk(), jnp.array([0.0, 1.0, 2.0]) * t)],
    "poisson": lambda t: R.poisson(pk(), t) * 1.0,
    "binomial": lambda t: R.binomial(pk(), 5, t) * 1.0,
    "geometric": lambda t: R.geometric(pk(), t) * 1.0,
    "choice p": lambda t: R.choice(pk(), jnp.arange(3.0), p=jnp.stack([t, 1 - t, 0 * t])),
    "normal>0": lambda t: 1.0 * (R.normal(pk()) + t > 0),
    "floor": lambda t: jnp.floor(R.normal(pk()) + t),
    "heaviside": lambda t: jnp.heaviside(R.normal(pk()) + t, 0.5),
    "frexp": lambda t: jnp.frexp(R.normal(pk()) + t)[0],
    "vmap bern": lambda t: jax.vmap(lambda k: R.bernoulli(k, t))(R.split(pk(), 3)).sum() * 1.0,
    "scan bern": lambda t: jax.lax.scan(
        lambda c, k: (c + R.bernoulli(k, t), None), 0.0, R.split(pk(), 3)
    )[0],
    "cond bern": lambda t: jax.lax.cond(R.bernoulli(pk(), t), lambda: 1.0, lambda: 0.0),
    "nested square": lambda t: nested(pk(), t) ** 2,
    "nested exp": lambda t: jnp.exp(nested(pk(), t)),
    "nested self": lambda t: (lambda a: a * a)(nested(pk(), t)),
    "nested same key": lambda t: (lambda k: nested(k, t) * nested(k, t))(pk()),
    "nested log": lambda t: jnp.log(nested(pk(), t) + 1),
    "nested vmap sq": lambda t: jnp.sum(
        jax.vmap(lambda a: nested(pk(), a))(t * jnp.ones(3) / 2) ** 2
    ),
    "nested param": lambda t: draw(dist.Normal(nested(pk(), t), 1.0)) ** 2,
    "nested max": lambda t: jnp.maximum(nested(pk(), t), 0.5),
    "nested >": lambda t: jnp.where(nested(pk(), t) > 0.5, 1.0, 0.0),
    "nested draws sq": lambda t: nested_draws(pk(), t) ** 2,
    "pin >": lambda t: jnp.where(pathwise(pk(), t) > 0.5, 1.0, 0.0),
    "seed bern": lambda t: ppgen.seed(lambda t: draw(dist.Bernoulli(t)))(pk(), t) * 1.0,
    "seed normal >": lambda t: 1.0 * (ppgen.seed(lambda t: draw(dist.Normal(t, 1.0)))(pk(), t) > 0),
    "obs suspect": lambda t: ppgen.log_density(
        lambda z: numpyro.sample("z", dist.Bernoulli(0.3), obs=z)
    )({}, R.bernoulli(pk(), t)),
    "seed cat score": lambda t: (
        ppgen.seed(
            lambda t: numpyro.sample(
                "z", dist.Normal(t, 1.0), infer={"grad": ppgen.ScoreFunction()}
            )
        )(pk(), t)
        ** 2
    ),
}


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", SOUND)
def test_sound_programs_work(name, jit):
    g = jax.grad(ppgen.expectation(SOUND[name]), argnums=1)
    assert jnp.isfinite((jax.jit(g) if jit else g)(R.key(0), 0.4))


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_programs_are_refused(name):
    """Where a derivative flows, in and outside of `jit`; each error says where and what instead."""
    g = ppgen.expectation(UNSOUND[name])
    for gradient in (jax.grad(g, argnums=1), jax.jit(jax.grad(g, argnums=1))):
        with pytest.raises((ppgen.errors.DiscontinuityError, ppgen.errors.DerivativeError)) as e:
            gradient(R.key(0), 0.4)
        assert e.value.where is None or __file__ in e.value.where
        assert e.value.instead


def check(f, exact, t=0.4, n=20_000):
    g = jax.value_and_grad(ppgen.expectation(f), argnums=1)
    for got, want in zip(
        jax.jit(jax.vmap(g, (0, None)))(R.split(R.key(1), n), t),
        jax.value_and_grad(exact)(t),
        strict=True,
    ):
        got = np.asarray(got, np.float64)
        assert abs(got.mean() - want) < 5 * got.std() / n**0.5 + 1e-3


def test_the_advice_is_right():
    """A choice instead of a sampler, two runs instead of a square, the program without `seed`."""
    check(lambda t: draw(dist.Bernoulli(t)) * 1.0, lambda t: t)
    check(lambda t: nested(pk(), t) * nested(pk(), t), lambda t: t**2)
    check(lambda t: (lambda p: draw(dist.Bernoulli(p)) * 1.0)(t), lambda t: t)
    stopped = lambda t: t * R.bernoulli(pk(), jax.lax.stop_gradient(t))  # noqa: E731
    g = jax.vmap(jax.grad(ppgen.expectation(stopped), argnums=1), (0, None))
    assert abs(g(R.split(R.key(1), 20_000), 0.4).mean() - 0.4) < 0.02


def test_a_value_alone_needs_no_derivative():
    """Nothing moves where the probability is a number."""
    f = ppgen.expectation(lambda: R.bernoulli(pk(), 0.3) * 1.0)
    assert f(R.key(0)) in (0.0, 1.0)


def test_auxiliary_results_may_jump():
    def f(t):
        return t**2, R.bernoulli(pk(), t)

    g = jax.grad(ppgen.expectation(f, has_aux=True), argnums=1, has_aux=True)
    assert g(R.key(0), 0.4)[0] == pytest.approx(0.8)
