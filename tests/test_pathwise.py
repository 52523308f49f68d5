"""Which distributions have a pathwise derivative, and that it is right."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import zoo
from numpyro.distributions import constraints, transforms

from ppgen._distributions.pathwise import has_pathwise_derivative
from ppgen.densities import log_prob
from ppgen.estimators import Reparameterize


@pytest.fixture
def x64():
    """Comparisons of derivatives need double precision."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", sorted(zoo.ALL))
def test_who_is_pathwise(name):
    """As tested below: nothing else."""
    make, theta = zoo.ALL[name]
    for wrap in (
        lambda d: d,
        lambda d: d.expand((3, *d.batch_shape)),
        lambda d: d.mask(True),
        lambda d: d.expand((2,)).to_event(1),
    ):
        assert has_pathwise_derivative(wrap(make(*theta))) == (name not in zoo.NOT_PATHWISE)


def test_all_of_numpyro_is_covered():
    """A class that NumPyro adds has to be looked at."""
    seen = set()

    def visit(d):
        for cls in type(d).__mro__:
            seen.add(cls)
        for value in vars(d).values():
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, dist.Distribution):
                    visit(child)

    for make, theta in zoo.ALL.values():
        visit(make(*theta))
    classes = {
        cls
        for name in dist.__all__
        if isinstance(cls := getattr(dist, name), type) and issubclass(cls, dist.Distribution)
    }
    # No latent can have these, or they are another's transform.
    aside = {
        "GaussianCopulaBeta",
        "ImproperUniform",
        "IntervalCensoredDistribution",
        "InverseWishart",
        "InverseWishartCholesky",
        "LKJ",
        "RightCensoredDistribution",
        "RightTruncatedDistribution",
        "TwoSidedTruncatedGamma",
        "Unit",
        "Wishart",
    }
    assert {cls.__name__ for cls in classes - seen} == aside


# Built on gamma variables or their distribution function, of which derivatives take time.
COSTLY = {
    "Beta",
    "BetaProportion",
    "Chi2",
    "Dirichlet",
    "Gamma",
    "InverseGamma",
    "LKJCholesky",
    "LeftTruncatedGamma",
    "MultivariateStudentT",
    "RightTruncatedGamma",
    "StudentT",
    "WishartCholesky",
}


def cost(x):
    """Bounded, with a derivative that vanishes far out, so that no tail dominates."""
    weight = jnp.cos(1.7 * jnp.arange(x.size)) + 0.3
    return jnp.tanh(1.3 * (weight @ x.reshape(-1)) + 0.4)


def samples_and_derivatives(make, theta, n):
    """`n` samples, and the derivative of the cost of each by each parameter."""

    def one(key):
        def cost_and_sample(theta):
            x = Reparameterize()(key, make(*theta)).value
            return cost(x), x

        derivatives, x = jax.grad(cost_and_sample, has_aux=True)(theta)
        return x, jnp.stack(derivatives)

    return jax.vmap(one, out_axes=(0, 1))(jax.random.split(jax.random.key(0), n))


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("name", sorted(zoo.PATHWISE))
def test_pathwise_against_score(name, x64):
    """The mean of differentiated samples is the derivative of the expectation."""
    make, theta = zoo.PATHWISE[name]
    n = 300 if name in COSTLY else 2000

    @jax.jit
    def both(*theta):
        x, pathwise = samples_and_derivatives(make, theta, n)
        by_theta = jax.grad(lambda theta, x: make(*theta).log_prob(x))
        score = jax.vmap(lambda x: by_theta(theta, x))(x)
        costs = jax.vmap(cost)(x)
        return pathwise, jnp.stack(score) * (costs - costs.mean())

    pathwise, score = both(*(jnp.asarray(t) for t in theta))
    assert np.all(np.abs(pathwise).max(1) > 0)
    difference = np.asarray(pathwise - score)
    assert np.all(abs(difference.mean(1)) < 4.5 * difference.std(1) / np.sqrt(n) + 1e-12), (
        pathwise.mean(1),
        score.mean(1),
    )


def expectation(make, lower, upper, theta):
    """By quadrature over a support whose ends are parameters."""
    nodes, weights = np.polynomial.legendre.leggauss(300)
    t, weights = (nodes + 1) / 2, weights / 2
    a = lower(*theta)
    if upper is None:
        x, slope = a + t / (1 - t), 1 / (1 - t) ** 2
    else:
        x, slope = a + t * (upper(*theta) - a), upper(*theta) - a
    d = make(*theta)
    d._validate_args = False
    return jnp.sum(jnp.exp(log_prob(d, x)) * jax.vmap(cost)(x) * weights * slope)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", sorted(zoo.ENDS))
def test_pathwise_against_quadrature(name, x64):
    """Where the support ends at a parameter there is no score: integrate instead."""
    make, theta, lower, upper = zoo.ENDS[name]
    n = 300 if name in COSTLY else 2000

    @jax.jit
    def both(*theta):
        _, pathwise = samples_and_derivatives(make, theta, n)
        by_theta = jax.grad(lambda theta: expectation(make, lower, upper, theta))
        return pathwise, jnp.stack(by_theta(theta))

    pathwise, wanted = both(*(jnp.asarray(t) for t in theta))
    assert np.all(np.abs(pathwise).max(1) > 0)
    error = abs(pathwise.mean(1) - wanted)
    assert np.all(error < 4.5 * pathwise.std(1) / np.sqrt(n) + 1e-5), (pathwise.mean(1), wanted)


class Silent(dist.Distribution):
    """Declares nothing: `has_rsample` is vacuously true."""

    support = constraints.real

    def sample(self, key, sample_shape=()):
        return jnp.round(jax.random.normal(key, sample_shape))


class Declared(Silent):
    """Says by attribute that its samples are differentiable."""

    reparametrized_params = ["loc"]

    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, sample_shape)


class Partly(Declared):
    """Says so of one parameter only."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    reparametrized_params = ["loc"]
    loc = scale = 1.0

    def sample(self, key, sample_shape=()):
        return jnp.zeros(sample_shape)


class Overriding(Silent):
    """Says so by property."""

    has_rsample = True

    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, sample_shape)


class Integers(Declared):
    """Declares a discrete variable differentiable."""

    support = constraints.nonnegative_integer
    reparametrized_params = ["loc"]


class Rounded(dist.Normal):
    """Inherits a declaration that is not about its own sampler."""

    def sample(self, key, sample_shape=()):
        return jnp.round(super().sample(key, sample_shape))


class Named(dist.Normal):
    """Inherits the sampler too."""


class Wrapping(dist.TransformedDistribution):
    """Inherits the sampler of a wrapper."""

    def __init__(self, base):
        super().__init__(base, transforms.ExpTransform())


@pytest.mark.parametrize(
    "make,pathwise",
    [
        (Silent, False),
        (Declared, True),
        (Partly, False),
        (Overriding, True),
        (Integers, False),
        (Rounded, False),
        (Named, True),
        (lambda: Wrapping(dist.Normal()), True),
        (lambda: Wrapping(Silent()), False),
        (lambda: Silent().expand([3]).to_event(1).mask(True), False),
        (lambda: Declared().expand([3]).to_event(1).mask(True), True),
        (lambda: dist.Unit(0.0), True),
        (lambda: dist.ImproperUniform(constraints.real, (), ()), False),
        (lambda: dist.Delta(jnp.array(1)), True),
    ],
)
def test_what_users_declare(make, pathwise):
    """A user's own sampler is differentiable if its class says so."""
    assert has_pathwise_derivative(make()) == pathwise
