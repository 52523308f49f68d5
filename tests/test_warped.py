"""Densities of warped uniform variables, far out in both tails, in single and double precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax.scipy.special import erfinv, logit, ndtri
from scipy import optimize, stats

import ppgen
from ppgen.inference import Warped

INSIDE = [1e-30, 1e-12, 1e-3, 0.1, 0.5, 0.9, 0.999]
LINE = [-1e3, -30.0, 0.0, 1.0, 30.0, 2e3]


def logit_normal(scale):
    return lambda t: (
        stats.norm.logpdf(np.log(t) - np.log1p(-t), 0.3, scale) - np.log(t) - np.log1p(-t)
    )


def mode(y):
    """By a root found in double precision."""

    def density(y):
        f = lambda u: 1.5 * u - 0.5 * np.sin(np.pi * u / 2) ** 2 - y  # noqa: E731
        u = optimize.brentq(f, -0.1, 1.1, xtol=1e-300)
        return -np.log(1.5 - 0.25 * np.pi * np.sin(np.pi * u))

    return np.vectorize(density)(y)


CASES = {
    "logit_normal": (
        lambda u, m, s: jax.nn.sigmoid(m + s * ndtri(u)),
        (0.3, 0.5),
        INSIDE,
        logit_normal(0.5),
    ),
    "narrow": (
        lambda u, m, s: 1 / (1 + jnp.exp(-m - s * 2**0.5 * erfinv(2 * u - 1))),
        (0.3, 0.1),
        INSIDE,
        logit_normal(0.1),
    ),
    "normal": (
        lambda u, m, s: m - s * ndtri(1 - u),
        (0.3, 2.0),
        LINE,
        lambda x: stats.norm.logpdf(x, 0.3, 2.0),
    ),
    "logistic": (logit, (), LINE, stats.logistic.logpdf),
    "gumbel": (lambda u: -jnp.log(-jnp.log(u)), (), [-4.0, 0.0, 30.0], stats.gumbel_r.logpdf),
    "weibull": (
        lambda u, k: (-jnp.log1p(-u)) ** (1 / k),
        (2.0,),
        [1e-10, 1e-5, 1.0, 10.0, 100.0],
        lambda x: stats.weibull_min.logpdf(x, 2.0),
    ),
    "kumaraswamy": (
        lambda u, a, b: (1 - (1 - u) ** (1 / b)) ** (1 / a),
        (5.0, 7.0),
        INSIDE,
        lambda x: np.log(35.0) + 4 * np.log(x) + 6 * np.log(-np.expm1(5 * np.log(x))),
    ),
    "cauchy": (
        lambda u: jnp.tan(jnp.pi * (u - 0.5)),
        (),
        [-1e9, -3.0, 0.0, 1e6, 1e12],
        lambda x: -np.log(np.pi) - 2 * np.log(np.hypot(1, x)),
    ),
    "cosine": (
        lambda u: 1 - 1 / (1 + jnp.tan(jnp.pi * u / 2)),
        (),
        [0.0, *INSIDE, 1.0],
        lambda t: np.log(2 / (np.pi * (1 - 2 * t + 2 * t**2))),
    ),
    "mode": (
        lambda u: u + 0.5 * (u - jnp.sin(jnp.pi * u / 2) ** 2),
        (),
        [0.0, *INSIDE, 1.0],
        mode,
    ),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in CASES), ("logit_normal", "float64"), ("mode", "float64")],
)
def test_density_and_its_derivative_are_those_of_the_closed_form(name, dtype):
    warp, parameters, at, exact = CASES[name]
    single = dtype == "float32"
    with jax.enable_x64(not single):
        law = Warped(warp, *parameters)
        x = jnp.asarray(at, dtype)
        found, slope = jax.jit(jax.vmap(jax.value_and_grad(law.log_prob)))(x)
        assert found.dtype == dtype
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(found, exact(x), rtol=2e-5 if single else 1e-10, atol=2e-6)
    # By the value's own scale: its log, or that of its complement, or itself on the line.
    bounded = np.max(x) <= 1 and np.min(x) >= 0
    scale = np.minimum(x, 1 - x) if bounded else np.maximum(np.abs(x), 1e-10)
    scale, slope = scale[scale > 0], np.asarray(slope, np.float64)[scale > 0]
    x, step = x[(x > 0) & (x < 1)] if bounded else x, 1e-4 * scale
    right = (exact(x + step) - exact(x - step)) / 2e-4
    np.testing.assert_allclose(slope * scale, right, rtol=1e-3, atol=1e-4)


def test_nothing_is_outside_of_the_range():
    law = Warped(lambda u: jnp.sqrt(u))
    np.testing.assert_array_equal(law.log_prob(jnp.array([-0.5, 2.0])), -jnp.inf)


def test_a_density_that_rounding_decides_is_not_a_number():
    """The sine is one in single precision, long before its inverse hyperbolic tangent ends."""
    law = Warped(lambda u: jnp.arctanh(jnp.sin(jnp.pi * u / 2)))
    found = law.log_prob(jnp.array([1.0, 3.0, 10.0]))
    right = np.log(2 / np.pi / np.cosh([1.0, 3.0]))
    np.testing.assert_allclose(found[:2], right, rtol=1e-4)
    assert jnp.isnan(found[2])


def test_second_derivatives():
    def ours(p):
        return Warped(lambda u, m, s: m + s * ndtri(u), p[0], p[1]).log_prob(p[2])

    def theirs(p):
        return numpyro.distributions.Normal(p[0], p[1]).log_prob(p[2])

    at = jnp.array([0.3, 0.5, 0.7])
    np.testing.assert_allclose(jax.hessian(ours)(at), jax.hessian(theirs)(at), atol=1e-4)


def test_draws_that_saturate_have_the_density_of_what_they_were_drawn_from():
    """A draw of exactly one, where the value does not tell its density; and its derivative."""

    def program(scale):
        return numpyro.sample("t", Warped(lambda u, s: jax.nn.sigmoid(s * ndtri(u)), scale))

    def run(key, scale):
        trace = ppgen.seed(ppgen.simulate(program))(key, scale)
        return trace["t"], trace.log_density

    keys = jax.random.split(jax.random.key(0), 200)
    t, log_density = jax.jit(jax.vmap(run, (0, None)))(keys, 20.0)
    slopes = jax.jit(jax.vmap(jax.grad(lambda k, s: run(k, s)[1], argnums=1), (0, None)))(
        keys, 20.0
    )
    assert jnp.any(t == 1) and jnp.all(jnp.isfinite(log_density)) and jnp.all(jnp.isfinite(slopes))
