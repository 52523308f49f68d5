"""Sites that draw and transform: value and density from the same intermediates, jumps seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.errors import DiscontinuityError
from ppgen.inference import elbo

T = dist.transforms
KEY = jax.random.key(0)


def flat(t):
    numpyro.sample("z", dist.Uniform(0, 1))


def squashed(t):
    numpyro.sample("z", dist.TransformedDistribution(dist.Normal(t, 1.0), T.SigmoidTransform()))


@pytest.mark.parametrize("t", [-30.0, -8.0, 0.5, 16.0, 60.0])
def test_the_entropy_of_a_squashed_normal_has_its_slope_where_draws_saturate(t):
    """In single precision, against quadrature in double."""
    x, step = np.linspace(t - 9, t + 9, 20_001, retstep=True)
    weight = np.exp(-0.5 * (x - t) ** 2) / np.sqrt(2 * np.pi) * step
    entropy = 0.5 * np.log(2 * np.pi * np.e) - weight @ (np.logaddexp(0, x) + np.logaddexp(0, -x))
    slope = -weight @ np.tanh(x / 2)
    g = jax.value_and_grad(ppgen.expectation(elbo(flat, squashed)), argnums=1)
    found = jax.jit(jax.vmap(g, (0, None)))(jax.random.split(KEY, 4000), t)
    for values, exact in zip(found, (entropy, slope), strict=True):
        error = np.std(values, dtype=float) / 4000**0.5
        assert abs(np.mean(values, dtype=float) - exact) < 5 * error + 1e-5 * abs(exact)


NORMAL = dist.Normal(jnp.array([0.3, -0.8]), jnp.array([0.5, 1.5]))
DISTRIBUTIONS = {
    "sigmoid": dist.TransformedDistribution(NORMAL, T.SigmoidTransform()),
    "softplus": dist.TransformedDistribution(NORMAL, T.SoftplusTransform()),
    "two": dist.TransformedDistribution(
        NORMAL, [T.AffineTransform(1.0, 2.0), T.SigmoidTransform()]
    ),
    "event": dist.TransformedDistribution(NORMAL, T.SigmoidTransform()).to_event(1),
    "expanded": dist.TransformedDistribution(NORMAL, T.SigmoidTransform()).expand((3, 2)),
    "simplex": dist.TransformedDistribution(NORMAL.to_event(1), T.StickBreakingTransform()),
    "simplices": dist.TransformedDistribution(
        NORMAL.to_event(1), T.StickBreakingTransform()
    ).expand((4,)),
    "correlations": dist.TransformedDistribution(
        dist.Normal(jnp.array([0.2, -0.4, 0.1]), 0.5).to_event(1), T.CorrCholeskyTransform()
    ),
}


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("around", ["nothing", "plate", "mask", "scale"])
def test_the_density_is_that_of_the_value(name, around):
    d = DISTRIBUTIONS[name]
    if around == "mask":
        d = d.mask(jnp.arange(len(d.batch_shape or (1,)) + 1)[-1] > 5)

    def program():
        if around == "plate":
            batch = d.batch_shape
            with numpyro.plate("n", 5, dim=-1 - len(batch)):
                return numpyro.sample("z", d)
        with numpyro.handlers.scale(scale=3.0 if around == "scale" else 1.0):
            return numpyro.sample("z", d)

    trace = ppgen.seed(ppgen.simulate(program))(KEY)
    assert trace["z"].shape == trace.value.shape
    given = ppgen.log_density(program)(trace.choices)
    np.testing.assert_allclose(trace.log_density, given, rtol=2e-4, atol=2e-4)


def test_moves_with_the_parameters_of_base_and_transforms():
    def f(t):
        d = dist.TransformedDistribution(
            dist.Normal(t[0], 1.0), [T.SigmoidTransform(), T.AffineTransform(t[1], t[2])]
        )
        return ppgen.simulate(lambda: numpyro.sample("z", d))().value ** 2

    def by_hand(key, t):
        return (t[1] + t[2] * jax.nn.sigmoid(t[0] + jax.random.normal(key))) ** 2

    t = jnp.array([0.3, -0.2, 1.5])
    keys = jax.random.split(KEY, 20_000)
    g = jax.jit(jax.vmap(jax.grad(ppgen.expectation(f), argnums=1), (0, None)))(keys, t)
    hand = jax.jit(jax.vmap(jax.grad(by_hand, argnums=1), (0, None)))(keys, t)
    error = np.hypot(np.std(g, 0), np.std(hand, 0)) / len(keys) ** 0.5
    assert (abs(g.mean(0) - hand.mean(0)) < 5 * error).all()


def test_jumps_after_and_before_the_transform_are_refused():
    def after(t):
        z = numpyro.sample(
            "z", dist.TransformedDistribution(dist.Normal(t, 1.0), T.SigmoidTransform())
        )
        return jnp.where(z > 0.5, 1.0, 0.0)

    def before(t):
        x = numpyro.sample("x", dist.Normal(t, 1.0))
        shift = jnp.where(x > 0, 1.0, 0.0)
        d = dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.AffineTransform(shift, 1.0)]
        )
        return numpyro.sample("z", d)

    for f in (after, before):
        with pytest.raises(DiscontinuityError):
            ppgen.expectation(f)(KEY, 0.3)
