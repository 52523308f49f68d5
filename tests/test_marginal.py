"""`marginal`, `normalize` and `tilt`: their densities are unbiased, whatever they are nested in.

On programs of a few flips everything is exact: `ppgen.testing.exact` enumerates the particles too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import ppgen
from ppgen._staging.sites import Given, run_sites
from ppgen.errors import ChoiceMismatchError, CostError, SiteError
from ppgen.testing import exact

pytestmark = pytest.mark.sweep(of=3)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def flips(t):
    """Two hidden flips and a visible one."""
    u = numpyro.sample("u", dist.Bernoulli(jax.nn.sigmoid(t)))
    v = numpyro.sample("v", dist.Bernoulli(0.3 + 0.4 * u))
    numpyro.sample("x", dist.Bernoulli(0.1 + 0.5 * u * v + 0.3 * v))


def joint(t):
    """The probabilities of `u, v, x`, by hand."""
    p = np.zeros((2, 2, 2))
    for u in range(2):
        for v in range(2):
            for x in range(2):
                pu = jax.nn.sigmoid(t)
                pv, px = 0.3 + 0.4 * u, 0.1 + 0.5 * u * v + 0.3 * v
                p[u, v, x] = np.prod(
                    [q if k else 1 - q for q, k in ((pu, u), (pv, v), (px, x))], dtype=float
                )
    return p


def proposal(kept, t):
    numpyro.sample("v", dist.Bernoulli(0.2 + 0.5 * kept["x"]))
    numpyro.sample("u", dist.Bernoulli(0.4))


def nested_proposal(kept, t):
    """Proposes what is hidden with a hidden flip of its own."""

    def noisy(t):
        w = numpyro.sample("w", dist.Bernoulli(0.5))
        numpyro.sample("v", dist.Bernoulli(0.2 + 0.5 * w))
        numpyro.sample("u", dist.Bernoulli(0.6 - 0.3 * w))

    ppgen.marginal(noisy, ["u", "v"], particles=2)(t)


MARGINALS = {
    "prior, 1": lambda: ppgen.marginal(flips, ["x"]),
    "prior, 3": lambda: ppgen.marginal(flips, ["x"], particles=3),
    "proposal, 1": lambda: ppgen.marginal(flips, "x", proposal=proposal),
    "proposal, 2": lambda: ppgen.marginal(flips, ["x"], proposal=proposal, particles=2),
    "of a marginal": lambda: ppgen.marginal(
        ppgen.marginal(flips, ["u", "x"], particles=2),
        ["x"],
        proposal=lambda kept, t: numpyro.sample("u", dist.Bernoulli(0.4)),
        particles=2,
    ),
    "estimated proposal": lambda: ppgen.marginal(flips, ["x"], proposal=nested_proposal),
}


@pytest.mark.parametrize("name", MARGINALS)
def test_density_of_a_marginal_is_unbiased(name):
    program = MARGINALS[name]()
    p = joint(0.4).sum((0, 1))
    for x in range(2):
        estimate = exact(lambda t, x=x: jnp.exp(ppgen.log_density(program)({"x": x}, t)))
        np.testing.assert_allclose(estimate(0.4), p[x], rtol=1e-9)


@pytest.mark.parametrize("name", MARGINALS)
def test_weight_of_a_simulated_marginal_is_unbiased(name):
    program = MARGINALS[name]()
    p = joint(0.4).sum((0, 1))
    for x in range(2):

        def both(t, x=x):
            trace = ppgen.simulate(program)(t)
            here = jnp.where(trace["x"] == x, 1.0, 0.0)
            return here * jnp.exp(-trace.log_density), here

        drawn = exact(lambda t: both(t)[1])(0.4)
        np.testing.assert_allclose(drawn, p[x], rtol=1e-9)
        # E[1/w | x] p(x) = 1.
        np.testing.assert_allclose(exact(lambda t: both(t)[0])(0.4), 1.0, rtol=1e-9)


def test_derivatives_of_an_estimated_density():
    program = ppgen.marginal(flips, ["x"], proposal=proposal, particles=2)
    f = exact(lambda t: jnp.exp(ppgen.log_density(program)({"x": 1}, t)))

    def p(t):
        both = jnp.stack([1 - jax.nn.sigmoid(t), jax.nn.sigmoid(t)])
        given = jnp.array([0.7 * 0.1 + 0.3 * 0.4, 0.3 * 0.1 + 0.7 * 0.9])
        return both @ given

    for derivative in (jax.grad, jax.hessian):
        np.testing.assert_allclose(derivative(f)(0.4), derivative(p)(0.4), rtol=1e-8)


def unnormalised(t):
    u = numpyro.sample("u", dist.Bernoulli(0.3))
    v = numpyro.sample("v", dist.Bernoulli(0.2 + 0.6 * u))
    numpyro.factor("f", t * u - 0.7 * v + u * v)
    return u + 2 * v


def flat(t):
    numpyro.sample("u", dist.Bernoulli(0.5))
    numpyro.sample("v", dist.Bernoulli(0.6))


POSTERIORS = {
    "prior, 1": lambda: ppgen.normalize(unnormalised, particles=1),
    "prior, 3": lambda: ppgen.normalize(unnormalised, particles=3),
    "proposal, 2": lambda: ppgen.normalize(unnormalised, proposal=flat, particles=2),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_densities_of_a_normalised_program(name):
    """Both estimates are right for the law that is drawn from, and that is a law."""
    program = POSTERIORS[name]()
    total = 0.0
    for u in range(2):
        for v in range(2):

            def here(t, u=u, v=v):
                trace = ppgen.simulate(program)(t)
                hit = jnp.where((trace["u"] == u) & (trace["v"] == v), 1.0, 0.0)
                return hit, hit * jnp.exp(-trace.log_density)

            drawn = exact(lambda t, here=here: here(t)[0])(0.5)
            inverse = exact(lambda t, here=here: here(t)[1])(0.5)
            scored = exact(
                lambda t, u=u, v=v: jnp.exp(ppgen.log_density(program)({"u": u, "v": v}, t))
            )(0.5)
            np.testing.assert_allclose(scored, drawn, rtol=1e-9)
            np.testing.assert_allclose(inverse, 1.0, rtol=1e-9)
            total += drawn
    np.testing.assert_allclose(total, 1.0, rtol=1e-9)


def test_a_marginal_in_a_normalised_program():
    """The estimate that weighted a particle is the one in its density."""

    def hidden(t):
        w = numpyro.sample("w", dist.Bernoulli(0.3))
        numpyro.sample("u", dist.Bernoulli(0.1 + 0.7 * w))

    def tilted(t):
        ppgen.marginal(hidden, ["u"])(t)
        numpyro.factor("f", t)

    def coin(t):
        numpyro.sample("u", dist.Bernoulli(0.6))

    program = ppgen.normalize(tilted, proposal=coin, particles=2)
    for u in range(2):

        def here(t, u=u):
            trace = ppgen.simulate(program)(t)
            hit = jnp.where(trace["u"] == u, 1.0, 0.0)
            return hit, hit * jnp.exp(-trace.log_density)

        drawn = exact(lambda t, here=here: here(t)[0])(0.5)
        scored = exact(lambda t, u=u: jnp.exp(ppgen.log_density(program)({"u": u}, t)))(0.5)
        np.testing.assert_allclose(scored, drawn, rtol=1e-9)
        inverse = exact(lambda t, here=here: here(t)[1])(0.5)
        np.testing.assert_allclose(inverse, 1.0, rtol=1e-9)
    with pytest.raises(SiteError, match="estimated density inside"):
        ppgen.seed(ppgen.normalize(tilted, particles=2))(jax.random.key(0), 0.5)


def test_normalising_approaches_the_posterior():
    p = np.exp(
        [
            [
                float(
                    exact(
                        lambda t, c=(u, v): ppgen.log_density(unnormalised)(
                            dict(zip("uv", c, strict=True)), t
                        )
                    )(0.5)
                )
                for v in range(2)
            ]
            for u in range(2)
        ]
    )
    right = (p * [[0, 2], [1, 3]]).sum() / p.sum()
    errors = []
    for particles in (1, 2, 5):
        program = ppgen.normalize(unnormalised, proposal=flat, particles=particles)
        errors.append(abs(float(exact(lambda t, q=program: q(t) * 1.0)(0.5)) - right))
    assert errors[0] > errors[1] > 1.5 * errors[2], errors


def test_a_marginal_of_a_normalised_program_in_a_marginal():
    """Depth three: a guide that is the marginal of a posterior, whose hidden flip is marginal."""
    inner = ppgen.normalize(unnormalised, proposal=flat, particles=2)
    middle = ppgen.marginal(
        inner, ["u"], proposal=lambda kept, t: numpyro.sample("v", dist.Bernoulli(0.6))
    )

    def outer(t):
        middle(t)
        numpyro.sample("y", dist.Bernoulli(0.5))

    program = ppgen.marginal(
        outer,
        ["y"],
        proposal=lambda kept, t: numpyro.sample("u", dist.Bernoulli(0.5)),
        particles=2,
    )
    for mode in (
        lambda t: jnp.exp(ppgen.log_density(program)({"y": 1}, t)),
        lambda t: (
            0.25
            * jnp.where((trace := ppgen.simulate(program)(t))["y"] == 1, 1.0, 0.0)
            * jnp.exp(-trace.log_density)
            / 0.5
        ),
    ):
        np.testing.assert_allclose(exact(mode)(0.5), 0.5, rtol=1e-9)


@pytest.mark.long
def test_gradients_of_a_bound_that_contains_estimates():
    """Any estimator, through simulated and scored estimates alike, against enumeration."""

    def model(t):
        numpyro.sample("x", dist.Bernoulli(0.2))
        numpyro.factor("f", 0.3)

    guide = ppgen.marginal(flips, ["x"], particles=2)

    def bound(t):
        trace = ppgen.simulate(guide)(t)
        return ppgen.log_density(model)(trace, t) - trace.log_density

    value, slope = exact(bound)(0.4), jax.grad(exact(bound))(0.4)
    for estimators in ({}, {"*": ppgen.DisARM()}, {"u": ppgen.Enumerate()}, "auto"):
        g = ppgen.expectation(ppgen.with_estimators(bound, estimators), draws=4)
        keys = jax.random.split(jax.random.key(0), 20_000)
        got = jax.jit(jax.vmap(jax.value_and_grad(g, argnums=1), (0, None)))(keys, 0.4)
        for estimate, right in zip(got, (value, slope), strict=True):
            error = estimate.std() / len(keys) ** 0.5
            assert abs(estimate.mean() - right) < 5 * error + 1e-9, estimators
            assert error < 0.01


def test_under_vmap_each_lane_has_a_density_of_its_own():
    program = ppgen.marginal(flips, ["x"], particles=2)

    def two(t):
        jax.vmap(program)(jnp.stack([t, 2 * t]))

    p = [joint(t).sum((0, 1)) for t in (0.4, 0.8)]
    f = exact(lambda t: jnp.exp(ppgen.log_density(two)({"x": jnp.array([1, 0])}, t)))
    np.testing.assert_allclose(f(0.4), p[0][1] * p[1][0], rtol=1e-9)


def test_in_a_scan_and_a_cond():
    program = ppgen.marginal(flips, ["x"])

    def steps(t):
        def body(carry, s):
            jax.lax.cond(s > 0.5, lambda: program(s), lambda: program(-s))
            return carry, None

        jax.lax.scan(body, 0.0, jnp.stack([t, 2 * t]))

    p = [joint(t).sum((0, 1)) for t in (-0.4, 0.8)]
    f = exact(lambda t: jnp.exp(ppgen.log_density(steps)({"x": jnp.array([1, 0])}, t)))
    np.testing.assert_allclose(f(0.4), p[0][1] * p[1][0], rtol=1e-9)


def test_conditioned_and_renamed():
    """Handlers around a marginal program act on the sites that it keeps."""

    def model(t):
        handlers.condition(ppgen.marginal(flips, ["x"], particles=2), {"x": 1})(t)
        handlers.scope(ppgen.marginal(flips, ["x"]), prefix="a")(t)

    p = joint(0.4).sum((0, 1))
    trace = ppgen.seed(ppgen.simulate(model))(jax.random.key(0), 0.4)
    assert list(trace.choices) == ["a/x"] and not trace.exact
    f = exact(lambda t: jnp.exp(ppgen.log_density(model)({"a/x": 0}, t)))
    np.testing.assert_allclose(f(0.4), p[1] * p[0], rtol=1e-9)


def test_a_draw_that_is_no_site_makes_a_density_an_estimate():
    """One that was drawn anew for the particle that is kept would not be its own: 1.3, not 1."""

    def program(t):
        x = numpyro.sample("x", dist.Bernoulli(0.5))
        e = ppgen.draw(dist.Bernoulli(jax.nn.sigmoid(t)), name="e")
        numpyro.factor("f", 1.0 * x * e)
        return x + ppgen.draw(dist.Bernoulli(0.5), name="harmless")

    def harmless():
        x = numpyro.sample("x", dist.Bernoulli(0.5))
        return x + ppgen.draw(dist.Bernoulli(0.5), name="harmless")

    def other(t):
        numpyro.sample("x", dist.Bernoulli(0.3))

    key = jax.random.key(0)
    assert not ppgen.seed(ppgen.simulate(program))(key, 0.4).exact
    assert ppgen.seed(ppgen.simulate(harmless))(key).exact
    with pytest.raises(ppgen.PpgenError, match="propose for itself"):
        ppgen.seed(ppgen.normalize(program, particles=2))(key, 0.4)

    def reciprocal(t):
        trace = ppgen.simulate(ppgen.normalize(program, proposal=other, particles=2))(t)
        return jnp.where(trace["x"] == 1, jnp.exp(-trace.log_density), 0.0)

    np.testing.assert_allclose(exact(reciprocal)(0.4), 1.0, rtol=1e-9)


def test_nothing_kept_is_the_evidence():
    def model(t):
        u = numpyro.sample("u", dist.Bernoulli(jax.nn.sigmoid(t)))
        numpyro.sample("x", dist.Bernoulli(0.1 + 0.7 * u), obs=1)

    evidence = 0.1 + 0.7 * jax.nn.sigmoid(0.4)
    f = exact(lambda t: jnp.exp(ppgen.log_density(ppgen.marginal(model, [], particles=3))({}, t)))
    np.testing.assert_allclose(f(0.4), evidence, rtol=1e-9)


def test_particles_are_not_unrolled():
    def size(particles):
        program = ppgen.marginal(flips, ["x"], proposal=proposal, particles=particles)
        f = ppgen.expectation(lambda t: ppgen.simulate(program)(t).log_density)
        return len(str(jax.make_jaxpr(f)(jax.random.key(0), 0.4)).splitlines())

    assert size(3) == size(100)


def test_a_return_value_that_is_integrated_out():
    def program(t):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        x = numpyro.sample("x", dist.Normal(u, 1.0))
        return u, x + 1

    def used(i):
        def model(t):
            value = ppgen.marginal(program, ["x"])(t)[i]
            numpyro.sample("y", dist.Normal(value, 1.0))

        return model

    ppgen.seed(ppgen.log_density(used(1)))(jax.random.key(0), {"x": 0.0, "y": 0.0}, 0.4)
    with pytest.raises(SiteError, match="integrates out"):
        ppgen.seed(ppgen.log_density(used(0)))(jax.random.key(0), {"x": 0.0, "y": 0.0}, 0.4)
    # Drawn, it has a value.
    trace = ppgen.seed(ppgen.simulate(used(0)))(jax.random.key(0), 0.4)
    assert set(trace.choices) == {"x", "y"}


def test_errors():
    key = jax.random.key(0)

    def observing(t):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(u, 1.0))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=t)

    # Its density is estimated all the same.
    ppgen.seed(ppgen.log_density(ppgen.marginal(observing, ["x"])))(key, {"x": 0.0}, 0.4)
    with pytest.raises(SiteError, match="normalize"):
        ppgen.seed(ppgen.simulate(ppgen.marginal(observing, ["x"])))(key, 0.4)

    with pytest.raises(SiteError, match="no latent site of this name"):
        ppgen.seed(ppgen.marginal(flips, ["z"]))(key, 0.4)
    with pytest.raises(ChoiceMismatchError, match="lacks"):
        lacking = ppgen.marginal(
            flips, ["x"], proposal=lambda kept, t: numpyro.sample("u", dist.Bernoulli(0.5))
        )
        ppgen.seed(ppgen.simulate(lacking))(key, 0.4)
    with pytest.raises(ValueError, match="at least one particle"):
        ppgen.marginal(flips, ["x"], particles=0)

    def plated(t):
        with numpyro.plate("N", 3):
            ppgen.marginal(flips, ["x"])(t)

    with pytest.raises(SiteError, match="plate or mask"):
        ppgen.seed(ppgen.simulate(plated))(key, 0.4)
    with pytest.raises(SiteError, match=r"handlers\.scale"):
        ppgen.seed(ppgen.simulate(handlers.scale(ppgen.marginal(flips, ["x"]), 2.0)))(key, 0.4)

    def subsampled(t):
        with numpyro.plate("N", 4, subsample_size=2):
            numpyro.sample("u", dist.Normal(0.0, 1.0))

    with pytest.raises(SiteError, match="minibatch"):
        ppgen.seed(ppgen.normalize(subsampled, particles=2))(key, 0.4)

    both = ppgen.marginal(flips, ["u", "x"])
    with pytest.raises(SiteError, match="one density"):
        ppgen.seed(ppgen.simulate(handlers.condition(both, {"x": 1})))(key, 0.4)


def test_tilts_add_up():
    def program():
        return numpyro.sample("x", dist.Normal(0.0, 1.0))

    def one(x):
        return x**2

    def other(x):
        return jnp.sin(x)

    twice = ppgen.log_density(ppgen.tilt(ppgen.tilt(program, one), other))
    once = ppgen.log_density(ppgen.tilt(program, lambda x: one(x) + other(x)))
    for x in (-1.0, 0.3):
        np.testing.assert_allclose(twice({"x": x}), once({"x": x}), rtol=1e-12)
    with pytest.raises(CostError, match="returns nothing"):
        ppgen.log_density(ppgen.tilt(flips, one))({"u": 0, "v": 0, "x": 0}, 0.4)


@pytest.mark.long
def test_a_planted_bug_is_seen(monkeypatch):
    """Power: without the retained particle among those averaged, the weights come out wrong."""
    from ppgen._programs import marginal as _marginal

    monkeypatch.setattr(_marginal, "stack", lambda first, rest: rest)
    program = ppgen.marginal(flips, ["x"], particles=2)

    def inverse(t):
        trace = ppgen.simulate(program)(t)
        return jnp.where(trace["x"] == 1, jnp.exp(-trace.log_density), 0.0)

    assert abs(float(exact(inverse)(0.4)) - 1.0) > 0.1


def test_weights_of_a_program_as_its_own_proposal():
    """Sites under a mask or a scale weigh what their density differs from what drew them."""

    def program():
        with handlers.scale(scale=3.0):
            numpyro.sample("a", dist.Bernoulli(0.3))
        numpyro.sample("b", dist.Bernoulli(0.2).mask(False))

    from ppgen._staging.stage import stage

    staged = stage(program, recorded=True)
    given = Given({"a": 1, "b": 1}, unscored=frozenset(["a", "b"]))
    _, sites = ppgen.seed(lambda: run_sites(staged.jaxpr, (), given))(jax.random.key(0))
    np.testing.assert_allclose(sites.log_probs["a"], 2 * np.log(0.3), rtol=1e-9)
    np.testing.assert_allclose(sites.log_probs["b"], -np.log(0.2), rtol=1e-9)
