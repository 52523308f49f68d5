"""The table of NumPyro's families: each row against what NumPyro does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import zoo

from ppgen._distributions.families import FAMILIES
from ppgen._distributions.pathwise import has_known_cdf
from ppgen._sampling.implicit import cdf
from ppgen._sampling.quantiles import from_uniforms, has_quantiles, uniforms_needed

# Rows that the zoo has no case of, because a site cannot have them or they are another's transform.
CASES = zoo.ALL | {
    "Independent": (lambda m, s: dist.Normal(m * zoo.ONES, s).to_event(1), (0.2, 1.2)),
    "ExpandedNormal": (lambda m, s: dist.Normal(m, s).expand((2,)), (0.2, 1.2)),
    "MixtureOfNormals": (
        lambda m, s: dist.MixtureGeneral(
            dist.Categorical(jnp.array([0.3, 0.7])), [dist.Normal(m, s), dist.Cauchy(m, s)]
        ),
        (0.2, 1.2),
    ),
}
DISTRIBUTIONS = {name: make(*theta) for name, (make, theta) in CASES.items()}
ROWS = {cls.__name__: cls for cls in FAMILIES}
OF_ROW = {
    row: [name for name, d in DISTRIBUTIONS.items() if type(d) is cls] for row, cls in ROWS.items()
}
KNOWN_CDF = sorted(name for name, d in DISTRIBUTIONS.items() if has_known_cdf(d))
QUANTILES = sorted(name for name, d in DISTRIBUTIONS.items() if has_quantiles(d))
# The pathwise derivative of each case is tested against the score in `test_pathwise`.


@pytest.fixture
def x64():
    """Comparisons of derivatives need double precision."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("row", sorted(ROWS))
def test_each_row_with_a_function_has_a_case(row):
    claimed = FAMILIES[ROWS[row]]
    if claimed.cdf is True or claimed.icdf is not None or claimed.implicit:
        assert OF_ROW[row]


@pytest.mark.sweep(of=8)
@pytest.mark.parametrize("name", KNOWN_CDF)
def test_the_density_is_the_derivative_of_the_distribution_function(name, x64):
    """At samples; and the derivatives by the parameters against finite differences."""
    make, theta = CASES[name]
    theta = tuple(map(jnp.float64, theta))
    for x in make(*theta).sample(jax.random.key(0), (5,)):
        total = lambda x: jnp.sum(cdf(make(*theta), x))  # noqa: E731, B023
        np.testing.assert_allclose(
            jnp.sum(jax.grad(total)(x)), jnp.sum(jnp.exp(make(*theta).log_prob(x))), rtol=1e-6
        )
        at = lambda *theta: jnp.sum(cdf(make(*theta), x))  # noqa: E731, B023
        for i in range(len(theta)):
            step = [1e-5 * (j == i) for j in range(len(theta))]
            up, down = (at(*(t + s * e for t, e in zip(theta, step, strict=True))) for s in (1, -1))
            exact = jax.grad(at, argnums=i)(*theta)
            np.testing.assert_allclose(exact, (up - down) / 2e-5, rtol=1e-5, atol=1e-8)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", sorted({*KNOWN_CDF} & {*QUANTILES}))
def test_quantiles_invert_the_distribution_function(name, x64):
    make, theta = CASES[name]
    d = make(*map(jnp.float64, theta))
    x = d.sample(jax.random.key(1), (20,))
    np.testing.assert_allclose(from_uniforms(d, cdf(d, x)), x, rtol=1e-8)


@pytest.mark.sweep(of=8)
@pytest.mark.parametrize("name", QUANTILES)
def test_quantiles_of_uniform_variables_are_distributed_as_samples(name, x64):
    """The mean of a bounded function of each element."""
    make, theta = CASES[name]
    d = make(*map(jnp.float64, theta))
    u = jax.random.uniform(jax.random.key(2), (40_000, *uniforms_needed(d)), jnp.float64)
    found = jnp.tanh(jax.vmap(lambda u: from_uniforms(d, u))(u))
    drawn = jnp.tanh(d.sample(jax.random.key(3), (40_000,)))
    error = np.hypot(jnp.std(drawn, 0), jnp.std(found, 0)) / np.sqrt(40_000)
    np.testing.assert_array_less(jnp.abs(jnp.mean(found, 0) - jnp.mean(drawn, 0)), 5 * error)
