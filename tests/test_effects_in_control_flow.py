"""NumPyro's handlers around its own control flow, and minibatches that are given.

A generated table, handlers x control flow: the log density and its gradient are NumPyro's. What
NumPyro cannot score, such as a scan within a scan, is compared with one scan over all steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density as numpyro_log_density

import ppgen
from ppgen.errors import ChoiceMismatchError, ControlFlowError, SiteError
from ppgen.inference import elbo

KEY = jax.random.key(5)
DATA = jnp.array([0.3, -1.2, 0.8, 2.0, 1.0, -0.4])


def step(c, y):
    z = numpyro.sample("z", dist.Normal(0.9 * c, 1.0))
    numpyro.sample("y", dist.Normal(z, 0.5), obs=y)
    return z, z


def scanned():
    scan(step, 0.0, DATA)


def scanned_backwards():
    scan(step, 0.0, DATA, reverse=True)


def nested():
    scan(lambda c, ys: scan(step, c, ys), 0.0, DATA.reshape(3, 2))


def plates_in_a_scan():
    def body(c, y):
        with numpyro.plate("N", 3):
            z = numpyro.sample("z", dist.Normal(0.9 * c, 1.0))
            numpyro.sample("y", dist.Normal(z, 0.5), obs=y)
        return z, None

    scan(body, jnp.zeros(3), jnp.stack([DATA[:3], DATA[3:]]))


def forked():
    cond(DATA[0] > 0, lambda c: step(c, 0.3), lambda c: step(c + 1.0, 0.3), 0.5)


def forked_in_a_scan():
    def body(c, y):
        return cond(y > 0, lambda c: step(c, 0.3), lambda c: step(c + 1.0, 0.3), c)

    scan(body, 0.5, DATA)


SHAPES = {
    scanned: (6,),
    scanned_backwards: (6,),
    nested: (3, 2),
    plates_in_a_scan: (2, 3),
    forked: (),
    forked_in_a_scan: (6,),
}


def scanned_from_the_end():
    scan(step, 0.0, DATA[::-1])


REFERENCES = {
    nested: (scanned, lambda z: z.reshape(6)),
    scanned_backwards: (scanned_from_the_end, lambda z: z[::-1]),
}
"""What stands for a program that NumPyro cannot score, or scores with its values in the wrong
order, and what its values are there."""

TERMS = {
    "nothing": lambda program, like: program,
    "scale": lambda program, like: handlers.scale(program, scale=2.5),
    "mask": lambda program, like: handlers.mask(program, mask=False),
    "scales": lambda program, like: handlers.scale(program, scale=1.0 + like),
    "masks": lambda program, like: handlers.mask(program, mask=like % 2 == 0),
    "block y": lambda program, like: handlers.block(program, hide=["y"]),
    "infer_config": lambda program, like: handlers.infer_config(program, lambda msg: {"a": 1}),
    "seed": lambda program, like: handlers.seed(program, 0),
    "scale of mask of scale": lambda program, like: handlers.scale(
        handlers.mask(handlers.scale(program, scale=2.0), mask=like % 2 == 0), scale=1.5
    ),
}


def like(shape):
    return jnp.arange(np.prod(shape, dtype=int)).reshape(shape)


def values(shape):
    return jnp.sin(1.0 + like(shape))


def reference(program):
    return REFERENCES.get(program, (program, lambda z: z))


@pytest.mark.sweep(of=8)
@pytest.mark.parametrize("flow", SHAPES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("handler", TERMS)
def test_terms_are_numpyros(flow, handler):
    """Handlers that change densities: `log_density`, its gradient, and that of `simulate`."""
    shape, (other, flat) = SHAPES[flow], reference(flow)
    program = TERMS[handler](flow, like(shape))
    oracle = TERMS[handler](other, flat(like(shape)))

    def expected(z):
        return numpyro_log_density(oracle, (), {}, {"z": flat(z)})[0]

    got = jax.value_and_grad(lambda z: ppgen.log_density(program)({"z": z}))(values(shape))
    want = jax.value_and_grad(expected)(values(shape))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), got, want)
    trace = ppgen.seed(ppgen.simulate(program))(KEY)
    assert trace.choices["z"].shape == shape
    np.testing.assert_allclose(trace.log_density, expected(trace["z"]), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("flow", SHAPES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("how", ["substitute", "condition", "function"])
def test_values_that_are_given(flow, how):
    z = values(SHAPES[flow])
    other, flat = reference(flow)
    program = {
        "substitute": lambda: handlers.substitute(flow, {"z": z}),
        "condition": lambda: handlers.condition(flow, {"z": z}),
        "function": lambda: handlers.substitute(
            flow, substitute_fn=lambda site: z if site["name"] == "z" else None
        ),
    }[how]()
    want = numpyro_log_density(other, (), {}, {"z": flat(z)})[0]
    np.testing.assert_allclose(ppgen.log_density(program)({}), want, rtol=2e-5)


def test_a_replayed_site_is_refused_and_the_advice_works():
    z = values((6,))
    site = {"type": "sample", "is_observed": False, "value": z, "infer": {}}
    with pytest.raises(ControlFlowError, match="replay"):
        ppgen.seed(ppgen.simulate(handlers.replay(scanned, {"z": site})))(KEY)
    conditioned = ppgen.log_density(handlers.condition(scanned, {"z": z}))({})
    np.testing.assert_allclose(ppgen.log_density(scanned)({"z": z}), conditioned, rtol=1e-5)


def test_one_value_for_all_steps():
    program = handlers.condition(scanned, {"z": jnp.array(0.2)})
    want = numpyro_log_density(scanned, (), {}, {"z": jnp.full(6, 0.2)})[0]
    np.testing.assert_allclose(ppgen.log_density(program)({}), want, rtol=2e-5)


def test_a_series_that_is_too_short_is_refused():
    with pytest.raises(SiteError, match="stacks its values along axis 0"):
        ppgen.log_density(handlers.condition(scanned, {"z": DATA[:2]}))({})


@pytest.mark.parametrize("flow", SHAPES, ids=lambda p: p.__name__)
def test_trace_and_block_of_a_scan(flow):
    """A trace records stacked sites, of which the sum of log densities is the program's."""

    def objective():
        outer = handlers.scale(handlers.trace(handlers.block(flow, hide=["y"])), scale=2.0)
        with handlers.trace() as seen:
            outer()
        sites = [site for site in seen.values() if site["type"] == "sample"]
        terms = [(site["fn"].log_prob(site["value"]) * site["scale"]).sum() for site in sites]
        return sum(terms), {site["name"]: site["value"] for site in sites}

    total, found = ppgen.expectation(objective, has_aux=True)(KEY)
    assert list(found) == ["z"] and found["z"].shape == SHAPES[flow]
    hidden = handlers.scale(handlers.block(flow, hide=["y"]), scale=2.0)
    np.testing.assert_allclose(total, ppgen.log_density(hidden)(found), rtol=2e-5)


def test_a_blocked_scan_is_run_and_has_no_density():
    program = handlers.block(scanned)
    assert ppgen.seed(ppgen.log_density(program))(KEY, {}) == 0.0
    assert ppgen.seed(ppgen.simulate(program))(KEY).choices == {}


def chained():
    c = scan(lambda c, _: (numpyro.sample("z", dist.Normal(c, 1.0)),) * 2, 0.0, None, length=3)[0]
    numpyro.sample("y", dist.Normal(c, 1.0), obs=0.3)


def parted():
    pick = lambda m: lambda _: numpyro.sample("z", dist.Normal(m, 1.0))  # noqa: E731
    numpyro.sample("y", dist.Normal(cond(True, pick(0.0), pick(1.0), None), 1.0), obs=0.3)


def hidden(f):
    return handlers.block(f, hide=["z"])


@pytest.mark.parametrize("flow", [chained, parted], ids=lambda p: p.__name__)
def test_a_value_for_a_site_that_is_hidden_around_control_flow(flow):
    """NumPyro's control flow takes it, and the site has no density."""
    z = {"z": jnp.array([0.5, -0.2, 1.0]) if flow is chained else jnp.array(0.5)}
    around = {
        "block": lambda f: hidden(f),
        "scale outside": lambda f: handlers.scale(hidden(f), scale=3.0),
        "scale inside": lambda f: hidden(handlers.scale(f, scale=3.0)),
        "by type": lambda f: handlers.block(f, hide_fn=lambda m: m["type"] == "sample"),
    }
    for name, handler in around.items():
        want = numpyro_log_density(handler(flow), (), {}, z)[0]
        np.testing.assert_allclose(
            ppgen.log_density(handler(flow))(z), want, rtol=1e-5, err_msg=name
        )
    programs = [
        hidden(handlers.condition(flow, z)),
        handlers.scale(handlers.condition(hidden(flow), z), scale=2.0),
        handlers.scale(handlers.substitute(hidden(flow), z), scale=2.0),
    ]
    for program in programs:
        want = numpyro_log_density(program, (), {}, {})[0]
        np.testing.assert_allclose(ppgen.log_density(program)({}), want, rtol=1e-5)
    # Where the message of the control flow is hidden too, nothing that is given gets there.
    with pytest.raises(ChoiceMismatchError, match="no such site"):
        ppgen.log_density(handlers.block(flow))(z)


def test_a_hidden_site_that_is_given_nothing_is_drawn():
    trace = ppgen.seed(ppgen.simulate(hidden(chained)))(KEY)
    assert trace.choices == {} and not trace.exact
    density = ppgen.seed(ppgen.log_density(hidden(chained)))
    assert density(KEY, {}) != density(jax.random.key(1), {})
    # E log N(0.3 | z3, 1) for z3 of variance 3, and its slope by what moves the first one.
    program = lambda t: handlers.substitute(hidden(moved), {})(t)  # noqa: E731
    g = ppgen.expectation(lambda t: ppgen.log_density(program)({}, t), draws=4000)
    value, slope = jax.value_and_grad(g, argnums=1)(KEY, 0.4)
    assert abs(value + 0.5 * (0.01 + 3.0) + 0.5 * np.log(2 * np.pi)) < 0.15
    assert abs(slope + 0.1) < 0.1


def moved(t):
    c = scan(lambda c, _: (numpyro.sample("z", dist.Normal(c, 1.0)),) * 2, t, None, length=3)[0]
    numpyro.sample("y", dist.Normal(c, 1.0), obs=0.3)


def test_a_hidden_site_takes_no_value_of_another_program():
    """It has a density there, which nothing here would answer to."""

    def guide():
        scan(lambda c, _: (numpyro.sample("z", dist.Normal(c, 1.0)),) * 2, 0.0, None, length=3)

    with pytest.raises(ChoiceMismatchError, match="no such site"):
        ppgen.expectation(elbo(hidden(chained), guide))(KEY)

    def both():
        numpyro.sample("z", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        hidden(chained)()

    with pytest.raises(ChoiceMismatchError, match="block hides"):
        ppgen.expectation(elbo(both, guide))(KEY)


@pytest.mark.parametrize("flow", [scanned, forked, nested], ids=lambda p: p.__name__)
def test_what_renames_or_replaces_sites_goes_inside(flow):
    """NumPyro takes no values for it either; the advice works."""
    around = {
        "scope": lambda f: handlers.scope(f, prefix="a"),
        "do": lambda f: handlers.do(f, data={"z": 0.0}),
        "reparam": lambda f: handlers.reparam(f, config={"z": LocScaleReparam(0.0)}),
    }
    for name, handler in around.items():
        with pytest.raises(ControlFlowError, match=name):
            ppgen.log_density(handler(flow))({})

    def program():
        scan(handlers.scope(step, prefix="a"), 0.0, DATA)

    z = values((6,))
    np.testing.assert_allclose(
        ppgen.log_density(program)({"a/z": z}), ppgen.log_density(scanned)({"z": z})
    )


def test_params_in_a_scan():
    def program():
        def body(c, y):
            m = numpyro.param("m", 0.0)
            numpyro.sample("y", dist.Normal(m, 1.0), obs=y)
            return c, None

        scan(body, 0.0, DATA)

    density = ppgen.log_density(ppgen.functional(program))
    slope = jax.grad(lambda m: density({}, {"m": m}))(0.5)
    np.testing.assert_allclose(slope, (DATA - 0.5).sum(), rtol=1e-5)
    with pytest.raises(SiteError, match="outside of the scan"):
        ppgen.init_params(program)(KEY)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_elbo_gradient_with_a_scaled_scan(scale):
    """Against the closed form: every step's terms count `scale` times."""

    def model(th):
        handlers.scale(scanned, scale=scale)()

    def guide(th):
        def body(c, t):
            return c, numpyro.sample("z", dist.Normal(t, 0.5))

        scan(body, 0.0, th)

    def exact(th):
        before = jnp.concatenate([jnp.zeros(1), th[:-1]])
        first = jnp.arange(6) == 0
        prior = (th - 0.9 * before) ** 2 + 0.25 + jnp.where(first, 0.0, 0.81 * 0.25)
        return scale * (-0.5 * prior - 0.5 * ((DATA - th) ** 2 + 0.25) / 0.25).sum()

    gradient = jax.vmap(jax.grad(ppgen.expectation(elbo(model, guide)), argnums=1), (0, None))
    th = 0.1 * jnp.arange(6.0)
    draws = gradient(jax.random.split(KEY, 2000), th)
    error = np.abs(draws.mean(0) - jax.grad(exact)(th))
    assert np.all(error < 5 * draws.std(0) / 2000**0.5 + 1e-3)


def minibatch_model(th):
    with numpyro.plate("N", 6, subsample_size=2) as i:
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(b, 0.5), obs=DATA[i])


def minibatch_guide(th):
    with numpyro.plate("N", 6, subsample_size=2) as i:
        numpyro.sample("b", dist.Normal(th[i], 0.4))


BATCH = jnp.array([1, 4])


def recorded(data):
    return {name: {"type": "plate", "value": value} for name, value in data.items()}


GIVEN = {
    "substitute": lambda f: handlers.substitute(f, {"N": BATCH}),
    "substitute, blocked": lambda f: handlers.substitute(
        handlers.block(f, hide=["other"]), {"N": BATCH}
    ),
    "condition": lambda f: handlers.condition(f, {"N": BATCH}),
    "replay": lambda f: handlers.replay(f, recorded({"N": BATCH})),
}


def at_batch(th):
    m = th[BATCH]
    fit = -0.5 * (m**2 + (DATA[BATCH] - m) ** 2 / 0.25)
    return 3 * jnp.sum(fit)


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("how", GIVEN)
def test_a_minibatch_that_is_given(how, both):
    """It is that minibatch in model and guide, with the plate's scale."""
    given = GIVEN[how]
    bound = elbo(given(minibatch_model) if both else minibatch_model, given(minibatch_guide))
    th = 0.1 * jnp.arange(6.0)
    gradient = jax.vmap(jax.grad(ppgen.expectation(bound), argnums=1), (0, None))
    draws = gradient(jax.random.split(KEY, 1000), th)
    error = np.abs(draws.mean(0) - jax.grad(at_batch)(th))
    assert np.all(error < 5 * draws.std(0) / 1000**0.5 + 1e-3)
    trace = ppgen.seed(ppgen.simulate(given(minibatch_guide)))(KEY, th)
    np.testing.assert_array_equal(trace["N"], BATCH)
    assert ppgen.log_density(given(minibatch_guide))(trace.choices, th) == trace.log_density


def test_minibatches_that_differ_are_refused():
    th = jnp.zeros(6)
    given = GIVEN["substitute"]
    with pytest.raises(ChoiceMismatchError, match="N"):
        ppgen.expectation(elbo(given(minibatch_model), minibatch_guide))(KEY, th)
    other = handlers.substitute(minibatch_guide, {"N": jnp.array([0, 1])})
    with pytest.raises(SiteError, match="minibatch"):
        ppgen.expectation(elbo(given(minibatch_model), other))(KEY, th)


@pytest.mark.parametrize("indices", [BATCH, jnp.tile(BATCH, (3, 1))], ids=["one", "each"])
def test_a_minibatch_that_is_given_in_a_scan(indices):
    def program():
        def body(c, _):
            with numpyro.plate("N", 6, subsample_size=2) as i:
                numpyro.sample("x", dist.Normal(0.0, 1.0), obs=DATA[i])
            return c, i

        return scan(body, 0.0, None, length=3)[1]

    trace = ppgen.seed(ppgen.simulate(handlers.substitute(program, {"N": indices})))(KEY)
    np.testing.assert_array_equal(trace.value, jnp.tile(BATCH, (3, 1)))
    want = 9 * dist.Normal(0.0, 1.0).log_prob(DATA[BATCH]).sum()
    np.testing.assert_allclose(trace.log_density, want, rtol=1e-5)


def test_another_size_of_a_minibatch_has_its_own_scale():
    def program():
        with numpyro.plate("N", 6) as i:
            numpyro.sample("x", dist.Normal(0.0, 1.0), obs=DATA[i])

    got = ppgen.log_density(handlers.substitute(program, {"N": BATCH}))({})
    want = 3 * dist.Normal(0.0, 1.0).log_prob(DATA[BATCH]).sum()
    np.testing.assert_allclose(got, want, rtol=1e-5)
