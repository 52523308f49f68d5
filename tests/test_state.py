"""Mutable state is an argument and a result; automatic guides look at their models beforehand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import autoguide
from numpyro.primitives import mutable

import ppgen
from ppgen.errors import SiteError
from ppgen.inference import dreg, elbo, iwelbo, sticking_the_landing, vimco

KEY = jax.random.key(4)


def model(x):
    seen = mutable("seen", {"count": 0, "last": jnp.zeros(())})
    z = numpyro.sample("z", dist.Normal(0.1 * seen["count"], 1.0))
    seen["count"] = seen["count"] + 1
    seen["last"] = z
    numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.5), 1.0))


MODEL, GUIDE = ppgen.functional(model), ppgen.functional(guide)


def start():
    state = ppgen.init_state(model)(KEY, 1.0)
    assert ppgen.init_params(model)(KEY, 1.0) == {} == ppgen.init_state(guide)(KEY, 1.0)
    assert state["seen"]["count"] == 0
    return ppgen.init_params(guide)(KEY, 1.0), state


@pytest.mark.parametrize(
    "make",
    [elbo, lambda m, g: iwelbo(m, g, particles=3), lambda m, g: elbo(m, g, analytic_kl=True)],
)
def test_goes_from_step_to_step(make):
    """Under `jit` and `grad`, with the structure that it had."""
    params, state = start()
    bound = ppgen.expectation(ppgen.with_state(make(MODEL, GUIDE)), has_aux=True)

    @jax.jit
    def step(params, state, key):
        def value(params):
            return bound(key, params | state, 1.0)

        (_, state), gradient = jax.value_and_grad(value, has_aux=True)(params)
        return state, gradient

    for i in range(1, 4):
        new, gradient = step(params, state, jax.random.key(i))
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
        assert jnp.isfinite(gradient["loc"])
        state = new
        assert state["seen"]["count"] == i
    assert state["seen"]["last"] != 0


def test_of_several_draws_each_has_its_own():
    params, state = start()
    bound = ppgen.with_state(elbo(MODEL, GUIDE))
    _, new = ppgen.expectation(bound, has_aux=True, draws=5)(KEY, params | state, 1.0)
    assert new["seen"]["last"].shape == (5,)


def test_the_state_that_was_given_is_not_touched():
    params, state = start()
    run = ppgen.seed(ppgen.with_state(MODEL))
    _, new = run(KEY, params | state, 1.0)
    assert state["seen"]["count"] == 0 and new["seen"]["count"] == 1


def test_has_no_derivative():
    params, state = start()

    def last(p):
        _, new = ppgen.seed(ppgen.with_state(MODEL))(KEY, p | state, 1.0)
        return new["seen"]["last"] * p["loc"]

    assert jax.grad(last)(params)["loc"] == last({"loc": 1.0})


def test_updates_that_nobody_asks_for_are_refused():
    params, state = start()
    with pytest.raises(SiteError, match=r"'seen'[\s\S]*test_state.py[\s\S]*with_state"):
        ppgen.expectation(elbo(MODEL, GUIDE))(KEY, params | state, 1.0)
    marginal = ppgen.marginal(MODEL, ["z"])
    with pytest.raises(SiteError, match="seen"):
        ppgen.seed(ppgen.with_state(ppgen.simulate(marginal)))(KEY, params | state, 1.0)


def test_state_that_is_not_given_is_named():
    params, _ = start()
    bound = ppgen.with_state(elbo(MODEL, GUIDE))
    with pytest.raises(SiteError, match=r"init_state\(program\)"):
        ppgen.expectation(bound, has_aux=True)(KEY, params, 1.0)


def test_two_updates_of_one_state_are_refused():
    params, state = start()
    for objective in (lambda p: (MODEL(p, 1.0), MODEL(p, 1.0)), dreg(MODEL, GUIDE, particles=2)):
        args = (params | state, 1.0) if "bound" in objective.__name__ else (params | state,)
        with pytest.raises(SiteError, match="same state"):
            ppgen.seed(ppgen.with_state(objective))(KEY, *args)


def test_state_in_a_loop_is_refused():
    def program():
        def step(carry, _):
            mutable("seen", {"count": 0})
            return carry, numpyro.sample("z", dist.Normal(0.0, 1.0))

        scan(step, 0.0, None, length=3)

    run = ppgen.with_state(ppgen.functional(program))
    with pytest.raises(SiteError, match="not inside of a scan"):
        ppgen.seed(run)(KEY, {"seen": {"count": 0}})


def test_objectives_that_rescore_the_guide():
    """Its own state is updated once, by the run that drew."""

    def counting(x):
        mutable("draws", {"count": 0})["count"] += 1
        guide(x)

    params, state = start()
    state |= ppgen.init_state(counting)(KEY, 1.0)
    for make in (sticking_the_landing, lambda m, g: vimco(m, g, particles=2)):
        bound = ppgen.with_state(make(MODEL, ppgen.functional(counting)))
        _, new = ppgen.expectation(bound, has_aux=True)(KEY, params | state, 1.0)
        assert new["draws"]["count"] == 1 == new["seen"]["count"]


# --- automatic guides -----------------------------------------------------------------------------


def plain(x):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("x", dist.Normal(0.0, s), obs=x)


def test_an_automatic_guide_is_set_up_by_init_params():
    automatic = autoguide.AutoNormal(plain)
    params = ppgen.init_params(automatic)(KEY, 1.0)
    assert set(params) == {"s_auto_loc", "s_auto_scale"}
    bound = ppgen.expectation(elbo(ppgen.functional(plain), ppgen.functional(automatic)))
    assert jnp.isfinite(jax.jit(bound)(KEY, params, 1.0))
    # Nothing of the transformation stayed behind: it can be asked again, and by NumPyro.
    again = jax.jit(ppgen.init_params(automatic))(KEY, 1.0)
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, params)
    automatic.median(ppgen.seed(ppgen.functional(automatic))(KEY, params, 1.0) and params)


def test_also_behind_handlers():
    automatic = autoguide.AutoNormal(plain)
    assert ppgen.init_params(handlers.scale(automatic, scale=2.0))(KEY, 1.0)


def test_an_automatic_guide_that_has_not_seen_its_model_is_refused():
    def custom(x):
        return automatic(x)

    for run in (
        lambda g: jax.jit(ppgen.init_params(g))(KEY, 1.0),
        lambda g: ppgen.expectation(elbo(plain, ppgen.functional(g)))(KEY, {}, 1.0),
    ):
        for wrap in (lambda g: g, lambda g: custom):
            automatic = autoguide.AutoNormal(plain)
            with pytest.raises(SiteError, match=r"ppgen.init_params\(autoguide\)"):
                run(wrap(automatic))
            assert automatic.prototype_trace is None


@pytest.mark.parametrize(
    "make", [autoguide.AutoDelta, autoguide.AutoMultivariateNormal, autoguide.AutoBNAFNormal]
)
def test_an_automatic_guide_can_be_scored_again(make):
    """A point mass is where its parameters put it, under `jit` and `grad` too."""

    def two(x):
        numpyro.sample("w", dist.Gamma(2.0, 1.0))
        plain(x)

    automatic = make(two)
    params = ppgen.init_params(automatic)(KEY, 1.0)
    bound = sticking_the_landing(ppgen.functional(two), ppgen.functional(automatic))
    run = jax.vmap(jax.value_and_grad(ppgen.expectation(bound), argnums=1), (0, None, None))
    found = jax.jit(run)(jax.random.split(KEY, 100), params, 1.0)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(found))


def test_a_blocked_site_has_no_density():
    """As for NumPyro: neither drawn ones count, nor those with a value."""

    def program():
        with handlers.block():
            u = numpyro.sample("u", dist.Normal(0.0, 1.0))
            numpyro.sample("v", dist.Normal(0.0, 1.0), obs=0.3)
            with numpyro.plate("N", 4, subsample_size=2):
                pass
        numpyro.sample("x", dist.Normal(u, 1.0))

    trace = ppgen.seed(ppgen.simulate(program))(KEY)
    assert set(trace.choices) == {"x"} == set(trace.log_probs)
    # Drawn inside all the same, and a parameter before it has its score.
    f = ppgen.expectation(
        lambda p: handlers.block(lambda: numpyro.sample("u", dist.Bernoulli(p)))(), draws=4000
    )
    assert abs(jax.grad(f, argnums=1)(KEY, 0.3) - 1) < 0.2
