"""Log densities: NumPyro's values, and derivatives that agree with differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import zoo

from ppgen import densities
from ppgen.densities import log_prob

OF_NO_WRAPPER = set(
    "arg_constraints reparametrized_params pytree_data_fields pytree_aux_fields is_discrete "
    "tree_flatten tree_unflatten rsample infer_shapes vmap_over expand has_rsample".split()
)
"""What is asked of a class, or to make another distribution."""


@pytest.fixture(autouse=True)
def x64():
    """Differences need double precision."""
    with jax.enable_x64(True):
        yield


def a_value(d):
    """Four values in the support, without the compilation of a sampler where that can be."""
    if d.support.is_discrete and not d.event_shape:
        return jnp.array([0, 1, 1, 0]) if "Bernoulli" in type(d).__name__ else jnp.arange(4) % 2
    try:
        transform = dist.biject_to(d.support)
        shape = transform.inverse_shape((4, *d.event_shape))
        return transform(jnp.array(np.random.default_rng(0).normal(size=shape)))
    except NotImplementedError:
        return d.sample(jax.random.key(3), (4,))


# Central differences of sixth order.
OFFSETS = np.array([-3, -2, -1, 1, 2, 3])
COEFFICIENTS = np.array([-1 / 60, 3 / 20, -3 / 4, 3 / 4, -3 / 20, 1 / 60])


@pytest.mark.sweep(of=6)
@pytest.mark.parametrize("name", sorted(zoo.ALL.keys() - {"Delta", "TransformedDiscrete"}))
def test_values_and_derivatives(name):
    """The value is NumPyro's; the derivative by each parameter agrees with differences."""
    make, at = zoo.ALL[name]
    h = 1e-3
    steps = h * OFFSETS[:, None, None] * jnp.eye(len(at))

    @jax.jit  # all at once: compilation is what takes time here
    def evaluate(theta, at):
        value = a_value(make(*at))

        def ours(theta):
            return jnp.broadcast_to(log_prob(make(*theta), value), (4,))

        wanted = jnp.tensordot(COEFFICIENTS, jax.vmap(jax.vmap(ours))(theta + steps), 1) / h
        return ours(theta), make(*theta).log_prob(value), jax.jacfwd(ours)(theta).T, wanted

    value, numpyros, got, wanted = evaluate(jnp.asarray(at), jnp.asarray(at))
    np.testing.assert_allclose(value, np.broadcast_to(numpyros, (4,)), rtol=1e-6, atol=1e-6)
    assert np.all(np.isfinite(value))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * (1 + abs(wanted).max()))


# Where NumPyro's derivative is wrong: a distribution by one parameter, at which value of that, for
# which values of the variable; and on which side there are differences (0 for both).
KINKS = {
    "bernoulli": (lambda a: dist.Bernoulli(logits=a), 0.0, [0, 1], 0),
    "binomial": (lambda a: dist.Binomial(4, logits=a), 0.0, [0, 1, 4], 0),
    "expanded": (lambda a: dist.Bernoulli(logits=a).expand([2]), 0.0, [[0, 1]], 0),
    "independent": (
        lambda a: dist.Bernoulli(logits=a * jnp.ones(2)).to_event(1),
        0.0,
        [[0, 1], [1, 1]],
        0,
    ),
    "masked": (
        lambda a: dist.Bernoulli(logits=a * jnp.ones(2)).mask(jnp.array([True, False])),
        0.0,
        [[1, 1]],
        0,
    ),
    "mixture": (
        lambda a: dist.MixtureSameFamily(
            dist.Categorical(logits=jnp.stack([a, 0.5 + 0 * a])),
            dist.Bernoulli(logits=jnp.stack([a, 1.0 + 0 * a])),
        ),
        0.0,
        [0, 1],
        0,
    ),
    "mixture_general": (
        lambda a: dist.MixtureGeneral(
            dist.Categorical(logits=jnp.arange(2.0)),
            [dist.Bernoulli(logits=a), dist.Bernoulli(probs=0.3 + 0.1 * a)],
        ),
        0.0,
        [0, 1],
        0,
    ),
    "zero_inflated": (
        lambda a: dist.ZeroInflatedDistribution(dist.Bernoulli(logits=a), gate=0.3),
        0.0,
        [0, 1],
        0,
    ),
    "hurdle": (
        lambda a: dist.HurdleDistribution(dist.Binomial(3, logits=a), gate=0.3),
        0.0,
        [0, 1, 3],
        0,
    ),
    "power_law_low": (
        lambda a: dist.DoublyTruncatedPowerLaw(-1.0, a, 2.0),
        0.5,
        [0.9],
        0,
    ),
    "power_law_alpha": (
        lambda a: dist.DoublyTruncatedPowerLaw(a, 0.5, 2.0),
        -1.0,
        [0.9],
        0,
    ),
    "beta_at_one": (lambda a: dist.Beta(a, 1.0), 1.3, [1.0], 0),
    "beta_at_zero": (lambda a: dist.Beta(1.0, a), 1.3, [0.0], 0),
    "beta_proportion": (lambda a: dist.BetaProportion(0.5, a), 2.0, [0.3], 0),
    "bernoulli_never": (lambda p: dist.Bernoulli(probs=p), 0.0, [0], 1),
    "bernoulli_always": (lambda p: dist.Bernoulli(probs=p), 1.0, [1], -1),
    "binomial_never": (lambda p: dist.Binomial(3, probs=p), 0.0, [0], 1),
    "binomial_always": (lambda p: dist.Binomial(3, probs=p), 1.0, [3], -1),
    "geometric_always": (lambda p: dist.Geometric(probs=p), 1.0, [0], -1),
    "multinomial_never": (
        lambda p: dist.Multinomial(3, probs=jnp.stack([p, 1 - p])),
        0.0,
        [[0, 3]],
        1,
    ),
    "poisson_never": (lambda r: dist.Poisson(r), 0.0, [0], 1),
}


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", KINKS)
def test_derivatives_at_kinks(name):
    """Right where NumPyro's formula has a kink and the density has none."""
    make, theta, values, side = KINKS[name]
    theta = jnp.asarray(theta)

    def total(theta, value):
        d = make(theta)
        d._validate_args = False  # differences leave the range on one side
        return jnp.sum(log_prob(d, jnp.asarray(value)))

    h = 1e-4
    for value in values:
        f = [float(total(theta + side * k * h, value)) for k in range(3)]
        wanted = (
            side * (-1.5 * f[0] + 2 * f[1] - 0.5 * f[2]) / h
            if side
            else float(total(theta + h, value) - total(theta - h, value)) / (2 * h)
        )
        got = jax.grad(total)(theta, value)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_numpyro_still_needs_this():
    """When this fails, NumPyro got it right: drop the rules that it makes superfluous."""
    for make in (lambda a: dist.Bernoulli(logits=a), lambda a: dist.Binomial(1, logits=a)):
        wrong = jax.grad(lambda a, make=make: make(a).log_prob(jnp.array(1)))(0.0)
        assert wrong != 0.5
        right = jax.grad(lambda a, make=make: log_prob(make(a), jnp.array(1)))(0.0)
        assert right == 0.5


def test_second_derivatives():
    """The Fisher information at zero logits, and at the end of a probability."""
    for value in (0, 1):
        hessian = jax.hessian(lambda a, v=value: log_prob(dist.Bernoulli(logits=a), v))(0.0)
        np.testing.assert_allclose(hessian, -0.25, rtol=1e-12)
    hessian = jax.hessian(lambda p: log_prob(dist.Bernoulli(probs=p), 1))(1.0)
    np.testing.assert_allclose(hessian, -1.0, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [0, 1])
def test_extreme_logits(value, dtype):
    """As NumPyro has it, without NaN, in value and derivative."""
    logits = jnp.array([-jnp.inf, -300.0, 0.0, 300.0, jnp.inf], dtype)

    def make(logits):
        return dist.Bernoulli(logits=logits, validate_args=False)

    got = log_prob(make(logits), value)
    wanted = make(logits).log_prob(value)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-99)
    assert got.dtype == wanted.dtype
    gradient = jax.grad(lambda logits: log_prob(make(logits), value).sum())(logits)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_of_a_probability(dtype):
    """The values that NumPyro clamps to."""
    probs = jnp.array([0.0, 1.0], dtype)
    for value in (0, 1):
        d = dist.Bernoulli(probs=probs)
        np.testing.assert_allclose(log_prob(d, value), d.log_prob(value), rtol=1e-6, atol=1e-7)


def test_geometric_with_certain_success():
    """NumPyro has a density of zero at the only possible value."""
    assert log_prob(dist.Geometric(probs=1.0), 0) == 0
    assert log_prob(dist.Geometric(probs=1.0), 1) == -np.inf


def test_power_law_from_zero():
    """A lower bound of zero."""
    d = dist.DoublyTruncatedPowerLaw(1.5, 0.0, 2.0)
    np.testing.assert_allclose(log_prob(d, jnp.array(0.3)), np.log(2.5 * 0.3**1.5 / 2**2.5))
    gradient = jax.grad(lambda t: log_prob(dist.DoublyTruncatedPowerLaw(t[0], 0.0, t[1]), 0.3))(
        jnp.array([1.5, 2.0])
    )
    np.testing.assert_allclose(gradient, [np.log(0.15) + 0.4, -1.25], rtol=1e-6)


def test_missing_data_behind_a_mask():
    """What a mask hides neither enters the value nor makes the derivative NaN."""
    value, mask = jnp.array([0.3, jnp.nan]), jnp.array([True, False])

    def total(m):
        return log_prob(dist.Normal(m, 1.0).expand([2]).mask(mask), value).sum()

    assert total(0.0) == dist.Normal().log_prob(0.3)
    np.testing.assert_allclose(jax.grad(total)(0.0), 0.3)


def test_out_of_support():
    """A density of zero and NumPyro's warning, from the corrected formulas too."""
    with pytest.warns(UserWarning, match="Out-of-support"):
        assert log_prob(dist.Bernoulli(logits=0.0, validate_args=True), 2) == -np.inf


def test_jit_and_vmap():
    """Traced distributions."""
    logits = jnp.array([0.0, 1.0, -2.0])
    got = jax.jit(jax.vmap(lambda a: log_prob(dist.Bernoulli(logits=a), 1)))(logits)
    np.testing.assert_allclose(got, jax.nn.log_sigmoid(logits), rtol=1e-12)
    d = dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Bernoulli(logits=logits))
    np.testing.assert_allclose(jax.jit(log_prob)(d, 1), d.log_prob(1), rtol=1e-12)


def test_numpy_value_and_traced_bound():
    """NumPyro's own check of a NumPy value fails on a bound that is traced."""
    gradient = jax.grad(lambda low: log_prob(dist.TruncatedNormal(0.0, 1.0, low=low), 0.3))(0.0)
    np.testing.assert_allclose(gradient, np.sqrt(2 / np.pi), rtol=1e-6)


@pytest.mark.sweep(of=7)
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda a, b: dist.Beta(a, b), 0.3),
        (lambda a, b: dist.BetaBinomial(a, b, total_count=4), 2),
        (lambda a, b: dist.BetaNegativeBinomial(a, b, 2), 2),
        (lambda a, b: dist.GammaPoisson(a, b), 0),
        (lambda a, b: dist.NegativeBinomialProbs(a, b / (1 + b)), 0),
        (lambda a, b: dist.NegativeBinomialLogits(a, b), 0),
        (lambda a, b: dist.NegativeBinomial2(b, a), 0),
    ],
)
def test_second_derivatives_where_beta_functions_have_equal_arguments(make, x):
    with jax.enable_x64(True):
        for at in (jnp.array([1.0, 1.0]), jnp.array([1.7, 0.6])):
            assert jnp.allclose(log_prob(make(*at), x), make(*at).log_prob(x), rtol=1e-12)
            gradient = jax.grad(lambda p: log_prob(make(*p), x))
            steps = 1e-5 * jnp.eye(2)
            differences = [(gradient(at + h) - gradient(at - h)) / 2e-5 for h in steps]
            assert jnp.allclose(jax.jacfwd(gradient)(at), jnp.stack(differences), atol=1e-6)


def test_a_corrected_density_is_all_else_that_its_distribution_is():
    """Wrappers, such as truncation, ask for more than a density: whatever a class overrides."""
    inherited = vars(dist.Distribution)
    for rule in densities._RULES:
        if not rule.__module__.startswith("numpyro."):
            continue
        own = {n for c in rule.__mro__ for n in vars(c) if c is not dist.Distribution}
        asked = {n for n in own & inherited.keys() if n[0] != "_"}
        left = asked - vars(densities._Corrected).keys() - OF_NO_WRAPPER
        assert not left, f"{left} of {rule.__name__}"
    for d in (dist.Cauchy(0.2, 1.1), dist.Gamma(1.5, 2.0), dist.HalfCauchy(0.7)):
        ours = densities.corrected(d)
        assert type(ours) is not type(d)
        np.testing.assert_array_equal(ours.cdf(0.4), d.cdf(0.4))
        np.testing.assert_array_equal(ours.mean, d.mean)
    truncated = dist.TruncatedCauchy(0.2, 1.1, low=-0.6, high=0.9)
    np.testing.assert_allclose(log_prob(truncated, 0.4), truncated.log_prob(0.4), rtol=1e-5)
