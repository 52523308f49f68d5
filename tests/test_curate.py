"""`curate`: its law and its densities, whatever it is nested in, and rewards without derivatives.

On programs of a few flips everything is exact: `ppgen.testing.exact` enumerates the other runs too,
and the law is computed by hand from all tuples of runs.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpyro import handlers

import ppgen
from ppgen.errors import CostError, DerivativeError, DiscontinuityError, SiteError
from ppgen.testing import distributions, exact

REWARDS = np.array([0.3, -0.5, 1.0, 2.0])
T = 0.4


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def flips(t):
    """Two flips; which of four values they make is what is rewarded."""
    u = numpyro.sample("u", dist.Bernoulli(jax.nn.sigmoid(t)))
    x = numpyro.sample("x", dist.Bernoulli(0.3 + 0.4 * u))
    return u + 2 * x


def reward(value):
    return jnp.asarray(REWARDS)[value]


def hidden(t):
    """The same two flips, with another one that is integrated out."""

    def program(t):
        w = numpyro.sample("w", dist.Bernoulli(0.6))
        u = numpyro.sample("u", dist.Bernoulli(jax.nn.sigmoid(t) * (0.4 + w)))
        x = numpyro.sample("x", dist.Bernoulli(0.2 + 0.3 * u + 0.4 * w))
        return u + 2 * x

    return ppgen.marginal(program, ["u", "x"], particles=2)(t)


def law(t=T):
    """The probabilities of the four values of `flips`."""
    s = 1 / (1 + np.exp(-t))
    return np.array([(1 - s) * 0.7, s * 0.3, (1 - s) * 0.3, s * 0.7])


def hidden_law(t=T):
    s = 1 / (1 + np.exp(-t))
    p = np.zeros(4)
    for w, pw in ((0, 0.4), (1, 0.6)):
        for value in range(4):
            u, x = value % 2, value // 2
            pu, px = s * (0.4 + w), 0.2 + 0.3 * u + 0.4 * w
            p[value] += pw * (pu if u else 1 - pu) * (px if x else 1 - px)
    return p


def curated(p, rewards, choices):
    """p H^K, by summation over all tuples of runs."""
    out, weights = np.zeros(len(p)), np.exp(np.asarray(rewards, float))
    for runs in itertools.product(range(len(p)), repeat=choices):
        for kept in runs:
            out[kept] += np.prod(p[list(runs)]) * weights[kept] / weights[list(runs)].sum()
    return out


def drawn_and_scored(program, values=((0, 0), (1, 0), (0, 1), (1, 1)), names=("u", "x")):
    """For each value: how probable it is drawn, E[1/w; drawn], and its estimated density."""
    values = jnp.array(values)

    def drawn(t, value, inverse):
        trace = ppgen.simulate(program)(t)
        hit = jnp.all(jnp.stack([trace[n] for n in names]) == value)
        return jnp.where(hit, jnp.exp(-inverse * trace.log_density), 0.0)

    def scored(t, value):
        choices = dict(zip(names, value, strict=True))
        return jnp.exp(ppgen.log_density(program)(choices, t))

    both = jax.vmap(jax.vmap(exact(drawn), (None, 0, None)), (None, None, 0))(
        T, values, jnp.array([0.0, 1.0])
    )
    return both[0], both[1], jax.vmap(exact(scored), (None, 0))(T, values)


CURATED = {
    "one": (lambda: ppgen.curate(flips, reward, choices=1), law),
    "two": (lambda: ppgen.curate(flips, reward, choices=2), lambda: curated(law(), REWARDS, 2)),
    "three": (lambda: ppgen.curate(flips, reward, choices=3), lambda: curated(law(), REWARDS, 3)),
    "of a marginal": (
        lambda: ppgen.curate(hidden, reward, choices=2),
        lambda: curated(hidden_law(), REWARDS, 2),
    ),
    "of a curated one": (
        lambda: ppgen.curate(ppgen.curate(flips, reward, choices=2), lambda v: -0.7 * v, choices=2),
        lambda: curated(curated(law(), REWARDS, 2), -0.7 * np.arange(4), 2),
    ),
    "of a posterior": (
        lambda: ppgen.curate(
            ppgen.normalize(ppgen.tilt(flips, lambda v: 0.5 * v), particles=2), reward, choices=2
        ),
        lambda: curated(curated(law(), -0.5 * np.arange(4), 2), REWARDS, 2),
    ),
    "normalised": (
        lambda: ppgen.normalize(
            ppgen.tilt(ppgen.curate(flips, reward, choices=2), lambda v: 0.5 * v),
            proposal=flips,
            particles=1,
        ),
        law,
    ),
}


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", CURATED)
def test_law_and_densities(name):
    make, by_hand = CURATED[name]
    drawn, inverse, scored = drawn_and_scored(make())
    np.testing.assert_allclose(drawn, by_hand(), rtol=1e-9)
    # E[1/w | x] q(x) = 1.
    np.testing.assert_allclose(inverse, 1.0, rtol=1e-9)
    np.testing.assert_allclose(scored, by_hand(), rtol=1e-9)


def test_raters_who_differ():
    """A reward that draws: the law is that of the mean of P(k) over what is drawn."""

    def noisy(value):
        return ppgen.draw(dist.Bernoulli(0.3)) * reward(value)

    # Of each run its own noise: runs are pairs of a value and a flip.
    pairs = np.outer([0.7, 0.3], law()).ravel()
    rewards = np.concatenate([0 * REWARDS, REWARDS])
    right = curated(pairs, rewards, 2).reshape(2, 4).sum(0)
    drawn, inverse, scored = drawn_and_scored(ppgen.curate(flips, noisy, choices=2))
    np.testing.assert_allclose(drawn, right, rtol=1e-9)
    np.testing.assert_allclose(inverse, 1.0, rtol=1e-9)
    np.testing.assert_allclose(scored, right, rtol=1e-9)


def test_it_is_resampling_of_the_tilted_program():
    resampled = ppgen.normalize(ppgen.tilt(flips, lambda v: -reward(v)), particles=3)
    for one, other in zip(
        drawn_and_scored(ppgen.curate(flips, reward, choices=3)),
        drawn_and_scored(resampled),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_in_a_marginal():
    program = ppgen.marginal(
        ppgen.curate(flips, reward, choices=2),
        ["x"],
        proposal=lambda kept, t: numpyro.sample("u", dist.Bernoulli(0.4 + 0.2 * kept["x"])),
        particles=2,
    )
    right = curated(law(), REWARDS, 2).reshape(2, 2).sum(1)
    drawn, inverse, scored = drawn_and_scored(program, ((0,), (1,)), ("x",))
    np.testing.assert_allclose(drawn, right, rtol=1e-9)
    np.testing.assert_allclose(inverse, 1.0, rtol=1e-9)
    np.testing.assert_allclose(scored, right, rtol=1e-9)


def one_flip(t):
    return numpyro.sample("x", dist.Bernoulli(jax.nn.sigmoid(t)))


def one_flip_curated(t, a, choices=2):
    s = 1 / (1 + np.exp(-t))
    return curated(np.array([1 - s, s]), [0.0, a], choices)


def test_mapped_looped_conditioned_and_renamed():
    """One joint density over all of them; what the reward closes over is mapped as well."""

    def pair(a):
        return ppgen.curate(one_flip, lambda x: a * x, choices=2)

    def model(t):
        jax.vmap(lambda s, a: pair(a)(s))(jnp.stack([t, 2 * t]), jnp.array([1.0, -2.0]))

        def body(carry, s):
            def here():
                handlers.scope(pair(0.5), prefix="scan")(s)

            jax.lax.cond(s > 0.5, here, here)
            return carry, None

        jax.lax.scan(body, 0.0, jnp.stack([t, 2 * t]))
        handlers.condition(handlers.scope(pair(3.0), prefix="seen"), {"seen/x": 1})(t)

    choices = {"x": jnp.array([1, 0]), "scan/x": jnp.array([0, 1])}
    right = (
        one_flip_curated(T, 1.0)[1]
        * one_flip_curated(2 * T, -2.0)[0]
        * one_flip_curated(T, 0.5)[0]
        * one_flip_curated(2 * T, 0.5)[1]
        * one_flip_curated(T, 3.0)[1]
    )
    got = exact(lambda t: jnp.exp(ppgen.log_density(model)(choices, t)))(T)
    np.testing.assert_allclose(got, right, rtol=1e-9)


def test_derivatives():
    """Of the density, of the reward's parameters, and of a bound, whatever the estimators."""

    def density(args):
        program = ppgen.curate(one_flip, lambda x: args[1] * x, choices=3)
        return jnp.exp(ppgen.log_density(program)({"x": 1}, args[0]))

    def by_hand(args):
        # With n of the two others up.
        p, w = jax.nn.sigmoid(args[0]), jnp.exp(args[1])
        others = [(1 - p) ** 2, 2 * p * (1 - p), p**2]
        return p * sum(q * 3 * w / (w * (1 + n) + 2 - n) for n, q in enumerate(others))

    at = jnp.array([T, 0.8])
    np.testing.assert_allclose(exact(density)(at), by_hand(at), rtol=1e-9)
    for derivative in (jax.grad, jax.hessian):
        np.testing.assert_allclose(
            derivative(exact(density))(at), derivative(by_hand)(at), rtol=1e-8
        )


@pytest.mark.parametrize("estimators", [{}, {"* | index": ppgen.Enumerate()}])
def test_gradients_of_what_is_curated(estimators):
    """Through the program that is drawn from, its density and the reward, by any estimator."""

    def bound(args):
        program = ppgen.curate(one_flip, lambda x: args[1] * x, choices=3)
        trace = ppgen.simulate(program)(args[0])
        return jnp.cos(trace["x"] + args[1]) - trace.log_density

    at = jnp.array([T, 0.8])
    right = exact(bound)(at), jax.grad(exact(bound))(at)
    g = ppgen.expectation(ppgen.with_estimators(bound, estimators), draws=4)
    keys = jax.random.split(jax.random.key(0), 10_000)
    got = jax.jit(jax.vmap(jax.value_and_grad(g, argnums=1), (0, None)))(keys, at)
    for estimate, exactly in zip(got, right, strict=True):
        error = estimate.std(0) / len(keys) ** 0.5
        assert np.all(abs(estimate.mean(0) - exactly) < 5 * error + 1e-9)
        assert np.all(error < 0.01)


def test_rao_blackwellised_likelihood():
    """Σ softmax(r)_k ∇ log p(x_k): the mean over which run is kept, of less variance."""

    def program(m):
        return numpyro.sample("x", dist.Normal(m, 1.0))

    def objective(m):
        frozen = jax.lax.stop_gradient(m)
        x = ppgen.curate(program, lambda x: 2 * jnp.sin(x), choices=4)(frozen)
        return ppgen.log_density(program)({"x": x}, m), x

    def gradients(estimators):
        f = ppgen.expectation(ppgen.with_estimators(objective, estimators), has_aux=True)
        keys = jax.random.split(jax.random.key(1), 4_000)
        run = jax.vmap(jax.grad(f, argnums=1, has_aux=True), (0, None))
        return jax.jit(run)(keys, 0.3)

    sampled, summed = gradients({}), gradients({"* | index": ppgen.Enumerate()})
    for slope, x in (sampled, summed):
        # Of N(m, 1) the score is x − m; what is enumerated comes out as its mean.
        np.testing.assert_allclose(slope, x - 0.3, rtol=1e-9)
    error = (sampled[0].std() ** 2 + summed[0].std() ** 2) ** 0.5 / 4_000**0.5
    assert abs(sampled[0].mean() - summed[0].mean()) < 5 * error
    assert summed[0].var() < 0.6 * sampled[0].var()


# --- laws, on random programs ---------------------------------------------------------------------


FAMILIES = ["BernoulliProbs", "BernoulliLogits", "CategoricalProbs", "CategoricalLogits"]


@st.composite
def pairs_of_choices(draw):
    """A random program of two choices, the second given the first, and a reward of each pair."""
    first = draw(distributions(FAMILIES, batch_shapes=[()]))
    size, other = len(first.enumerate_support()), draw(st.integers(2, 3))
    tenths = st.lists(st.integers(-20, 20), min_size=9, max_size=9)
    logits, rewards = (np.resize(draw(tenths), (size, other)) / 10 for _ in range(2))

    def program():
        a = numpyro.sample("a", first)
        return a, numpyro.sample("b", dist.Categorical(logits=jnp.asarray(logits)[a]))

    return program, rewards


def table(program, shape):
    """The probability of every pair, by enumeration."""
    pairs = jnp.array(list(np.ndindex(shape)))
    density = exact(lambda pair: jnp.exp(ppgen.log_density(program)({"a": pair[0], "b": pair[1]})))
    return np.asarray(jax.vmap(density)(pairs)).reshape(shape)


def laws(program, rewards, choices=2):
    """What holds of a curated program; raises where it does not."""

    def kept(rewards):
        return table(
            ppgen.curate(program, lambda v: jnp.asarray(rewards)[v], choices=choices), rewards.shape
        )

    plain, preferred = table(program, rewards.shape), kept(rewards)
    np.testing.assert_allclose(preferred.sum(), 1.0, rtol=1e-9)
    np.testing.assert_allclose(kept(rewards + 1.7), preferred, rtol=1e-9)
    np.testing.assert_allclose(kept(0 * rewards + 0.4), plain, rtol=1e-9)
    # The ratio to what was drawn grows with the reward, and only with it.
    ratio, order = (preferred / plain).ravel(), np.argsort(rewards.ravel())
    assert np.all(np.diff(ratio[order]) >= -1e-9)
    # Ferbach et al., Lemma 2.2.
    value = np.exp(np.asarray(rewards))
    mean = (plain * value).sum()
    rise = (choices - 1) / choices * (plain * (value - mean) ** 2).sum() / value.max()
    assert (preferred * value).sum() >= mean + rise - 1e-9


# Runtime type checks draw random numbers, also inside of strategies.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module")
@settings(max_examples=4, deadline=None, derandomize=True)
@given(pairs_of_choices())
def test_laws(case):
    laws(*case)


def example():
    def program():
        a = numpyro.sample("a", dist.Bernoulli(0.4))
        return a, numpyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))

    return program, REWARDS.reshape(2, 2)


@pytest.mark.long
def test_power(monkeypatch):
    """Each planted bug breaks a law."""
    from ppgen._programs import candidates as _resampled
    from ppgen._programs import curate as _curate

    laws(*example())
    real = _resampled.stack
    bugs = {
        "the given run is not among those that it is compared with": (
            _resampled, "stack", lambda first, rest: rest,
        ),
        "compared with the mean of the others and itself, twice": (
            _resampled, "stack", lambda first, rest: real(first, real(first, rest)),
        ),
        "not the mean but the sum": (_resampled, "log_mean_exp", jax.nn.logsumexp),
        "the reward enters upside down": (
            _curate, "_reward", lambda reward, value, where: -reward(value),
        ),
        "the reward is no exponent": (
            _curate, "_reward", lambda reward, value, where: jnp.log(3 + reward(value)),
        ),
    }  # fmt: skip
    for what, (module, name, planted) in bugs.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, planted)
            with pytest.raises(AssertionError):
                laws(*example())
                pytest.fail(what)


# --- rewards without a derivative, and errors -----------------------------------------------------


def callback(x):
    shape = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(
        lambda x: np.floor(2 * np.asarray(x)), shape, x, vmap_method="expand_dims"
    )


BLACK_BOXES = {
    "callback": callback,
    "black box": ppgen.black_box(lambda x: jax.lax.stop_gradient(jnp.floor(2 * x))),
    "jumps": lambda x: jnp.floor(2 * x),
}


@pytest.mark.parametrize("name", BLACK_BOXES)
def test_rewards_without_a_derivative(name):
    """Drawn from at will; differentiated by the score function, or refused."""

    def objective(m):
        def program(m):
            return numpyro.sample("x", dist.Normal(m, 1.0))

        return ppgen.curate(program, BLACK_BOXES[name], choices=2)(m)

    # Callbacks run in another thread, to which `enable_x64` does not reach.
    with jax.enable_x64(False):
        refused_or_scored(objective, jumps=name == "jumps")


def refused_or_scored(objective, jumps):
    key = jax.random.key(0)
    assert np.isfinite(ppgen.seed(objective)(key, T))
    with pytest.raises(DiscontinuityError, match=r"ScoreFunction\(\)") as refused:
        ppgen.expectation(objective)(key, T)
    assert refused.value.site == "x"
    assert ("assume_smooth" in str(refused.value)) == jumps
    scored = ppgen.with_estimators(objective, {"x": ppgen.ScoreFunction()})
    g = jax.jit(jax.value_and_grad(ppgen.expectation(scored, draws=40_000), argnums=1))
    value, slope = g(key, T)

    def preferred(m):
        # E[x_1 σ(r_1 − r_2) + x_2 σ(r_2 − r_1)], on a grid.
        x = m + np.linspace(-6, 6, 1201)
        p = np.exp(-0.5 * (x - m) ** 2)
        p /= p.sum()
        r = np.floor(2 * x + 1e-9)
        return 2 * np.sum(np.outer(p * x, p) / (1 + np.exp(r[None] - r[:, None])))

    np.testing.assert_allclose(value, preferred(T), atol=0.03)
    np.testing.assert_allclose(slope, (preferred(T + 0.25) - preferred(T - 0.25)) / 0.5, atol=0.06)


def test_a_parameter_reaches_a_black_box():
    """Not through a choice: there is a derivative, which nobody knows."""

    def program(m):
        return m * numpyro.sample("x", dist.Bernoulli(0.5))

    with jax.enable_x64(False):
        for name, error in (("callback", ValueError), ("black box", DerivativeError)):
            f = ppgen.expectation(ppgen.curate(program, BLACK_BOXES[name], choices=2))
            assert np.isfinite(f(jax.random.key(0), T))
            with pytest.raises(error):
                jax.grad(f, argnums=1)(jax.random.key(0), T)
    with pytest.raises(DerivativeError, match=r"stop_gradient") as refused:
        jax.grad(ppgen.black_box(jnp.sin))(1.0)
    assert "test_curate.py" in refused.value.where
    # Integers, and whatever is no array, have no derivative anyway.
    assert ppgen.black_box(lambda x, name: x + 1)(2, "a") == 3


def test_errors():
    key = jax.random.key(0)

    def run(program, reward=lambda v: 1.0, choices=2):
        return ppgen.seed(ppgen.simulate(ppgen.curate(program, reward, choices=choices)))(key)

    with pytest.raises(ValueError, match="at least one run"):
        run(lambda: numpyro.sample("x", dist.Normal()), choices=0)
    with pytest.raises(CostError, match="returns nothing"):
        run(lambda: None)
    with pytest.raises(CostError, match="real scalar"):
        run(lambda: numpyro.sample("x", dist.Normal().expand([3])), lambda x: x)
    with pytest.raises(SiteError, match="without latent sites"):
        run(lambda: 1.0)

    def observing():
        x = numpyro.sample("x", dist.Normal())
        numpyro.sample("y", dist.Normal(x), obs=1.0)
        return x

    with pytest.raises(SiteError, match="normalize"):
        run(observing)

    def integrated_out():
        w = numpyro.sample("w", dist.Normal())
        numpyro.sample("x", dist.Normal(w))
        return w

    with pytest.raises(SiteError, match="integrates out"):
        run(ppgen.marginal(integrated_out, ["x"]))

    def plated():
        with numpyro.plate("N", 3):
            ppgen.curate(lambda: numpyro.sample("x", dist.Normal()), jnp.sin, choices=2)()

    with pytest.raises(SiteError, match="plate or mask"):
        ppgen.seed(ppgen.simulate(plated))(key)
