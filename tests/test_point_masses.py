"""Point masses, alone and in mixtures, under estimators that freeze values, against quadrature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import ScoreFunction
from ppgen.errors import DiscontinuityError, EstimatorError
from ppgen.inference import elbo

T = dist.transforms
KEY = jax.random.key(5)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
REAL = dist.constraints.real


def cost(x):
    exp, tanh = (np.exp, np.tanh) if isinstance(x, np.ndarray | float) else (jnp.exp, jnp.tanh)
    return tanh(2 * (x - 0.3)) + 0.6 * exp(-0.5 * (x - 1.4) ** 2)


def mixture(p, *parts):
    """The first component has the probability `p`, the others share the rest."""
    k = len(parts) - 1
    probs = jnp.concatenate([jnp.ones(1) * p, jnp.ones(k) * (1 - p) / k])
    return dist.MixtureGeneral(dist.Categorical(probs), list(parts), support=REAL)


def spike_and_slab(p, a, m, s):
    return mixture(p, dist.Delta(a), dist.Normal(m, s))


def normal(m, s):
    return WEIGHTS @ cost(m + s * NODES)


# A distribution of four numbers, and the mean cost.
CASES = {
    "spike and slab": (spike_and_slab, lambda p, a, m, s: p * cost(a) + (1 - p) * normal(m, s)),
    "two spikes": (
        lambda p, a, m, s: mixture(p, dist.Delta(a), dist.Delta(m * s), dist.Normal(m, s)),
        lambda p, a, m, s: p * cost(a) + (1 - p) / 2 * (cost(m * s) + normal(m, s)),
    ),
    "points only": (
        lambda p, a, m, s: mixture(p, dist.Delta(a), dist.Delta(m), dist.Delta(s)),
        lambda p, a, m, s: p * cost(a) + (1 - p) / 2 * (cost(m) + cost(s)),
    ),
    "points of one family": (
        lambda p, a, m, s: dist.MixtureSameFamily(
            dist.Categorical(jnp.stack([p, 0.3 * (1 - p), 0.7 * (1 - p)])),
            dist.Delta(jnp.stack([a, m, s])),
        ),
        lambda p, a, m, s: p * cost(a) + (1 - p) * (0.3 * cost(m) + 0.7 * cost(s)),
    ),
    "nested": (
        lambda p, a, m, s: mixture(p, dist.Delta(a), spike_and_slab(0.25, a * m, m, s)),
        lambda p, a, m, s: p * cost(a) + (1 - p) * (0.25 * cost(a * m) + 0.75 * normal(m, s)),
    ),
    "transformed": (
        lambda p, a, m, s: dist.TransformedDistribution(
            spike_and_slab(p, a, m, 0.5), T.AffineTransform(m, s)
        ),
        lambda p, a, m, s: p * cost(m + s * a) + (1 - p) * normal(m + s * m, s * 0.5),
    ),
    "a transformed point": (
        lambda p, a, m, s: mixture(
            p,
            dist.TransformedDistribution(dist.Delta(a), T.AffineTransform(m, s)),
            dist.Normal(m, s),
        ),
        lambda p, a, m, s: p * cost(m + s * a) + (1 - p) * normal(m, s),
    ),
}
THETA = np.array([0.35, -0.2, 0.6, 0.8])


def derivatives(mean, order=2):
    h = 1e-3 * np.eye(4)
    at = lambda t: mean(*map(float, t))  # noqa: E731
    found = [np.array(at(THETA)), np.array([at(THETA + d) - at(THETA - d) for d in h]) / 2e-3]
    if order > 1:
        rows = [
            [
                (at(THETA + d + e) - at(THETA + d - e)) - (at(THETA - d + e) - at(THETA - d - e))
                for e in h
            ]
            for d in h
        ]
        found.append(np.array(rows) / 4e-6)
    return found


def worst(f, exact, n=8000, **options):
    g = ppgen.expectation(f, **options)
    keys, theta = jax.random.split(KEY, n), jnp.asarray(THETA)
    found = []
    for op, e in zip([g, jax.grad(g, 1), jax.hessian(g, 1)][: len(exact)], exact, strict=True):
        v = np.asarray(jax.jit(jax.vmap(op, (0, None)))(keys, theta), float)
        error = v.std(0) / n**0.5 + 1e-3 * (1 + abs(e))
        found.append(np.max(abs(v.mean(0) - e) / error))
    return max(found)


@pytest.mark.parametrize("name", CASES)
def test_mixtures_with_point_masses(name):
    make, mean = CASES[name]
    f = lambda t: cost(ppgen.draw(make(*t)))  # noqa: E731
    assert worst(f, derivatives(mean)) < 4.5


def test_around_a_mixture():
    make, mean = CASES["spike and slab"]
    exact = [2 * e for e in derivatives(mean, 1)]
    score = ScoreFunction(baseline=0.3)

    def site(t):
        with numpyro.plate("n", 2):
            return jnp.sum(cost(numpyro.sample("x", make(*t), infer={"grad": score})))

    def loop(t):
        step = lambda c, _: (c + cost(ppgen.draw(make(*t))), None)  # noqa: E731
        return jax.lax.scan(step, 0.0, None, length=2)[0]

    two = jnp.zeros(2)
    around = {
        "expanded": lambda t: jnp.sum(cost(ppgen.draw(make(*t).expand([2]), grad=score))),
        "mapped": lambda t: jnp.sum(
            jax.vmap(lambda a: cost(ppgen.draw(make(a, *t[1:]))))(two + t[0])
        ),
        "plate": site,
        "loop": loop,
        "blocked": lambda t: numpyro.handlers.block(site)(t),
    }
    for name, f in around.items():
        assert worst(f, exact, 4000) < 4.5, name
    assert worst(around["expanded"], exact, 1000, draws=4) < 4.5


def test_a_vector():
    """Components with an event: a point or a normal vector."""

    def f(t):
        slab = dist.Normal(jnp.stack([t[2], t[1]]), t[3]).to_event(1)
        point = dist.Delta(jnp.stack([t[1], 2 * t[1]]), event_dim=1)
        probs = jnp.stack([t[0], 1 - t[0]])
        d = dist.MixtureGeneral(
            dist.Categorical(probs), [point, slab], support=dist.constraints.real_vector
        )
        return jnp.sum(cost(ppgen.draw(d)) * jnp.array([1.0, 0.5]))

    def mean(p, a, m, s):
        return p * (cost(a) + 0.5 * cost(2 * a)) + (1 - p) * (normal(m, s) + 0.5 * normal(a, s))

    assert worst(f, derivatives(mean, 1)) < 4.5


def test_a_jump_of_the_frozen_part():
    """P(x > 0.1) for a spike elsewhere; where the spike moves, a jump is refused."""

    def f(t, spike):
        return jnp.where(ppgen.draw(spike_and_slab(t[0], spike, t[2], t[3])) > 0.1, 1.0, 0.0)

    g = jax.grad(ppgen.expectation(lambda t: f(t, -1.0), draws=20_000), argnums=1)(
        KEY, jnp.asarray(THETA)
    )
    z = (THETA[2] - 0.1) / THETA[3]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) * (1 - THETA[0]) / THETA[3]
    assert abs(g[2] - density) < 0.05 and abs(g[3] + z * density) < 0.05
    with pytest.raises(DiscontinuityError):
        jax.grad(ppgen.expectation(lambda t: f(t, t[1])), argnums=1)(KEY, jnp.asarray(THETA))


POINTS = {
    "alone": lambda t: dist.Delta(t**2),
    "expanded": lambda t: dist.Delta(t**2).expand([1]),
    "event": lambda t: dist.Delta(jnp.stack([t**2]), event_dim=1),
    "transformed": lambda t: dist.TransformedDistribution(dist.Delta(t), T.AffineTransform(0.0, t)),
}


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("grad", [ScoreFunction(), ScoreFunction(baseline=1.0), None])
def test_a_point_mass_moves_under_any_estimator(name, grad):
    for draws in (1, 3):
        g = ppgen.expectation(
            lambda t: jnp.sum(ppgen.draw(POINTS[name](t), grad=grad)), draws=draws
        )  # noqa: B023
        found = g(KEY, 1.5), jax.grad(g, 1)(KEY, 1.5), jax.hessian(g, 1)(KEY, 1.5)
        np.testing.assert_allclose(found, (2.25, 3.0, 2.0), rtol=1e-5)


def test_a_point_mass_is_not_random():
    """So it may jump where it is, as `floor(theta)` may."""
    for make in POINTS.values():
        f = lambda t, make=make: jnp.sum(ppgen.draw(make(t), grad=ScoreFunction()) > 2.0) * t  # noqa: E731
        assert jax.grad(ppgen.expectation(f), 1)(KEY, 1.5) == 1.0


def test_a_point_mass_with_a_density_of_its_own():
    """As a guide's site: its log density counts, whatever its estimator."""

    def model(t):
        numpyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(t, grad=None):
        numpyro.sample("z", dist.Delta(t, log_density=jnp.sin(t)), infer={"grad": grad})

    exact = lambda t: dist.Normal(0.0, 1.0).log_prob(t) - jnp.sin(t)  # noqa: E731
    for grad in (None, ScoreFunction()):
        g = ppgen.expectation(elbo(lambda t: model(t), lambda t: guide(t, grad)))  # noqa: B023
        np.testing.assert_allclose(g(KEY, 0.7), exact(0.7), rtol=1e-5)
        np.testing.assert_allclose(jax.grad(g, 1)(KEY, 0.7), jax.grad(exact)(0.7), rtol=1e-5)


def test_points_that_move_have_no_density():
    """Of fixed points and integers a mixture has one, as for a zero-inflated count."""
    half = dist.Categorical(jnp.array([0.5, 0.5]))

    def counts(t):
        parts = [dist.Delta(0), dist.Poisson(t)]
        d = dist.MixtureGeneral(half, parts, support=dist.constraints.nonnegative_integer)
        return numpyro.sample("n", d)

    g = jax.grad(
        ppgen.expectation(lambda t: ppgen.simulate(counts)(t).value * 1.0, draws=20_000), 1
    )
    assert abs(g(KEY, 1.2) - 0.5) < 0.1

    def points(t):
        parts = [dist.Delta(0.0), dist.Delta(t)]
        return numpyro.sample("n", dist.MixtureGeneral(half, parts, support=REAL))

    with pytest.raises(EstimatorError, match="how they move"):
        jax.grad(ppgen.expectation(lambda t: ppgen.simulate(points)(t).value), 1)(KEY, 1.2)
