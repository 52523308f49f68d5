"""In low precision the verdict of the laws is the same: gradients are right within resolution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen.inference import elbo, fit

KEY = jax.random.key(2)
RESOLUTION = 2.0**-8


def normal_variance(scale):
    return ppgen.draw(dist.Normal(0.0, scale), name="x") ** 2


def rare_flip(p):
    return 3.0 * ppgen.draw(dist.Bernoulli(p), name="b", grad=ppgen.ScoreFunction())


def rare_class(p):
    probs = jnp.stack([1 - p, p / 2, p / 2])
    return 1.0 * ppgen.draw(dist.Categorical(probs=probs), name="c", grad=ppgen.ScoreFunction())


def enumerated(p):
    b = ppgen.draw(dist.Bernoulli(p).expand([3]), name="b", grad=ppgen.Enumerate())
    return jnp.sum(b * jnp.array([1.0, 2.0, 4.0]))


def counts(rate):
    return 1.0 * ppgen.draw(dist.Poisson(rate), name="n", grad=ppgen.ScoreFunction())


# Objective, parameter, exact derivative.
CASES = {
    "pathwise": (normal_variance, 0.5, 1.0),
    "score": (rare_flip, 0.001, 3.0),
    "categorical": (rare_class, 0.01, 1.5),
    "enumerated": (enumerated, 0.3, 7.0),
    "poisson": (counts, 3.0, 1.0),
}


@pytest.mark.parametrize(("f", "at", "exact"), CASES.values(), ids=CASES)
def test_the_mean_gradient_is_exact_within_resolution(f, at, exact):
    """The rare flip, drawn in bfloat16, was off by a factor of eight."""

    def gradient(key):
        low = jax.grad(lambda p: ppgen.expectation(f)(key, p.astype(jnp.bfloat16)))
        return low(jnp.float32(at))

    found = jax.jit(jax.vmap(gradient))(jax.random.split(KEY, 200_000))
    assert found.dtype == jnp.float32
    found = np.asarray(found, np.float64)
    error = found.std() / np.sqrt(len(found))
    # Five standard errors: one false alarm in two million.
    assert abs(found.mean() - exact) < 2 * RESOLUTION * abs(exact) + 5 * error


@pytest.mark.long
def test_power_of_the_test_above():
    """A flip drawn as JAX draws it in bfloat16 does not pass it."""
    p = jnp.full(200_000, 0.001, jnp.bfloat16)
    assert abs(jax.random.bernoulli(KEY, p).mean() - 0.001) > 0.002


def test_densities_are_summed_in_single_precision():
    def model(loc):
        with numpyro.plate("N", 5000):
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=jnp.ones(5000, jnp.bfloat16))

    for loc in (0.5, jnp.bfloat16(0.5)):
        low = ppgen.log_density(model)({}, loc)
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, 5000 * (-0.125 - 0.5 * np.log(2 * np.pi)), rtol=1e-5)


def test_fit_computes_in_low_precision_and_keeps_single():
    seen = []

    def model(params, x):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        loc = params["w"] @ z.astype(params["w"].dtype)
        seen.append((params["w"].dtype, params["count"].dtype, x.dtype, z.dtype, loc.dtype))
        numpyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(params, x):
        scale = jnp.exp(params["scale"])
        numpyro.sample("z", dist.Normal(params["v"] @ x, scale).to_event(1))

    data = jax.random.normal(KEY, (64, 3)) @ jnp.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 1]])
    bound = elbo(model, guide)
    batched = jax.vmap(bound, (None, 0))
    params = {"w": jnp.ones((3, 2)) * jnp.array([1.0, -1.0]) * 0.1, "v": jnp.zeros((2, 3))}
    params |= {"scale": jnp.zeros(2), "count": jnp.arange(3)}

    def run(dtype):
        return fit(
            lambda p, x: batched(p, x).mean(),
            params,
            optax.adam(0.02),
            key=KEY,
            steps=400,
            data=data,
            maximize=True,
            compute_dtype=dtype,
        )

    low = run(jnp.bfloat16)
    half, single, whole = (jnp.dtype(name) for name in ("bfloat16", "float32", "int32"))
    assert set(seen) == {(half, whole, half, single, half)}
    assert low.params["w"].dtype == low.history.dtype == jnp.float32
    full = run(None)
    # Of the same draws: the mean of the bound over the last steps, in nats.
    assert abs(low.history[-100:].mean() - full.history[-100:].mean()) < 0.02
    assert full.history[-100:].mean() > full.history[0] + 0.5
