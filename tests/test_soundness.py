"""Never silently biased: what cannot be right is refused, with site, place and a way out."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan as numpyro_scan

import ppgen
from ppgen import Enumerate, MeasureValued, Points, Reparameterize, ScoreFunction
from ppgen.testing import assert_unbiased

KEY = jax.random.key(0)


def refused(run, kind, *, site=None, says="", instead="", where=True):
    """`run()` raises a `kind` that names the site, this file with a line, and a remedy."""
    with pytest.raises(ppgen.PpgenError) as info:
        run()
    error, text = info.value, str(info.value)
    assert type(error).__name__ == kind, text
    assert says in text
    assert error.site == site, text
    assert error.instead and instead in error.instead, text
    assert f"Write instead: {error.instead}" in text
    if where:
        file, _, line = error.where.rpartition(":")
        assert file.endswith("test_soundness.py") and line.isdigit(), error.where
        assert error.where in text
        return int(line)
    return None


def evaluate(f, *args, **options):
    return lambda: ppgen.expectation(f, **options)(KEY, *args)


# --- discontinuities ------------------------------------------------------------------------------

JUMPS = {
    "cast": (lambda x: x.astype(int)[0] * 1.0, "cast"),
    "floor": (lambda x: jnp.sum(jnp.floor(x)), "floor"),
    "ceil": (lambda x: jnp.sum(jnp.ceil(x)), "ceil"),
    "round": (lambda x: jnp.sum(jnp.round(x)), "round"),
    "sign": (lambda x: jnp.sum(jnp.sign(x)), "sign"),
    "argmax": (lambda x: jnp.argmax(x) * 1.0, "argmax"),
    "argsort": (lambda x: jnp.sum(jnp.argsort(x) * jnp.arange(3.0)), "argsort"),
    "comparison": (lambda x: jnp.sum((x > 0) * 1.0), "indicator"),
    "mean_of_booleans": (lambda x: jnp.mean(x > 0), "indicator"),
    "where": (lambda x: jnp.sum(jnp.where(x > 0, 1.0, 2.0)), "indicator"),
    "index": (lambda x: jnp.arange(3.0)[jnp.argmax(x)], ""),
    "cond": (lambda x: jax.lax.cond(x[0] > 0, lambda: 1.0, lambda: 2.0), "cond"),
    "switch": (
        lambda x: jax.lax.switch(x[0].astype(int), [lambda: 1.0, lambda: 2.0, lambda: 0.0]),
        "cast",
    ),
    "while": (lambda x: jax.lax.while_loop(lambda c: c < x[0], lambda c: c + 1.0, 0.0), "while"),
    "while_carry": (
        lambda x: jax.lax.while_loop(lambda c: c < 3.0, lambda c: c + 1.0, x[0]),
        "while",
    ),
    "in_scan": (
        lambda x: jax.lax.scan(lambda c, y: (c + jnp.floor(y), None), 0.0, x)[0],
        "floor",
    ),
    "through_a_scan_carry": (
        lambda x: jax.lax.scan(lambda c, y: (c + y, jnp.floor(c)), 0.0, x)[1].sum(),
        "floor",
    ),
    "in_vmap_of_jit": (lambda x: jnp.sum(jax.vmap(jax.jit(jnp.floor))(x)), "floor"),
    "in_remat": (lambda x: jax.checkpoint(lambda y: jnp.sum(jnp.floor(y)))(x), "floor"),
    "in_cond": (
        lambda x: jax.lax.cond(True, lambda y: jnp.sum(jnp.floor(y)), lambda y: 0.0, x),
        "floor",
    ),
    "in_while": (
        lambda x: jax.lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + jnp.floor(x[0])), (0, 0.0)
        )[1],
        "floor",
    ),
    "remainder": (lambda x: jnp.sum(jax.lax.rem(x, 2.0 * jnp.ones(3))), "remainder"),
}


@pytest.mark.parametrize("name", JUMPS)
def test_a_reparameterised_value_must_not_jump(name):
    jump, says = JUMPS[name]

    def f(t, estimator=None):
        z = numpyro.sample("z", dist.Normal(t, jnp.ones(3)), infer={"grad": estimator})
        return jump(z)

    refused(
        evaluate(f, 0.3), "DiscontinuityError", site="z", says=says, instead="assume_smooth=True"
    )
    # Both remedies work.
    for estimator in (Reparameterize(assume_smooth=True), ScoreFunction()):
        assert jnp.isfinite(ppgen.expectation(f)(KEY, 0.3, estimator))


CONTINUOUS = {
    "relu": lambda x: jnp.sum(jax.nn.relu(x)),
    "leaky_relu": lambda x: jnp.sum(jax.nn.leaky_relu(x)),
    "activations": lambda x: jnp.sum(jax.nn.gelu(x) + jax.nn.elu(x) + jax.nn.hard_tanh(x)),
    "abs": lambda x: jnp.sum(jnp.abs(x)),
    "max": lambda x: jnp.max(x) + jnp.min(x),
    "clip": lambda x: jnp.sum(jnp.clip(x, -1, 1)),
    "sort": lambda x: jnp.sum(jnp.sort(x) * jnp.arange(3.0)),
    "where": lambda x: jnp.sum(jnp.where(x > 0, x, 0.1 * x)),
    "logsumexp": lambda x: jax.nn.logsumexp(x),
    "softmax": lambda x: jnp.max(jax.nn.softmax(x)),
    "norm": lambda x: jnp.linalg.norm(x),
    "solve": lambda x: jnp.sum(jnp.linalg.solve(jnp.eye(3) + jnp.outer(x, x), x)),
    "cholesky": lambda x: jnp.linalg.slogdet(jnp.eye(3) + jnp.outer(x, x))[1],
    "power": lambda x: jnp.sum(x**3 + jnp.abs(x) ** 0.5),
    "index": lambda x: x[jnp.argmax(jnp.arange(3))] + jnp.take(x, jnp.array([0, 2])).sum(),
    "shape": lambda x: jnp.sum(x) / x.shape[0] + x.ndim,
    "frozen": lambda x: jnp.sum(x * jax.lax.stop_gradient(jnp.sign(jax.lax.stop_gradient(x)))),
    "density": lambda x: dist.Normal(jnp.zeros(3), 1.0).to_event(1).log_prob(x),
    "density_on_a_half_line": lambda x: jnp.sum(
        dist.Gamma(2.0, 1.0).log_prob(jnp.exp(x)) + dist.LogNormal(0.0, 1.0).log_prob(jnp.exp(x))
    ),
    "counter": lambda x: jax.lax.fori_loop(
        0, 3, lambda i, c: c + x[i % 3] * jnp.arange(3.0)[i], 0.0
    ),
    "counting_while": lambda x: jax.lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 0.5 + x[c[0] % 3]), (0, 0.0)
    )[1],
    "index_next_to_a_choice": lambda x: jax.lax.cond(
        x.ndim > 0,
        lambda x, i: ppgen.draw(dist.Bernoulli(0.3)) * x[i] + jnp.arange(3.0)[i],
        lambda x, i: x[i],
        x,
        jnp.argmax(jnp.arange(3)),
    ),
    "index_in_remat_with_a_choice": lambda x: jax.checkpoint(
        lambda x, i: ppgen.draw(dist.Bernoulli(0.3)) * x[i] + jnp.arange(3.0)[i]
    )(x, jnp.argmax(jnp.arange(3))),
    "isfinite": lambda x: jnp.sum(jnp.where(jnp.isfinite(x), x, 0.0)),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_what_is_continuous_is_let_through(name):
    def f(t):
        return CONTINUOUS[name](numpyro.sample("z", dist.Normal(t, jnp.ones(3))))

    assert jnp.isfinite(jax.jit(ppgen.expectation(f))(KEY, 0.3))


def test_the_jump_and_the_site_are_both_located():
    def f(t):
        z = numpyro.sample("z", dist.Normal(t, 1.0))
        w = numpyro.sample("w", dist.Normal(z, 1.0))
        return jnp.floor(w)

    line = refused(evaluate(f, 0.3), "DiscontinuityError", site="z", says="'z', 'w'")
    assert line == f.__code__.co_firstlineno + 1
    with pytest.raises(ppgen.PpgenError, match=f"floor at .*:{f.__code__.co_firstlineno + 3}:"):
        evaluate(f, 0.3)()


# --- estimators -----------------------------------------------------------------------------------


class StraightThrough(ppgen.AbstractEstimator):
    """The gradient of the mean in place of that of the sample."""

    differentiable: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = True
    first_order: ClassVar[bool] = False

    def misfit(self, dist):
        return None

    def __call__(self, key, dist):
        mean = dist.mean
        return Points(mean + jax.lax.stop_gradient(dist.sample(key) - mean))


class BiasedScore(ScoreFunction):
    biased: ClassVar[bool] = True


@pytest.mark.parametrize("estimator", [StraightThrough(), BiasedScore()])
def test_biased_estimators_are_asked_for_by_name(estimator):
    def f(t):
        return numpyro.sample("b", dist.Bernoulli(t), infer={"grad": estimator}) * 2.0

    kind = "BiasedEstimatorError"
    refused(evaluate(f, 0.3), kind, site="b", says=type(estimator).__name__, instead="allow_biased")
    gradient = jax.grad(ppgen.expectation(f, allow_biased=True), argnums=1)(KEY, 0.3)
    assert jnp.isfinite(gradient)


@pytest.mark.parametrize(
    "estimator, make",
    [
        (Reparameterize(), lambda t: dist.Bernoulli(t)),
        (Reparameterize(), lambda t: dist.ZeroInflatedPoisson(0.3, t)),
        (Reparameterize(), lambda t: dist.Categorical(jnp.ones(3) / 3)),
        (Enumerate(), lambda t: dist.Normal(t, 1.0)),
        (Enumerate(), lambda t: dist.Poisson(t)),
        (MeasureValued(), lambda t: dist.StudentT(3.0, t)),
        (MeasureValued(), lambda t: dist.MultivariateNormal(jnp.ones(2) * t, jnp.eye(2))),
    ],
)
def test_an_estimator_has_to_fit(estimator, make):
    def f(t):
        return jnp.sum(numpyro.sample("b", make(t), infer={"grad": estimator}))

    kind = "EstimatorError"
    line = refused(evaluate(f, 0.3), kind, site="b", says=type(estimator).__name__)
    assert line == f.__code__.co_firstlineno + 1


def test_an_estimator_is_an_instance():
    def f(t):
        return numpyro.sample("b", dist.Bernoulli(t), infer={"grad": ScoreFunction})

    refused(evaluate(f, 0.3), "EstimatorError", site="b", says="ScoreFunction", instead="instance")
    # Where types are checked at run time, the checker may be the first to say so.
    with pytest.raises((ppgen.PpgenError, TypeError), match="ScoreFunction"):
        ppgen.with_estimators(f, {"b": ScoreFunction})


def test_leave_one_out_needs_other_draws():
    def f(t):
        infer = {"grad": ScoreFunction(ppgen.LeaveOneOut())}
        return numpyro.sample("b", dist.Bernoulli(t), infer=infer) * 1.0

    refused(evaluate(f, 0.3), "EstimatorError", site="b", instead="draws=2")


def test_a_joint_support_that_no_machine_holds():
    def f(t):
        b = numpyro.sample("b", dist.Bernoulli(t).expand([50]), infer={"grad": Enumerate()})
        return jnp.sum(b) ** 2 * 1.0

    refused(evaluate(f, 0.3), "EstimatorError", site="b", says="2^50", instead="ScoreFunction()")


# --- model against guide --------------------------------------------------------------------------


def _elbo(model, guide):
    return evaluate(lambda: ppgen.log_density(model)(ppgen.simulate(guide)()))


def test_a_guide_site_that_the_model_lacks():
    def model():
        numpyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(infer=None):
        numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("extra", dist.Normal(0.0, 1.0), infer=infer)

    line = refused(_elbo(model, guide), "ChoiceMismatchError", site="extra", instead="is_auxiliary")
    assert line == guide.__code__.co_firstlineno + 2
    assert jnp.isfinite(_elbo(model, lambda: guide({"is_auxiliary": True}))())


def test_a_model_site_that_nothing_draws():
    def model():
        numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("w", dist.Normal(0.0, 1.0))

    def guide():
        numpyro.sample("z", dist.Normal(0.0, 1.0))

    line = refused(_elbo(model, guide), "ChoiceMismatchError", site="w", says="nothing draws it")
    assert line == model.__code__.co_firstlineno + 2


def test_a_guide_site_that_the_model_observes():
    def model():
        numpyro.sample("z", dist.Normal(0.0, 1.0), obs=1.0)

    def guide():
        numpyro.sample("z", dist.Normal(0.0, 1.0))

    refused(_elbo(model, guide), "ChoiceMismatchError", site="z", says="observed")


@pytest.mark.parametrize(
    "one, other",
    [
        (dist.Normal(0.0, 1.0), dist.Gamma(1.0, 1.0)),
        (dist.Normal(0.0, 1.0), dist.Bernoulli(0.5)),
        (dist.Uniform(0.0, 1.0), dist.Uniform(0.0, 2.0)),
        (dist.Beta(1.0, 1.0), dist.Normal(0.0, 1.0)),
        (dist.Normal(0.0, 1.0).expand([2]).to_event(1), dist.Dirichlet(jnp.ones(2))),
    ],
)
def test_supports_that_differ(one, other):
    for p, q in ((one, other), (other, one)):
        run = _elbo(lambda p=p: numpyro.sample("z", p), lambda q=q: numpyro.sample("z", q))
        refused(run, "ChoiceMismatchError", site="z", says="supports differ")


@pytest.mark.parametrize(
    "one, other",
    [
        (dist.Gamma(1.0, 1.0), dist.LogNormal(0.0, 1.0)),
        (dist.Uniform(0.0, 1.0), dist.Beta(1.0, 1.0)),
        (dist.Bernoulli(0.5), dist.Bernoulli(logits=0.0)),
        (dist.Normal(0.0, 1.0), dist.StudentT(3.0)),
        (
            dist.Normal(0.0, 1.0).expand([2]).to_event(1),
            dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
        ),
        (dist.Bernoulli(0.5), dist.Categorical(jnp.ones(2) / 2)),
    ],
)
def test_supports_that_agree(one, other):
    run = _elbo(lambda: numpyro.sample("z", one), lambda: numpyro.sample("z", other))
    assert jnp.isfinite(run())


def test_choices_of_another_shape():
    def program():
        with numpyro.plate("N", 3):
            numpyro.sample("z", dist.Normal(0.0, 1.0))

    run = evaluate(lambda: ppgen.log_density(program)({"z": jnp.zeros(2)}))
    refused(run, "SiteError", site="z", says="(2,)")

    def chain():
        numpyro_scan(lambda c, _: (numpyro.sample("z", dist.Normal(c, 1.0)), None), 0.0, None, 3)

    run = evaluate(lambda: ppgen.log_density(chain)({"z": jnp.zeros(2)}))
    refused(run, "SiteError", site="z", says="scan of length 3")


def test_choices_that_do_not_exist():
    def program():
        numpyro.sample("z", dist.Normal(0.0, 1.0))

    run = evaluate(lambda: ppgen.log_density(program)({"z": 0.0, "y": 1.0}))
    refused(run, "ChoiceMismatchError", site="y", says="no such site", where=False)


@pytest.mark.parametrize("second", ["plain", "observed", "in_scan", "in_cond"])
def test_two_sites_of_one_name(second):
    def program():
        numpyro.sample("z", dist.Normal(0.0, 1.0))
        if second == "plain":
            numpyro.sample("z", dist.Normal(0.0, 1.0))
        elif second == "observed":
            numpyro.sample("z", dist.Normal(0.0, 1.0), obs=1.0)
        elif second == "in_scan":
            numpyro_scan(
                lambda c, _: (numpyro.sample("z", dist.Normal(c, 1.0)), None), 0.0, None, 2
            )
        else:
            jax.lax.cond(
                True,
                lambda: numpyro.sample("z", dist.Normal(0.0, 1.0)),
                lambda: numpyro.sample("y", dist.Normal(0.0, 1.0)),
            )

    choices = {"z": 0.0} | ({"y": 0.0} if second == "in_cond" else {})
    simulate = lambda: ppgen.seed(ppgen.simulate(program))(KEY)  # noqa: E731
    score = lambda: ppgen.seed(ppgen.log_density(program))(KEY, choices)  # noqa: E731
    refused(simulate, "SiteError", site="z", says="same name", instead="scope")
    refused(score, "SiteError", site="z", says="same name", instead="scope")


# --- costs and densities --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cost",
    [
        lambda t: jnp.ones(3) * t,
        lambda t: (t, t),
        lambda t: {"loss": t},
        lambda t: t * 1j,
        lambda t: None,
        lambda t: "loss",
    ],
    ids=["array", "tuple", "dict", "complex", "none", "string"],
)
def test_the_cost_is_a_real_scalar(cost):
    refused(evaluate(cost, 0.3), "CostError", says="real scalar", where=False)


def test_aux_has_to_be_returned():
    refused(evaluate(lambda t: t, 0.3, has_aux=True), "CostError", says="(cost, aux)", where=False)


def test_a_density_that_is_not_a_number():
    def program(scale):
        numpyro.sample("z", dist.Normal(0.0, scale, validate_args=False))

    line = refused(
        evaluate(lambda s: ppgen.log_density(program)({"z": 1.0}, s), jnp.nan),
        "DensityError",
        site="z",
    )
    assert line == program.__code__.co_firstlineno + 1


# --- where a site cannot be -----------------------------------------------------------------------


def test_a_site_in_a_while_loop():
    def program():
        def step(x):
            return x + numpyro.sample("z", dist.Gamma(1.0, 1.0))

        return jax.lax.while_loop(lambda x: x < 3, step, 0.0)

    run = evaluate(lambda: ppgen.simulate(program)().log_density)
    refused(run, "ControlFlowError", site="z", says="while_loop", instead="scan")


def test_a_site_in_a_function_with_a_custom_derivative():
    @jax.custom_vjp
    def noisy(x):
        return x + numpyro.sample("z", dist.Normal(0.0, 1.0))

    noisy.defvjp(lambda x: (noisy(x), None), lambda _, ct: (ct,))
    for run in (evaluate(noisy, 0.3), lambda: ppgen.seed(ppgen.simulate(noisy))(KEY, 0.3)):
        refused(run, "ControlFlowError", site="z", says="custom")


def test_a_masked_draw():
    refused(
        evaluate(lambda t: ppgen.draw(dist.Normal(t, 1.0).mask(False), name="z"), 0.3),
        "SiteError",
        site="z",
        says="mask",
    )


def test_a_parameter_without_functional():
    def program():
        loc = numpyro.param("loc", 0.0)
        return numpyro.sample("z", dist.Normal(loc, 1.0))

    refused(evaluate(program), "SiteError", site="loc", instead="ppgen.functional")
    run = evaluate(lambda: ppgen.functional(program)({"other": 0.0}))
    refused(run, "SiteError", site="loc", instead="init_params")


def test_mutable_state():
    def program():
        state = numpyro.primitives.mutable("state", {"n": 0})
        return numpyro.sample("z", dist.Normal(state["n"], 1.0))

    refused(evaluate(program), "SiteError", site="state", instead="returns the new state")


def test_drawing_without_randomness():
    refused(
        lambda: ppgen.draw(dist.Bernoulli(0.3), name="z"), "SiteError", site="z", instead="seed"
    )
    refused(
        lambda: jax.jit(lambda: ppgen.draw(dist.Bernoulli(0.3), name="z"))(),
        "SiteError",
        site="z",
        instead="seed",
    )


def test_a_derivative_inside_the_program():
    def f(t):
        return jax.grad(lambda s: ppgen.draw(dist.Bernoulli(s), name="z") * s)(t)

    refused(evaluate(f, 0.3), "DerivativeError", site="z", instead="outside of f")
    # A pathwise choice may well be differentiated inside.
    h = ppgen.expectation(lambda t: jax.grad(lambda s: ppgen.draw(dist.Normal(s, 1.0)) * 2)(t))
    assert np.isclose(h(KEY, 0.3), 2.0)


def test_handlers_without_meaning_around_control_flow():
    def program():
        numpyro_scan(lambda c, _: (numpyro.sample("z", dist.Normal(c, 1.0)), None), 0.0, None, 3)

    trace = numpyro.handlers.trace(numpyro.handlers.seed(program, 0)).get_trace()
    replayed = numpyro.handlers.replay(program, trace)
    try:
        result = ppgen.seed(ppgen.simulate(replayed))(KEY)
    except ppgen.PpgenError as error:
        assert "Write instead" in str(error)
    else:
        assert np.allclose(result["z"], trace["z"]["value"])


# --- a support that moves -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda t: dist.Uniform(t, 2.0),
        lambda t: dist.Uniform(-1.0, t + 1.0),
        lambda t: dist.Pareto(t + 1.0, 3.0),
        lambda t: dist.TruncatedNormal(0.0, 1.0, low=t),
    ],
)
def test_score_of_a_support_that_moves(make):
    """As of the pathwise estimator, which needs no score."""

    def f(t, grad):
        return jnp.tanh(ppgen.draw(make(t), grad=grad) ** 2)

    found = []
    for grad in (ppgen.ScoreFunction(), ppgen.Reparameterize()):
        g = jax.grad(ppgen.expectation(lambda t: f(t, grad)), 1)  # noqa: B023
        draws = jax.jit(jax.vmap(g, (0, None)))(jax.random.split(jax.random.key(0), 20_000), 0.3)
        found.append((draws.mean(), draws.std() / 20_000**0.5))
    (a, da), (b, db) = found
    assert abs(a - b) < 5 * jnp.hypot(da, db) + 1e-4


def test_score_of_a_support_that_stays_is_not():
    def f(t):
        x = ppgen.draw(dist.Uniform(-1.0, 1.0), grad=ppgen.ScoreFunction())
        y = ppgen.draw(dist.TruncatedNormal(t, 1.0, low=0.0), grad=ppgen.ScoreFunction())
        return (x + t) ** 2 + jnp.sin(y)

    assert_unbiased(f, jnp.array(0.4), order=1, samples=20_000, detect=0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: dist.Laplace(t, 1.0),
        lambda t: dist.AsymmetricLaplace(t, 1.0, 2.0),
        lambda t: dist.Laplace(t * jnp.ones(2), 1.0).to_event(1),
    ],
)
def test_second_score_of_a_moving_kink_is_refused(make):
    # The log density of a Laplace variable has a kink at the location: its second derivative is an
    # atom, which no sample meets.
    def f(t):
        return jnp.sum(ppgen.draw(make(t), grad=ppgen.ScoreFunction()) ** 2)

    slope = jax.grad(ppgen.expectation(f), 1)
    assert jnp.isfinite(slope(jax.random.key(0), 0.3))
    with pytest.raises(
        ppgen.PpgenError, match="twice with respect to its location(.|\n)*Reparameterize"
    ):
        jax.grad(slope, 1)(jax.random.key(0), 0.3)
