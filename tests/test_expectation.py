"""`expectation(f)` is a plain JAX function: every transformation applies to it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from monte_carlo import (
    assert_close_in_mean,
    bernoulli,
    check,
    estimates,
    expected,
    normal,
    over_flips,
)

import ppgen
from ppgen import Enumerate, LeaveOneOut, MovingAverage, Reparameterize, ScoreFunction

KEY = jax.random.key(0)
THETA = jnp.array([0.3, 0.6])


def cost(t):
    """One choice of each kind."""
    x = numpyro.sample("x", dist.Normal(t[0], 0.5))
    b = numpyro.sample("b", dist.Bernoulli(t[1]))
    c = ppgen.draw(dist.Bernoulli(t[0] * t[1]), grad=Enumerate())
    return (x + b - 0.5 * c) ** 2 + t[1] * b * c


def exact(t):
    def run(choose):
        x = choose(normal(t[0], 0.5, nodes=2))
        b, c = choose(bernoulli(t[1])), choose(bernoulli(t[0] * t[1]))
        return (x + b - 0.5 * c) ** 2 + t[1] * b * c

    return expected(run)


g = ppgen.expectation(cost)


def close(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-4, atol=1e-5), a, b))


def test_value_gradient_and_hessian_are_unbiased():
    check(cost, [0.3, 0.6], exact, samples=20_000, order=2)


# --- transformations ------------------------------------------------------------------------------


def test_jit_changes_nothing():
    for run in (g, jax.grad(g, argnums=1), jax.value_and_grad(g, argnums=1)):
        assert close(run(KEY, THETA), jax.jit(run)(KEY, THETA))


def test_under_jit_a_program_is_run_once_for_all_transformations():
    """As for any function: what `jax.jit` traced serves values, gradients, shapes and lanes."""
    runs = []

    def counted(t):
        runs.append(t)
        return cost(t)

    g = jax.jit(ppgen.expectation(counted))
    value = g(KEY, THETA)
    same, _ = jax.value_and_grad(g, argnums=1)(KEY, THETA)
    jax.grad(g, argnums=1)(KEY, THETA)
    jax.eval_shape(g, KEY, THETA)
    jax.vmap(g, (0, None))(jax.random.split(KEY, 3), THETA)
    assert len(runs) == 1
    np.testing.assert_allclose(value, same, rtol=1e-6)


TRANSFORMATIONS = {
    "none": lambda g: g(KEY, THETA),
    "jit": lambda g: jax.jit(g)(KEY, THETA),
    "eval_shape": lambda g: jax.eval_shape(g, KEY, THETA),
    "value_and_grad": lambda g: jax.value_and_grad(g, 1)(KEY, THETA),
    "jvp": lambda g: jax.jvp(lambda t: g(KEY, t), (THETA,), (THETA,)),
    "hessian": lambda g: jax.hessian(g, 1)(KEY, THETA),
    "vmap": lambda g: jax.vmap(g, (0, None))(jax.random.split(KEY, 3), THETA),
    "all": lambda g: jax.jit(jax.vmap(jax.value_and_grad(g, 1), (0, None)))(
        jax.random.split(KEY, 3), THETA
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_transformation_runs_a_program_once(name):
    runs = []

    def counted(t):
        runs.append(t)
        return cost(t)

    TRANSFORMATIONS[name](ppgen.expectation(counted))
    assert len(runs) == 1


def test_without_jit_a_program_is_run_at_every_call():
    """Nothing is kept from call to call, so what a program reads from outside may change."""
    scale = {"x": 1.0}

    def f(t):
        return scale["x"] * ppgen.draw(dist.Normal(t, 1.0))

    g = ppgen.expectation(f)
    value, slope = jax.value_and_grad(g, argnums=1)(KEY, 0.3)
    scale["x"] = 2.0
    twice, steeper = jax.value_and_grad(g, argnums=1)(KEY, 0.3)
    np.testing.assert_allclose([twice, steeper], [2 * value, 2 * slope], rtol=1e-6)


def test_what_a_program_does_not_use_changes_neither_draws_nor_values():
    def f(t, more):
        x = numpyro.sample("x", dist.Normal(t, 1.0))
        y = numpyro.sample("y", dist.Normal(x, 1.0))  # unused, but it has its key
        if more:
            jnp.log(x) + jnp.sin(t)
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        return x**2 + z * t, y

    plain, with_more = (
        jax.value_and_grad(
            ppgen.expectation(functools.partial(f, more=more), has_aux=True), 1, has_aux=True
        )(KEY, 0.3)
        for more in (False, True)
    )
    assert plain == with_more


def test_vmap_over_keys_and_arguments_is_a_loop():
    keys, thetas = jax.random.split(KEY, 3), THETA * jnp.array([[1.0], [0.5], [1.2]])
    run = jax.value_and_grad(g, argnums=1)
    together = jax.vmap(run)(keys, thetas)
    alone = [run(k, t) for k, t in zip(keys, thetas, strict=True)]
    assert close(together, jax.tree.map(lambda *x: jnp.stack(x), *alone))
    one_key = jax.vmap(run, (None, 0))(KEY, thetas)
    assert close(jax.tree.map(lambda x: x[0], one_key), run(KEY, thetas[0]))


def test_jvp_is_the_gradient_in_a_direction():
    v = jnp.array([0.5, -2.0])
    value, tangent = jax.jvp(lambda t: g(KEY, t), (THETA,), (v,))
    gradient = jax.grad(g, argnums=1)(KEY, THETA)
    assert close((value, tangent), (g(KEY, THETA), gradient @ v))
    assert close(jax.jacfwd(g, argnums=1)(KEY, THETA), gradient)


def test_hessian_does_not_depend_on_the_mode():
    forward, reverse, third = jax.jit(
        lambda t: (
            jax.jacfwd(jax.jacfwd(g, argnums=1), argnums=1)(KEY, t),
            jax.jacrev(jax.jacrev(g, argnums=1), argnums=1)(KEY, t),
            jax.jacfwd(jax.hessian(g, argnums=1), argnums=1)(KEY, t),
        )
    )(THETA)
    one = jax.jit(jax.hessian(g, argnums=1))(KEY, THETA)
    assert close(one, forward) and close(one, reverse) and close(one, one.T)
    assert third.shape == (2, 2, 2) and bool(jnp.all(jnp.isfinite(third)))


def test_scan_over_steps_of_gradient_descent():
    gradient = jax.grad(g, argnums=1)

    def step(t, key):
        return t - 0.01 * gradient(key, t), g(key, t)

    keys = jax.random.split(KEY, 4)
    last, costs = jax.lax.scan(step, THETA, keys)
    t = THETA
    for key, c in zip(keys, costs, strict=True):
        assert close(g(key, t), c)
        t = t - 0.01 * gradient(key, t)
    assert close(t, last)


def test_remat_changes_nothing():
    run = jax.grad(jax.checkpoint(g), argnums=1)
    assert close(run(KEY, THETA), jax.grad(g, argnums=1)(KEY, THETA))


def test_expectation_inside_cond_and_while():
    def total(t):
        inside = jax.lax.cond(t[0] > 0, lambda t: g(KEY, t), lambda t: 0.0, t)
        return jax.lax.fori_loop(0, 3, lambda i, c: c + inside, 0.0)

    assert close(jax.grad(total)(THETA), 3 * jax.grad(g, argnums=1)(KEY, THETA))


def test_shard_map_over_two_devices():
    code = """
        import jax, jax.numpy as jnp, numpy as np
        import numpyro.distributions as dist, ppgen
        from jax.sharding import PartitionSpec as P

        def f(t, x):
            z = ppgen.draw(dist.Normal(t[0] * x, 1.0))
            b = ppgen.draw(dist.Bernoulli(jax.nn.sigmoid(t[1] * x)))
            return jnp.sum((z + b) ** 2)

        g = ppgen.expectation(f)
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        keys, t, x = jax.random.split(jax.random.key(0), 2), jnp.array([0.3, 0.6]), jnp.arange(8.0)

        def local(key, t, x):
            return jax.lax.psum(g(key[0], t, x), "data")

        specs = (P("data"), P(), P("data"))
        shards = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())
        got = jax.jit(jax.value_and_grad(shards, argnums=1))(keys, t, x)
        want = jax.value_and_grad(lambda t: g(keys[0], t, x[:4]) + g(keys[1], t, x[4:]))(t)
        assert np.allclose(got[0], want[0], rtol=1e-4) and np.allclose(got[1], want[1], rtol=1e-4)
    """
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- arguments ------------------------------------------------------------------------------------


class Guide(eqx.Module):
    net: eqx.nn.Linear
    scale: jax.Array
    family: str = eqx.field(static=True)
    activation: callable = eqx.field(static=True)

    def __call__(self, x):
        assert self.family == "normal"
        return dist.Normal(self.activation(self.net(x)), jnp.exp(self.scale))


def test_equinox_modules_with_static_fields():
    guide = Guide(eqx.nn.Linear(3, 2, key=KEY), jnp.zeros(2), "normal", jax.nn.tanh)

    def f(guide, x, *, weight):
        z = ppgen.draw(guide(x))
        return weight * jnp.sum(z**2)

    objective = ppgen.expectation(f)
    # The key stays in front, so the module is the second argument.
    value, gradient = eqx.filter_jit(
        eqx.filter_value_and_grad(lambda guide, key: objective(key, guide, jnp.ones(3), weight=2.0))
    )(guide, KEY)
    assert jnp.isfinite(value) and isinstance(gradient, Guide)
    assert gradient.net.weight.shape == (2, 3) and bool(jnp.all(gradient.net.weight != 0))
    assert gradient.family == "normal"


def test_arguments_may_be_any_pytree_with_static_leaves():
    def f(params, mode, options):
        assert mode == "square" and options["n"] == 3
        return sum(ppgen.draw(dist.Normal(p, 1.0)) ** options["power"] for p in params["locs"])

    h = ppgen.expectation(f)
    params = {"locs": (jnp.array(0.1), jnp.array(0.2))}
    options = {"n": 3, "power": 2}
    gradient = jax.grad(lambda p: h(KEY, p, "square", options))(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


def test_closed_over_parameters_are_differentiated():
    def loss(t, key):
        return ppgen.expectation(lambda: cost(t))(key)

    assert close(jax.grad(loss)(THETA, KEY), jax.grad(g, argnums=1)(KEY, THETA))

    def outer(t):
        scaled = t * 2.0
        return ppgen.expectation(lambda s: cost(scaled / 2) * s)(KEY, t[0])

    gradient = jax.grad(outer)(THETA)
    own = jax.grad(g, argnums=1)(KEY, THETA) * THETA[0] + jnp.array([g(KEY, THETA), 0.0])
    assert close(gradient, own)


@pytest.mark.parametrize(
    "key",
    [
        lambda: jax.random.key(3),
        lambda: jax.random.PRNGKey(3),
        lambda: jax.random.key(3, impl="rbg"),
        lambda: jax.random.key(3, impl="unsafe_rbg"),
    ],
    ids=["typed", "old", "rbg", "unsafe_rbg"],
)
def test_every_kind_of_key(key):
    def f(t):
        x = ppgen.draw(dist.Normal(t, 1.0))
        with numpyro.plate("N", 6, subsample_size=2):
            b = numpyro.sample("b", dist.Bernoulli(0.5 + 0 * t).expand([2]))
        noise = jax.random.normal(numpyro.prng_key())
        ys = jax.lax.map(lambda p: ppgen.draw(dist.Normal(p, 1.0)), t * jnp.ones(2))
        return x**2 + jnp.sum(b * t) + noise + jnp.sum(ys)

    h = ppgen.expectation(f, draws=2)
    run = jax.jit(jax.vmap(jax.value_and_grad(h, argnums=1), (0, None)))
    keys = jax.random.split(key(), 8)
    values, gradients = run(keys, 0.5)
    assert bool(jnp.all(jnp.isfinite(values) & jnp.isfinite(gradients)))
    assert len(np.unique(values)) == 8
    assert close(run(keys, 0.5), (values, gradients))


def test_old_and_new_style_keys_agree():
    assert g(jax.random.PRNGKey(7), THETA) == g(jax.random.key(7), THETA)


def test_default_key_implementation_may_be_changed():
    with jax.default_prng_impl("rbg"):
        assert jnp.isfinite(jax.jit(g)(jax.random.key(0), THETA))


def test_float64():
    with jax.enable_x64(True):
        t = jnp.array([0.3, 0.6])
        value, gradient = jax.value_and_grad(g, argnums=1)(KEY, t)
        assert value.dtype == gradient.dtype == jnp.float64
        f = ppgen.with_estimators(cost, {"b": Enumerate(), "x": Reparameterize()})
        got = check(f, [0.3, 0.6], exact, samples=4000)
        assert got[0].dtype == np.float64


def test_bfloat16_parameters():
    def f(t):
        return ppgen.draw(dist.Bernoulli(t.astype(jnp.float32))) * t * 2

    gradient = jax.grad(ppgen.expectation(f), argnums=1)(KEY, jnp.asarray(0.5, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16


def test_deterministic_cost_is_exact():
    h = ppgen.expectation(lambda t: jnp.sum(t**2))
    assert close(jax.grad(h, argnums=1)(KEY, THETA), 2 * THETA)
    constant = ppgen.expectation(lambda t: 3.0)
    assert constant(KEY, THETA) == 3.0
    assert close(jax.grad(constant, argnums=1)(KEY, THETA), jnp.zeros(2))
    whole = ppgen.expectation(lambda t: ppgen.draw(dist.Bernoulli(t)))
    assert whole(KEY, 0.5).dtype == jnp.float32, "an integer cost becomes a float"


def test_zero_sized_and_unused_choices():
    def f(t):
        ppgen.draw(dist.Bernoulli(t))
        none = ppgen.draw(dist.Bernoulli(jnp.full((0,), t)))
        return ppgen.draw(dist.Normal(t, 1.0)) ** 2 + jnp.sum(none) * t

    assert jnp.isfinite(jax.grad(ppgen.expectation(f), argnums=1)(KEY, 0.3))


# --- linearity and the tower law ------------------------------------------------------------------


def test_expectations_add_scale_and_nest():
    # E[a E[f]^2]: two independent estimates, so the product is unbiased.
    def h(key, t):
        one, two = jax.random.split(key)
        return 2.0 * g(one, t) * g(two, t) + g(one, t)

    _, gradient = estimates(h, THETA, samples=20_000)

    def e(t):
        return 2 * exact(t) ** 2 + exact(t)

    step = 1e-5 * np.eye(2)
    t = np.array([0.3, 0.6])
    want = [(e(t + d) - e(t - d)) / 2e-5 for d in step]
    assert_close_in_mean(gradient, want)


def test_an_expectation_inside_an_objective():
    inner = ppgen.expectation(lambda m: ppgen.draw(dist.Normal(m, 1.0)) ** 2)

    def f(t):
        b = ppgen.draw(dist.Bernoulli(t[1]), grad=ScoreFunction())
        return inner(numpyro.prng_key(), t[0] + b)

    # E[(t0 + b)^2 + 1]
    check(f, [0.3, 0.6], lambda t: 1 + t[0] ** 2 + t[1] * (2 * t[0] + 1), samples=8000)


# --- aux and draws --------------------------------------------------------------------------------


def test_aux_is_what_the_run_produced():
    def f(t):
        x = ppgen.draw(dist.Normal(t, 1.0))
        return x**2, {"x": x, "name": "run", "n": 3}

    h = ppgen.expectation(f, has_aux=True)
    value, aux = h(KEY, 0.5)
    assert aux["name"] == "run" and aux["n"] == 3 and np.isclose(aux["x"] ** 2, value)
    (value, aux), gradient = jax.value_and_grad(h, argnums=1, has_aux=True)(KEY, 0.5)
    assert np.isclose(gradient, 2 * aux["x"])
    gradient = jax.grad(lambda t: h(KEY, t)[1]["x"])(0.5)
    assert gradient == 0, "auxiliary outputs have no derivatives"


def test_aux_of_an_enumerated_choice_is_its_expectation():
    def f(t):
        b = ppgen.draw(dist.Bernoulli(t), grad=Enumerate()) * 1.0
        return b, {"b": b, "b2": jnp.stack([b, 2 * b])}

    _, aux = ppgen.expectation(f, has_aux=True)(KEY, 0.3)
    assert np.allclose(aux["b"], 0.3) and np.allclose(aux["b2"], [0.3, 0.6])


def test_aux_with_draws_has_a_leading_axis():
    def f(t):
        x = ppgen.draw(dist.Normal(t, jnp.ones(3)))
        return jnp.sum(x), {"x": x, "label": "a"}

    value, aux = ppgen.expectation(f, has_aux=True, draws=5)(KEY, 0.5)
    assert aux["x"].shape == (5, 3) and aux["label"] == "a"
    assert np.isclose(value, jnp.mean(jnp.sum(aux["x"], axis=1)))


FLIPS = np.array([0.3, 0.6, 0.5, 0.2])


def many_flips(t, baseline=None):
    b = ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction(baseline)) * 1.0
    return (10.0 + jnp.sum(b)) ** 2


def many_flips_exact(t):
    return over_flips(t, lambda b: (10.0 + b.sum()) ** 2)


def test_draws_use_the_others_as_a_baseline():
    # At the same cost, against draws that are merely averaged.
    _, averaged = check(lambda t: many_flips(t, 0.0), FLIPS, many_flips_exact, draws=4)
    _, loo = check(many_flips, FLIPS, many_flips_exact, draws=4)
    _, asked = check(lambda t: many_flips(t, LeaveOneOut()), FLIPS, many_flips_exact, draws=4)
    assert np.all(loo.var(0) < averaged.var(0) / 10)
    assert np.allclose(loo.var(0), asked.var(0), rtol=1e-3)


def test_draws_are_independent():
    value, _ = check(many_flips, FLIPS, many_flips_exact, draws=8)
    single, _ = check(many_flips, FLIPS, many_flips_exact)
    assert 0.8 < 8 * value.var() / single.var() < 1.25


@pytest.mark.parametrize(
    "baseline",
    [110.0, np.float32(110.0), jnp.full(4, 110.0), MovingAverage().update(110.0)],
    ids=["number", "numpy", "array", "moving_average"],
)
def test_baselines_lower_the_variance_and_change_nothing_else(baseline):
    _, none = check(many_flips, FLIPS, many_flips_exact)
    value, some = check(lambda t: many_flips(t, baseline), FLIPS, many_flips_exact)
    assert np.all(some.var(0) < none.var(0) / 5)


def test_a_baseline_may_be_any_function_of_what_came_before():
    def f(t, k):
        x = ppgen.draw(dist.Normal(t[0], 1.0))
        baseline = k * (x * 10 + 5)
        b = ppgen.draw(dist.Bernoulli(t[1]), grad=ScoreFunction(baseline))
        return (x * 10 + b * 2 + 5) * (1 + 0 * b)

    def exact(t):
        return 10 * t[0] + 2 * t[1] + 5

    _, none = check(lambda t: f(t, 0.0), [0.3, 0.6], exact, order=1)
    _, some = check(lambda t: f(t, 1.0), [0.3, 0.6], exact, order=1)
    assert some[:, 1].var() < none[:, 1].var()


def test_baselines_keep_second_derivatives_unbiased():
    def exact(t):
        return over_flips(t, lambda b: (1.0 + b.sum()) ** 3)

    def f(t):
        b = ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction(2.0)) * 1.0
        return (1.0 + jnp.sum(b)) ** 3

    check(f, [0.3, 0.6], exact, order=2, samples=20_000)

    def without(t):
        b = ppgen.draw(dist.Bernoulli(t)) * 1.0
        return (1.0 + jnp.sum(b)) ** 3

    check(without, [0.3, 0.6], exact, order=2, samples=8000, draws=3)


def test_moving_average_survives_jit_and_optimisation():
    average = MovingAverage(0.5)

    @jax.jit
    def step(average, key):
        h = ppgen.expectation(
            lambda t: 7.0 + ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction(average))
        )
        value, gradient = jax.value_and_grad(h, argnums=1)(key, 0.5)
        return average.update(value), gradient

    for key in jax.random.split(KEY, 20):
        average, gradient = step(average, key)
    assert 7.0 < average.value < 8.0 and abs(gradient) < 3.0


def test_zero_draws_are_refused():
    with pytest.raises(ValueError, match="draws"):
        ppgen.expectation(cost, draws=0)


# --- second derivatives ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator", [Reparameterize(), ScoreFunction()], ids=["pathwise", "score"]
)
def test_second_derivatives_of_a_normal(estimator):
    def f(t):
        x = ppgen.draw(dist.Normal(t[0], t[1]), grad=estimator)
        y = ppgen.draw(dist.Normal(t[0] * x * 0.3, 0.5), grad=estimator)
        return x**2 * t[1] + x * y

    def exact(t):
        m = t[0] ** 2 + t[1] ** 2
        return m * t[1] + 0.3 * t[0] * m

    check(f, [0.3, 0.6], exact, order=2, samples=20_000)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate()], ids=["score", "enumerate"])
@pytest.mark.parametrize("how", ["scan", "sum_in_carry", "unrolled"])
def test_second_derivatives_of_a_chain(estimator, how):
    def body(t, previous):
        return ppgen.draw(dist.Bernoulli(0.2 + t[0] * previous + t[1] ** 2), grad=estimator) * 1.0

    def f(t):
        if how == "unrolled":
            b, total = 1.0, 0.0
            for _ in range(3):
                b = body(t, b)
                total = total + b * t[0]
            return total + b * total
        if how == "scan":
            b, ys = jax.lax.scan(lambda b, _: (body(t, b),) * 2, 1.0, None, length=3)
            total = jnp.sum(ys) * t[0]
            return total + b * total

        def step(carry, _):
            b, total = carry
            b = body(t, b)
            return (b, total + b * t[0]), None

        (b, total), _ = jax.lax.scan(step, (1.0, 0.0), None, length=3)
        return total + b * total

    def exact(t):
        def run(choose):
            b, total = 1.0, 0.0
            for _ in range(3):
                b = choose(bernoulli(0.2 + t[0] * b + t[1] ** 2))
                total += b * t[0]
            return total + b * total

        return expected(run)

    got = check(
        f, [0.3, 0.5], exact, order=2, samples=16_000 if isinstance(estimator, ScoreFunction) else 2
    )
    if isinstance(estimator, Enumerate):
        assert max(x.std(0).max() for x in got) < 1e-3


def test_second_derivatives_in_every_nesting():
    # The gradient of a gradient, not only jax.hessian.
    h = ppgen.expectation(lambda p: ppgen.draw(dist.Bernoulli(p)) * ppgen.draw(dist.Bernoulli(p)))
    keys = jax.random.split(KEY, 8000)
    grad2 = jax.grad(jax.grad(h, argnums=1), argnums=1)
    fwd2 = jax.jacfwd(jax.jacfwd(h, argnums=1), argnums=1)
    both = jax.jit(jax.vmap(lambda k: jnp.stack([grad2(k, 0.4), fwd2(k, 0.4)])))(keys)
    assert_close_in_mean(np.asarray(both, np.float64), [2.0, 2.0])


def test_measure_valued_refuses_a_second_derivative():
    def f(t):
        return ppgen.draw(dist.Bernoulli(t), grad=ppgen.MeasureValued()) * 1.0

    h = ppgen.expectation(f)
    with pytest.raises(ppgen.PpgenError, match="second derivative") as info:
        jax.hessian(h, argnums=1)(KEY, 0.3)
    assert type(info.value).__name__ == "DerivativeError"


# --- seed -----------------------------------------------------------------------------------------


def test_seed_runs_anything_that_draws():
    def program(n):
        with numpyro.plate("N", n):
            return {"x": numpyro.sample("x", dist.Normal(0.0, 1.0)), "n": n}

    out = jax.jit(ppgen.seed(program), static_argnums=1)(KEY, 3)
    assert out["x"].shape == (3,)
    assert len(np.unique(out["x"])) == 3
    assert close(out["x"], ppgen.seed(program)(KEY, 3)["x"])
