"""Distrax distributions as NumPyro ones."""

from __future__ import annotations

import subprocess
import sys

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density

from ppgen._distributions.pathwise import has_pathwise_derivative
from ppgen._distributions.rebuild import flatten
from ppgen._distributions.wrappers import split_event
from ppgen.densities import log_prob
from ppgen.distrax import Distrax, from_distrax
from ppgen.errors import EstimatorError
from ppgen.estimators import Enumerate, MeasureValued, Reparameterize

T = np.array([0.3, 0.8])
# How each is made of a parameter vector, whether it has a pathwise derivative, whether NumPyro
# has it natively.
ZOO = {
    "bernoulli": (lambda t: distrax.Bernoulli(probs=t), False, True),
    "bernoulli_logits": (lambda t: distrax.Bernoulli(logits=t), False, True),
    "categorical": (lambda t: distrax.Categorical(probs=t), False, True),
    "categorical_logits": (lambda t: distrax.Categorical(logits=t), False, True),
    "normal": (lambda t: distrax.Normal(t[0], t[1]), True, True),
    "log_stddev": (lambda t: distrax.LogStddevNormal(t[0], t[1]), True, True),
    "mvn_diag": (lambda t: distrax.MultivariateNormalDiag(t, t + 0.1), True, True),
    "independent": (lambda t: distrax.Independent(distrax.Normal(t, t + 0.1), 1), True, True),
    "independent_bernoulli": (lambda t: distrax.Independent(distrax.Bernoulli(t), 1), False, True),
    "mixture": (
        lambda t: distrax.MixtureSameFamily(distrax.Categorical(logits=t), distrax.Normal(t, t)),
        True,
        True,
    ),
    "mixture_uniform": (
        lambda t: distrax.MixtureSameFamily(
            distrax.Categorical(logits=t), distrax.Uniform(t - 1, t + 1)
        ),
        False,
        False,
    ),
    "mvn_tri": (
        lambda t: distrax.MultivariateNormalTri(t, jnp.eye(2) * t[0] + 0.1),
        True,
        False,
    ),
    "transformed": (
        lambda t: distrax.Transformed(distrax.Normal(t, t + 0.1), distrax.Tanh()),
        True,
        False,
    ),
    "transformed_lambda": (
        lambda t: distrax.Transformed(
            distrax.Normal(t[0], t[1]),
            distrax.Lambda(
                forward=lambda x: x * t[1],
                inverse=lambda y: y / t[1],
                forward_log_det_jacobian=lambda x: jnp.log(t[1]) + 0 * x,
                inverse_log_det_jacobian=lambda y: -jnp.log(t[1]) + 0 * y,
                event_ndims_in=0,
                is_constant_jacobian=True,
            ),
        ),
        True,
        False,
    ),
    "independent_transformed": (
        lambda t: distrax.Independent(
            distrax.Transformed(distrax.Logistic(t, t + 0.1), distrax.Sigmoid()), 1
        ),
        True,
        True,
    ),
    "gamma": (lambda t: distrax.Gamma(t[0] + 1, t[1]), True, False),
    "beta": (lambda t: distrax.Beta(t[0] + 1, t[1] + 1), True, False),
    "dirichlet": (lambda t: distrax.Dirichlet(t + 1), True, False),
    "uniform": (lambda t: distrax.Uniform(t[0], t[0] + t[1]), True, False),
    "gumbel": (lambda t: distrax.Gumbel(t[0], t[1]), True, False),
    "laplace": (lambda t: distrax.Laplace(t[0], t[1]), True, False),
    "logistic": (lambda t: distrax.Logistic(t[0], t[1]), True, False),
    "clipped": (lambda t: distrax.Clipped(distrax.Normal(t[0], t[1]), -1.0, 1.0), True, False),
    "von_mises": (lambda t: distrax.VonMises(t[0], t[1]), False, False),
    "one_hot": (lambda t: distrax.OneHotCategorical(logits=t), False, False),
    "quantized": (lambda t: distrax.Quantized(distrax.Normal(t[0], t[1])), False, False),
    "straight_through": (
        lambda t: distrax.straight_through_wrapper(distrax.OneHotCategorical)(logits=t),
        False,
        False,
    ),
}


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", ZOO)
def test_same_density_and_shapes(name):
    """The density is Distrax's, also through `flatten` under a trace."""
    make, pathwise, native = ZOO[name]
    t = jnp.asarray(T, jnp.float32)
    theirs, ours = make(t), from_distrax(make(t))
    assert isinstance(ours, Distrax) != native
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert has_pathwise_derivative(ours) == pathwise
    assert ours.support.is_discrete == (not jnp.issubdtype(theirs.dtype, jnp.inexact))
    value = theirs.sample(seed=jax.random.key(1), sample_shape=(5,))
    assert ours.sample(jax.random.key(0), (5,)).shape == value.shape
    wanted = theirs.log_prob(value)
    np.testing.assert_allclose(log_prob(ours, value), wanted, rtol=2e-5, atol=2e-5)

    @jax.jit
    def through_flatten(t):
        leaves, structure = flatten(from_distrax(make(t)))
        assert leaves and all(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        return log_prob(structure.build(leaves), value)

    np.testing.assert_allclose(through_flatten(t), wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize(
    "name", [k for k, (_, pathwise, native) in ZOO.items() if pathwise and not native]
)
def test_pathwise_derivative(name):
    """Differentiated samples agree with the difference of expectations, with many draws."""
    make = ZOO[name][0]
    n = 1000 if name in ("gamma", "beta", "dirichlet") else 20_000
    keys = jax.random.split(jax.random.key(0), n)

    def cost(t, key):
        x = from_distrax(make(t)).sample(key)
        return jnp.tanh(x * jnp.arange(1.0, x.size + 1).reshape(x.shape)).sum()

    t, h = jnp.asarray(T, jnp.float32), 0.1
    got = jax.jit(jax.vmap(jax.grad(cost), in_axes=(None, 0)))(t, keys)
    assert np.all(np.abs(got).max(0) > 0)
    means = jax.jit(jax.vmap(lambda t: jax.vmap(cost, in_axes=(None, 0))(t, keys)))
    # Fourth order, with common random numbers: rejection samplers make them noisy, not biased.
    steps = jnp.array([1.0, -1.0, 2.0, -2.0])[:, None, None] * h * jnp.eye(2)
    f = means((t + steps).reshape(8, 2)).reshape(4, 2, n)
    wanted = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h)
    error = np.abs(got.mean(0) - wanted.mean(1))
    noise = np.sqrt(np.var(got, axis=0) + np.var(wanted, axis=1)) / np.sqrt(n)
    assert np.all(error < 4.5 * noise + 2e-3), (got.mean(0), wanted.mean(1))


def test_estimators_fit_native_families():
    """What NumPyro has too is served by the estimators that know the family."""
    assert Enumerate().misfit(from_distrax(distrax.Categorical(logits=jnp.zeros(3)))) is None
    assert MeasureValued().misfit(from_distrax(distrax.Bernoulli(0.5))) is None
    elementwise, n = split_event(from_distrax(ZOO["mvn_diag"][0](jnp.asarray(T))))
    assert n == 1 and MeasureValued().misfit(elementwise) is None
    assert Reparameterize().misfit(from_distrax(distrax.VonMises(0.0, 1.0))) is not None


def test_in_a_numpyro_model():
    """In plates, and differentiated."""

    def model(t):
        with numpyro.plate("data", 3):
            numpyro.sample("x", from_distrax(distrax.Gamma(t, 1.0)))
            numpyro.sample("y", from_distrax(distrax.Normal(t, 1.0)))

    choices = {"x": jnp.ones(3), "y": jnp.zeros(3)}
    got = jax.grad(lambda t: log_density(model, (t,), {}, choices)[0])(2.0)
    wanted = jax.grad(lambda t: 3 * (dist.Gamma(t).log_prob(1.0) + dist.Normal(t).log_prob(0.0)))(
        2.0
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_moments_and_jit():
    """Moments are Distrax's; the wrapper is a pytree of the Distrax arrays."""
    d = from_distrax(distrax.Gamma(jnp.array([2.0, 3.0]), jnp.array(1.5)))
    np.testing.assert_allclose(d.mean, [4 / 3, 2.0], rtol=1e-6)
    np.testing.assert_allclose(d.variance, d.mean / 1.5, rtol=1e-6)
    np.testing.assert_allclose(d.cdf(jnp.inf), 1.0)
    np.testing.assert_allclose(
        d.entropy(), dist.Gamma(jnp.array([2.0, 3.0]), 1.5).entropy(), rtol=1e-5
    )
    np.testing.assert_allclose(jax.jit(lambda d: d.log_prob(1.0))(d), d.log_prob(1.0), rtol=1e-6)
    assert d.expand((4, 2)).sample(jax.random.key(0)).shape == (4, 2)


@pytest.mark.parametrize("other", [dist.Normal(), 1.0, "joint"])
def test_refuses_others(other):
    """With an error that says what to write."""
    if other == "joint":
        other = distrax.Joint({"a": distrax.Normal(0.0, 1.0)})
    with pytest.raises(EstimatorError, match="Write instead: from_distrax"):
        from_distrax(other)


def test_import_is_lazy():
    """`import ppgen` must not pay for Distrax."""
    code = "import sys, ppgen, ppgen.distrax; sys.exit('tensorflow_probability' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
