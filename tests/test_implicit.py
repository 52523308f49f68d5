"""Implicit reparameterisation: von Mises and mixtures, to second order, wherever they are drawn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import i0e, i1e

import ppgen
from ppgen._distributions.pathwise import has_known_cdf, has_pathwise_derivative
from ppgen._sampling import implicit as _implicit
from ppgen._sampling.implicit import cdf, differentiable_sample, implicit
from ppgen._sampling.von_mises import von_mises_cdf, von_mises_log_prob
from ppgen.estimators import Reparameterize, ScoreFunction
from ppgen.testing import assert_unbiased

KEY = jax.random.key(0)


def nodes(a, b, n=300):
    """Gauss-Legendre nodes and weights."""
    x, w = np.polynomial.legendre.leggauss(n)
    return (b - a) / 2 * x + (a + b) / 2, (b - a) / 2 * w


# --- the distribution function of von Mises


@jax.jit
def angles_and_errors(k):
    """Differences to quadrature: the value, two derivatives by the concentration, the density."""
    z = jnp.array([-0.2, 0.7, 2.0, 3.1]) / jnp.sqrt(jnp.maximum(k, 1.0))
    t, w = (z[:, None] * x for x in nodes(0.0, 1.0))
    p = jnp.exp(k * (jnp.cos(t) - 1)) / (2 * np.pi * i0e(k))
    mean = i1e(k) / i0e(k)
    centred = jnp.cos(t) - mean
    by_k = jnp.sum(p * centred * w, -1)
    by_kk = jnp.sum(p * (centred**2 - (1 - mean / k - mean**2)) * w, -1)

    def of_k(k):
        return von_mises_cdf(z, k)

    by_z = jax.vmap(jax.grad(von_mises_cdf), (0, None))(z, k)
    errors = (
        of_k(k) - jnp.sum(p * w, -1),
        jax.jacfwd(of_k)(k) - by_k,
        jax.jacfwd(jax.jacrev(of_k))(k) - by_kk,
        by_z / jnp.exp(von_mises_log_prob(z, k)) - 1,
        von_mises_log_prob(z, k) - dist.VonMises(0.0, k).log_prob(z),
    )
    return z, by_k, jnp.abs(jnp.stack(errors)).max()


def test_von_mises_cdf_and_its_derivatives():
    """By the angle and by the concentration, first and second, against quadrature."""
    for k in (1e-3, 1.0, 10.0, 50.0, 500.0):
        with jax.enable_x64(True):
            z, by_k, error = map(np.asarray, angles_and_errors(k))
        assert error < 1e-10, k
        z32 = np.asarray(z, np.float32)
        single = jax.jacfwd(lambda k, z=z32: von_mises_cdf(jnp.asarray(z), k))(jnp.float32(k))
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, np.asarray(by_k), atol=2e-7)


def test_von_mises_cdf_over_turns():
    """One more with every turn, and from the end of the circle on a distribution function."""
    with jax.enable_x64(True):
        z = jnp.linspace(-9.0, 9.0, 200)
        mass = von_mises_cdf(z, 2.0)
        assert np.all(np.diff(mass) > 0)
        np.testing.assert_allclose(von_mises_cdf(z + 2 * np.pi, 2.0), mass + 1, atol=1e-12)
        for loc in (-3.0, 0.4, 7.0):
            d = dist.VonMises(loc, 2.0)
            ends = [cdf(d, jnp.array(x)) for x in (-np.pi, np.pi)]
            np.testing.assert_allclose(ends, [0.0, 1.0], atol=1e-12)


# --- unbiased, to second order


def von_mises(t):
    return dist.VonMises(t[0], jnp.exp(t[1]))


def odd(x):
    """Not the same at both ends of the circle."""
    return jnp.sin(x) + jnp.tanh(x - 0.3)


def periodic(x):
    return jnp.sin(x) + jnp.cos(2 * x)


def over_circle(cost, of=von_mises):
    def exact(t):
        x, w = nodes(-np.pi, np.pi)
        return jnp.sum(jnp.exp(of(t).log_prob(jnp.asarray(x))) * cost(x) * w)

    return exact


def mixture(t):
    scale = jnp.exp(jnp.stack([t[2], t[0]]))
    loc = jnp.stack([t[1], -jnp.ones_like(t[1])])
    mixing = dist.Categorical(logits=jnp.stack([t[0], jnp.zeros_like(t[0])]))
    return dist.MixtureSameFamily(mixing, dist.Normal(loc, scale))


def mixture_exact(t):
    m = mixture(t)
    loc, scale = m.component_distribution.loc, m.component_distribution.scale
    return jnp.sum(m.mixing_distribution.probs * jnp.sin(loc) * jnp.exp(-(scale**2) / 2))


def test_von_mises_is_unbiased():
    """Also where the cost differs at both ends of the circle."""
    f = lambda t: odd(ppgen.draw(von_mises(t)))  # noqa: E731
    assert_unbiased(f, jnp.array([0.8, 0.4]), exact=over_circle(odd), samples=20_000, detect=0.3)


def test_von_mises_around_the_circle():
    """For a periodic cost, where the mode is at the end: low variance, no bias."""
    theta = jnp.array([3.0, 2.0])
    around = Reparameterize(assume_smooth=True)
    f = lambda t: periodic(ppgen.draw(von_mises(t), grad=around))  # noqa: E731
    assert_unbiased(f, theta, exact=over_circle(periodic), samples=20_000)
    # What is not periodic it misses: the mass that leaves at one end and comes back at the other.
    g = lambda t: odd(ppgen.draw(von_mises(t), grad=around))  # noqa: E731
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(g, theta, order=1, exact=over_circle(odd), samples=5_000)


def test_mixture_is_unbiased():
    f = lambda t: jnp.sin(ppgen.draw(mixture(t)))  # noqa: E731
    theta = jnp.array([0.3, 0.8, -0.4])
    assert_unbiased(f, theta, exact=mixture_exact, samples=40_000, detect=0.4)


@pytest.mark.long
def test_probabilities_of_a_mixture_need_not_be_normalised():
    """As for densities and samples, only their ratios count."""

    def make(p):
        return dist.MixtureSameFamily(
            dist.Categorical(probs=p), dist.Laplace(jnp.array([-1.0, 1.0]), 0.5)
        )

    def exact(p):
        # E sin(x) of a Laplace variable is sin(loc) / (1 + scale^2).
        return (p[1] - p[0]) / p.sum() * np.sin(1.0) / 1.25

    f = lambda p: jnp.sin(ppgen.draw(make(p)))  # noqa: E731
    assert_unbiased(f, jnp.array([0.4, 0.6]), order=1, exact=exact, samples=40_000)


def test_mixture_of_different_families():
    """One component positive in every place where the other one is."""

    def make(t):
        parts = [dist.Gamma(2.0 + t[0], 1.5), dist.LogNormal(t[0], 0.5), dist.Weibull(1.0, 2.0)]
        logits = jnp.stack([t[1], jnp.zeros_like(t[1]), jnp.ones_like(t[1])])
        return dist.MixtureGeneral(dist.Categorical(logits=logits), parts)

    def exact(t):
        x, w = nodes(0.0, 40.0, 600)
        return jnp.sum(jnp.exp(make(t).log_prob(jnp.asarray(x))) * jnp.tanh(x - 1) * w)

    f = lambda t: jnp.tanh(ppgen.draw(make(t)) - 1)  # noqa: E731
    assert_unbiased(f, jnp.array([0.3, 0.5]), order=1, exact=exact, samples=10_000, detect=0.5)


def test_mixture_in_a_scan():
    """Within `scan`, whose reverse pass keeps what a primitive's rule gives; batched, and mixed."""

    def f(t):
        def step(total, scale):
            with numpyro.plate("N", 2):
                x = numpyro.sample("x", mixture(t))
            return total + scale * jnp.sum(x), jnp.prod(jnp.sin(x))

        total, products = jax.lax.scan(step, 0.0, jnp.array([1.0, 0.5]))
        return total**2 + jnp.sum(products)

    def exact(t):
        m, p = mixture(t), mixture(t).mixing_distribution.probs
        loc, scale = m.component_distribution.loc, m.component_distribution.scale
        mean = jnp.sum(p * loc)
        variance = jnp.sum(p * (loc**2 + scale**2)) - mean**2
        return 2 * variance * (1 + 0.25) + (3 * mean) ** 2 + 2 * mixture_exact(t) ** 2

    theta = jnp.array([0.3, 0.8, -0.4])
    assert_unbiased(f, theta, exact=exact, samples=20_000, detect=0.5)


def test_mixture_of_angles():
    """Each with its own centre, on a circle cut at the same place."""

    def make(t):
        parts = [dist.VonMises(t[0], 2.0), dist.VonMises(-1.0, jnp.exp(t[1]))]
        return dist.MixtureGeneral(dist.Categorical(logits=jnp.array([0.3, 0.0])), parts)

    cost = lambda x: odd(x) + jnp.cos(x)  # noqa: E731
    f = lambda t: cost(ppgen.draw(make(t)))  # noqa: E731
    exact = over_circle(cost, make)
    assert_unbiased(f, jnp.array([1.5, 0.3]), order=1, exact=exact, samples=20_000, detect=0.5)


@pytest.mark.long
@pytest.mark.parametrize("planted", ["sign", "frozen result"])
def test_planted_bugs_are_caught(monkeypatch, planted):
    """A wrong sign in the first derivative; a result that does not move in the second."""

    def follow(functions, parameters, tangents):
        mass, moved = jax.jvp(functions[0], parameters, tangents)
        density = jnp.exp(functions[1](*parameters))
        if planted == "sign":
            return moved / density
        return -moved / jax.lax.stop_gradient(density)

    from ppgen import _jax

    monkeypatch.setattr(_implicit, "_implicit_p", _jax.define_follower("implicit", follow))
    f = lambda t: odd(ppgen.draw(von_mises(t)))  # noqa: E731
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(f, jnp.array([0.8, 0.4]), exact=over_circle(odd), detect=np.inf)


# --- wrappers, transformations, types


def test_closed_form_derivatives_through_vmap_and_jit():
    """Against the derivatives of a Normal, whose samples are explicit functions, per lane."""

    def sample(t, z):
        cumulative = lambda x, t: jax.scipy.stats.norm.cdf(x, t[0], t[1])  # noqa: E731
        log_density = lambda x, t: jax.scipy.stats.norm.logpdf(x, t[0], t[1])  # noqa: E731
        return jnp.exp(implicit(t[0] + t[1] * z, cumulative, log_density, t))

    def explicit(t, z):
        return jnp.exp(t[0] + t[1] * z)

    z = jax.random.normal(KEY, (5,))
    with jax.enable_x64(True):
        z = z.astype(float)
        shared, own = jnp.array([0.3, 0.8]), jnp.ones((5, 2)) * jnp.array([0.3, 0.8])
        for t, axis in ((shared, None), (own, 0)):
            for d in (jax.grad, jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))):
                got = jax.jit(jax.vmap(d(sample), (axis, 0)))(t, z)
                wanted = jax.jit(jax.vmap(d(explicit), (axis, 0)))(t, z)
                np.testing.assert_allclose(got, wanted, rtol=1e-9)
        third = jax.jit(jax.vmap(jax.jacfwd(jax.hessian(sample)), (None, 0)))(shared, z)
        wanted = jax.jit(jax.vmap(jax.jacfwd(jax.hessian(explicit)), (None, 0)))(shared, z)
        np.testing.assert_allclose(third, wanted, rtol=1e-8)


WRAPPED = {
    "itself": lambda d: d,
    "expanded": lambda d: d.expand((3, 2)),
    "independent": lambda d: d.expand((3,)).to_event(1),
    "masked": lambda d: d.expand((3,)).mask(jnp.array([True, False, True])),
    "transformed": lambda d: dist.TransformedDistribution(
        d.expand((3,)), dist.transforms.AffineTransform(0.2, -1.3)
    ),
}


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("make", [von_mises, mixture])
@pytest.mark.parametrize("wrap, x64", [("itself", True), *((wrap, False) for wrap in WRAPPED)])
def test_wrapped_samples_are_numpyros(wrap, x64, make):
    """The same numbers as NumPyro's sampler, with a derivative by every parameter."""
    with jax.enable_x64(x64):
        theta = jnp.array([0.3, 0.8, -0.4])

        def sample(t):
            return differentiable_sample(KEY, WRAPPED[wrap](make(t)))

        d = WRAPPED[wrap](make(theta))
        assert has_pathwise_derivative(d)
        np.testing.assert_array_equal(sample(theta), d.sample(KEY))
        jacobian = jax.jit(jax.jacrev(sample))(theta)
        moving = 2 if make is von_mises else 3
        assert jacobian.dtype == sample(theta).dtype == (jnp.float64 if x64 else jnp.float32)
        assert np.all(jacobian[..., :moving] != 0) and np.all(np.isfinite(jacobian))


def test_transformed_components():
    """A distribution function through decreasing and increasing transforms."""
    base = dist.Logistic(0.3, 0.8)
    for transform in (
        [dist.transforms.AffineTransform(0.1, -2.0)],
        [dist.transforms.AffineTransform(0.1, -2.0), dist.transforms.SigmoidTransform()],
        [dist.transforms.ExpTransform(), dist.transforms.PowerTransform(jnp.array(-0.5))],
    ):
        d = dist.TransformedDistribution(base, transform)
        assert has_known_cdf(d)
        x = d.sample(KEY, (20_000,))
        at = jnp.quantile(x, jnp.array([0.1, 0.5, 0.8]))
        np.testing.assert_allclose(cdf(d, at), [0.1, 0.5, 0.8], atol=0.01)


def test_default_estimator():
    """Where it is known, pathwise; elsewhere the score, and asking for more is an error."""
    gap = dist.MixtureGeneral(
        dist.Categorical(jnp.ones(2) / 2),
        [dist.Normal(0.0, 1.0), dist.HalfNormal(1.0)],
        support=dist.constraints.real,
    )
    unknown = dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.StudentT(3.0, jnp.zeros(2))
    )
    vectors = dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(1)
    )
    fits = Reparameterize().misfit
    assert fits(mixture(jnp.zeros(3))) is None and fits(von_mises(jnp.zeros(2))) is None
    assert fits(dist.VonMises(jnp.zeros(1), 1.0).expand((3, 1))) is None
    for d in (gap, unknown, vectors):
        assert "no pathwise derivative" in Reparameterize().misfit(d)
        assert ScoreFunction().misfit(d) is None


def test_choices_upstream_stay_with_their_elements():
    """The sample depends on parameters per element of a plate, as far as it was drawn so."""

    def f(t):
        with numpyro.plate("N", 4):
            b = numpyro.sample("b", dist.Bernoulli(logits=t)) * 1.0
        mass = lambda x, b: jax.scipy.stats.norm.cdf(x, b)  # noqa: E731
        log_density = lambda x, b: jax.scipy.stats.norm.logpdf(x, b)  # noqa: E731
        return jnp.sum(implicit(b + 0.3, mass, log_density, b) ** 2)

    assert "b[i]" in str(ppgen.check(f)(0.3))


def test_constants_and_elbo():
    """A site without parameters; a guide whose own density is evaluated at its samples."""

    def f(t):
        x = numpyro.sample("x", dist.VonMises(0.0, 2.0))
        trace = ppgen.simulate(lambda t: numpyro.sample("z", von_mises(t)))(t)
        return jnp.cos(x) * t[0] - trace.log_density

    entropy = lambda t: over_circle(lambda x: -von_mises(t).log_prob(x))(t)  # noqa: E731
    exact = lambda t: i1e(2.0) / i0e(2.0) * t[0] + entropy(t)  # noqa: E731
    assert_unbiased(f, jnp.array([0.8, 0.4]), order=1, exact=exact, samples=20_000)
