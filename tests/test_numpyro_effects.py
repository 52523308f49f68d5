"""Programs use NumPyro's effects unchanged: the same densities as NumPyro, whatever they are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.contrib.module import eqx_module, flax_module, nnx_module
from numpyro.infer.util import log_density as numpyro_log_density

import ppgen
from ppgen.errors import SiteError

KEY = jax.random.key(3)
DATA = jnp.array([0.3, -1.2, 0.8, 2.0])


def nested_plates():
    with numpyro.plate("rows", 3, dim=-2):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("columns", 4, dim=-1):
            numpyro.sample("b", dist.Normal(a, 2.0), obs=DATA)


def factors():
    x = numpyro.sample("x", dist.Gamma(2.0, 1.0))
    numpyro.factor("penalty", -3.0 * x)
    numpyro.deterministic("square", x**2)


def masked_and_scaled():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    with handlers.scale(scale=2.5), handlers.mask(mask=jnp.array([True, False, True, True])):
        numpyro.sample("y", dist.Normal(x, 1.0), obs=DATA)


def partly_observed():
    mask = jnp.array([True, False, True, False])
    with numpyro.plate("N", 4):
        numpyro.sample("y", dist.Normal(0.5, 1.0), obs=DATA, obs_mask=mask)


def scoped():
    with handlers.scope(prefix="left"):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    with handlers.scope(prefix="right"):
        numpyro.sample("x", dist.Normal(x, 1.0))


def conditioned():
    program = handlers.condition(factors, {"x": jnp.array(0.7)})
    program()
    numpyro.sample("free", dist.Beta(2.0, 3.0))


def looped():
    def step(previous, y):
        z = numpyro.sample("z", dist.Normal(0.9 * previous, 0.5))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
        return z, z

    return scan(step, 0.0, DATA)


def branched():
    s = numpyro.sample("s", dist.Bernoulli(0.4))
    return cond(
        s == 1,
        lambda _: numpyro.sample("x", dist.Normal(1.0, 2.0)),
        lambda _: numpyro.sample("x", dist.Normal(-1.0, 0.5)),
        None,
    )


def transformed():
    base = dist.Normal(0.0, 1.0)
    x = numpyro.sample("x", dist.TransformedDistribution(base, dist.transforms.ExpTransform()))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2) * (1 + x)))


PROGRAMS = [
    nested_plates,
    factors,
    masked_and_scaled,
    partly_observed,
    scoped,
    conditioned,
    looped,
    branched,
    transformed,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_same_density_as_numpyro(program):
    """`simulate` and `log_density` agree with each other exactly, and with NumPyro."""
    trace = ppgen.seed(ppgen.simulate(program))(KEY)
    assert trace.log_density == ppgen.log_density(program)(trace.choices)
    expected, _ = numpyro_log_density(program, (), {}, dict(trace.choices))
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)


def test_names_and_shapes_of_choices():
    def choices(program):
        trace = ppgen.seed(ppgen.simulate(program))(KEY)
        return {name: value.shape for name, value in trace.choices.items()}

    assert choices(nested_plates) == {"a": (3, 1)}
    assert choices(scoped) == {"left/x": (), "right/x": ()}
    assert choices(partly_observed) == {"y_unobserved": (4,)}
    assert choices(looped) == {"z": (4,)}
    assert choices(conditioned) == {"free": ()}


def test_subsampled_plate_scales_and_keeps_its_minibatch():
    data = jnp.arange(8.0)

    def program():
        with numpyro.plate("N", 8, subsample_size=2) as rows:
            batch = numpyro.subsample(data, event_dim=0)
            numpyro.sample("y", dist.Normal(batch, 1.0), obs=data[rows])
        return rows

    trace = ppgen.seed(ppgen.simulate(program))(KEY)
    assert trace["N"].shape == (2,)
    assert len(set(np.asarray(trace["N"]).tolist())) == 2
    np.testing.assert_array_equal(trace.value, trace["N"])
    # The batch is the data at its own indices: each residual is zero, eight terms count.
    np.testing.assert_allclose(trace.log_density, 8 * dist.Normal(0.0, 1.0).log_prob(0.0))
    assert ppgen.log_density(program)(trace) == trace.log_density


def test_minibatch_estimates_the_full_density_without_bias():
    def program(subsample_size):
        with numpyro.plate("N", 4, subsample_size=subsample_size) as rows:
            numpyro.sample("y", dist.Normal(0.0, 1.0), obs=DATA[rows])

    full = ppgen.log_density(program)({}, 4)
    one = ppgen.seed(lambda: ppgen.log_density(program)({}, 2))
    draws = jax.jit(jax.vmap(one))(jax.random.split(KEY, 4000))
    assert abs(draws.mean() - full) < 5 * draws.std() / 4000**0.5
    assert draws.std() > 0.1


def test_condition_and_substitute_fix_values_also_in_a_scan():
    values = jnp.array([0.1, 0.2, 0.3, 0.4])
    for handler in (handlers.condition, handlers.substitute):
        program = handler(looped, data={"z": values})
        trace = ppgen.seed(ppgen.simulate(program))(KEY)
        assert trace.choices == {}
        np.testing.assert_allclose(trace.log_density, ppgen.log_density(looped)({"z": values}))


def test_a_blocked_site_is_drawn_but_not_recorded():
    program = handlers.block(branched, hide=["s"])
    draws = jax.vmap(ppgen.seed(program))(jax.random.split(KEY, 2000))
    assert abs(draws.mean() - (0.4 - 0.6)) < 0.15


def test_prng_key_differs_between_calls_and_between_lanes():
    def program():
        here = jax.random.normal(numpyro.prng_key())
        lanes = jax.vmap(lambda _: jax.random.normal(numpyro.prng_key()))(jnp.arange(3))
        return jnp.concatenate([here[None], lanes])

    values = np.asarray(ppgen.seed(program)(KEY))
    assert len(set(values.tolist())) == 4


def test_sample_shape_and_sites_under_vmap():
    def program():
        many = numpyro.sample("many", dist.Normal(0.0, 1.0), sample_shape=(5,))
        lanes = jax.vmap(lambda m: numpyro.sample("lanes", dist.Normal(m, 1.0)))(jnp.arange(3.0))
        return many, lanes

    trace = ppgen.seed(ppgen.simulate(program))(KEY)
    many, lanes = trace.choices["many"], trace.choices["lanes"]
    assert many.shape == (5,) and lanes.shape == (3,)
    expected = dist.Normal(0.0, 1.0).log_prob(many).sum()
    expected += dist.Normal(jnp.arange(3.0), 1.0).log_prob(lanes).sum()
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)


def test_params_are_unconstrained_and_their_values_are_not():
    def guide():
        scale = numpyro.param("scale", 2.0, constraint=dist.constraints.positive)
        numpyro.sample("x", dist.Normal(numpyro.param("loc", lambda key: jnp.ones(())), scale))
        return scale

    params = ppgen.init_params(guide)(KEY)
    np.testing.assert_allclose(params["scale"], np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(params["loc"], 1.0)
    assert ppgen.seed(ppgen.functional(guide))(KEY, params) == 2.0
    with pytest.raises(SiteError, match="loc"):
        ppgen.seed(ppgen.functional(guide))(KEY, {"scale": jnp.zeros(())})
    with pytest.raises(SiteError, match="functional"):
        ppgen.expectation(lambda: guide())(KEY)


def _flax():
    linen = pytest.importorskip("flax.linen")
    return lambda x: flax_module("net", linen.Dense(2), input_shape=(3,))(x)


def _nnx():
    nnx = pytest.importorskip("flax.nnx")
    return lambda x: nnx_module("net", nnx.Linear(3, 2, rngs=nnx.Rngs(0)))(x)


def _eqx():
    layer = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    return lambda x: jax.vmap(eqx_module("net", layer))(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [_flax, _nnx, _eqx], ids=["flax", "nnx", "equinox"])
def test_modules_are_parameters(make):
    """The gradient through a module's parameters is that of least squares."""
    net = make()
    x, y = jnp.eye(3)[:2], jnp.ones((2, 2))

    def program():
        numpyro.sample("y", dist.Normal(net(x), 1.0).to_event(2), obs=y)
        return net(x)

    params = ppgen.init_params(program)(KEY)
    run = ppgen.functional(program)
    density = ppgen.log_density(run)
    gradient = jax.grad(lambda p: density({}, p))(params)
    prediction = ppgen.seed(run)(KEY, params)
    biases = [g for g in jax.tree.leaves(gradient) if g.shape == (2,)]
    np.testing.assert_allclose(biases[0], (y - prediction).sum(0), rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dropout_has_fresh_noise():
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dropout(0.5, deterministic=False)(linen.Dense(64)(x))

    def program():
        net = flax_module("net", Net(), input_shape=(3,), apply_rng=["dropout"])
        return net(jnp.ones((1, 3)), rngs={"dropout": numpyro.prng_key()})

    params = ppgen.init_params(program)(KEY)
    run = ppgen.seed(ppgen.functional(program))
    one, two = (np.asarray(run(jax.random.key(i), params)) for i in (0, 1))
    dropped = np.mean(one == 0)
    assert 0.2 < dropped < 0.8 and not np.array_equal(one == 0, two == 0)


def test_mutable_state_is_refused():
    def program():
        numpyro.primitives.mutable("counter", {"n": 0})

    with pytest.raises(SiteError, match="counter"):
        ppgen.seed(program)(KEY)


def test_a_constant_factor_under_jit():
    def program():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("f", -1.5)
        return x

    trace = jax.jit(ppgen.seed(ppgen.simulate(program)))(jax.random.key(0))
    expected = dist.Normal(0.0, 1.0).log_prob(trace["x"]) - 1.5
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-6)
