"""`ppgen.audit`: sound gradients agree, whatever the estimator; planted faults do not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import ppgen
from ppgen import draw
from ppgen._reports.audit_report import compared
from ppgen.errors import DerivativeError, DiscontinuityError
from ppgen.testing import assert_unbiased, planted

KEY = jax.random.key(0)


def verdict(f, *args, seed=0, **options):
    return audit(f, *args, seed=seed, **options).verdict


def audit(f, *args, seed=0, **options):
    options = {"progress": False, "effect": 0.3} | options
    return ppgen.audit(f, **options)(jax.random.key(seed), *args)


def of_normal(cost, grad=None):
    return lambda t: cost(draw(dist.Normal(t, 1.0), grad=grad))


def jump(x):
    return jnp.where(x > 0, x + 1.0, x)


def elbo(args):
    from ppgen.inference import elbo

    def model(args):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        numpyro.sample("x", dist.Normal(jnp.sum(z), 0.5), obs=1.0)

    def guide(args):
        scale = jnp.exp(args["scale"])
        numpyro.sample("z", dist.Normal(args["loc"], scale).to_event(1))

    return elbo(model, guide)(args)


# --- sound programs -------------------------------------------------------------------------------

SOUND = {
    "pathwise": of_normal(jnp.square),
    "a kink": of_normal(jax.nn.relu),
    "score function": of_normal(jnp.square, ppgen.ScoreFunction()),
    "score function of a jump": of_normal(jump, ppgen.ScoreFunction()),
    "measure-valued": of_normal(jnp.sin, ppgen.MeasureValued()),
    "antithetic": of_normal(jnp.exp, ppgen.Antithetic()),
    "a flip": lambda p: (draw(dist.Bernoulli(p)) - 0.3) ** 2,
    "enumeration": lambda p: p * draw(dist.Bernoulli(p), grad=ppgen.Enumerate()),
    "REBAR": lambda p: (draw(dist.Bernoulli(p), grad=ppgen.REBAR()) - 0.3) ** 2,
    "no randomness": lambda t: 3.0 * jnp.sin(t),
    "implicit": lambda t: draw(dist.Gamma(1.0 + t, 1.0)) ** 2,
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_programs_agree(name):
    report = audit(SOUND[name], 0.3)
    assert report.verdict == "agrees", str(report)
    assert report.reach <= report.effect


def test_control_variates_agree():
    def f(t):
        estimator = ppgen.ControlVariate(
            ppgen.ScoreFunction(), lambda x, d: 2.0 * x, lambda d: 2.0 * d.mean
        )
        return draw(dist.Normal(t, 1.0), grad=estimator) ** 2

    assert verdict(f, 0.3) == "agrees"


@pytest.mark.parametrize("x64", [False, True])
def test_trees_of_arguments_in_both_precisions(x64):
    with jax.enable_x64(x64):
        args = {"loc": jnp.array([0.3, -1.0, 2.0]), "scale": jnp.array(-1.0), "n": 3, "none": None}
        report = audit(elbo, args)
        assert report.verdict == "agrees", str(report)
        assert [r.direction for r in report.rows] == ["value", "random 1", "random 2", "random 3"]


def test_single_precision_under_x64():
    with jax.enable_x64(True):
        assert verdict(of_normal(jnp.square), np.float32(0.7)) == "agrees"


def test_arguments_of_very_different_size_and_narrow_domains():
    def f(loc, rate):
        return (draw(dist.Normal(loc, 1.0)) - 1000.0) ** 2 + 1e-3 * jnp.log(rate)

    # Twice the step beyond zero the logarithm is not a number: smaller steps are found.
    assert verdict(f, 1000.5, jnp.array(0.01)) == "agrees"


def test_a_probability_near_its_edge():
    """Steps beyond the edge give finite values that are no slope: they are not taken."""
    for seed in range(3):
        f = SOUND["enumeration"]
        assert verdict(f, 0.05, seed=seed) != "disagrees"


def test_options_of_expectation():
    def with_aux(t):
        x = draw(dist.Normal(t, 1.0), grad=ppgen.ScoreFunction())
        return x**2, {"x": x}

    assert verdict(with_aux, 0.8, has_aux=True, draws=4) == "agrees"
    biased = lambda p: (draw(dist.Bernoulli(p), grad=ppgen.StraightThrough()) - 0.1) ** 2  # noqa: E731
    assert verdict(biased, 0.8, allow_biased=True) == "disagrees"


def test_only_the_arguments_that_are_asked_for():
    def f(params, data):
        return jnp.sum((draw(dist.Normal(params, 1.0)) - jnp.floor(data)) ** 2)

    report = audit(f, 0.5, jnp.arange(3.0) + 0.1, argnums=0)
    assert report.verdict == "agrees"
    assert [r.direction for r in report.rows] == ["value", "args[0]"]


# --- the stated probability of error --------------------------------------------------------------

TINY = {
    "score function of a jump": 0.3,
    "a flip": 0.3,
    "measure-valued": 0.3,
    "pathwise": 0.3,
}


@pytest.mark.parametrize("name", TINY)
def test_false_alarms_are_as_rare_as_stated(name):
    """Thirty audits of each program, at 5% each: more than 6 of 30 happen once in 10,000."""
    report = ppgen.audit(SOUND[name], error=0.05, effect=0.5, progress=False)
    verdicts = [report(jax.random.key(i), TINY[name]).verdict for i in range(30)]
    assert verdicts.count("disagrees") <= 6
    assert verdicts.count("agrees") >= 24


@pytest.mark.parametrize("rate", [0.02, 1.0])
def test_z_of_skewed_draws_is_normal(rate):
    """Few hits: both tails are as heavy as they should be, which those of plain t are not."""
    rng = np.random.default_rng(0)
    count, n = 4000, int(40 / rate)
    x = rng.poisson(rate, (count, n)).astype(float)
    z = np.array([compared("", a, np.full(n, rate), 0.0, 0.0).z for a in x])
    for level, sigmas in ((0.025, 1.96), (0.005, 2.576)):
        for tail in (np.mean(z > sigmas), np.mean(z < -sigmas)):
            assert 0.3 * level < tail < 1.8 * level, (level, tail)


# --- faults ---------------------------------------------------------------------------------------


class Moving(dist.Distribution):
    """Uniform from 0 to `high`, by an author who says that it is supported everywhere."""

    support = constraints.real
    arg_constraints = {"high": constraints.positive}  # noqa: RUF012

    def __init__(self, high, *, validate_args=None):
        self.high = high
        super().__init__(jnp.shape(high), (), validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        u = jax.random.uniform(key, sample_shape + self.batch_shape)
        return jax.lax.stop_gradient(self.high * u)

    def log_prob(self, value):
        return jnp.broadcast_to(-jnp.log(self.high), jnp.shape(value))

    def tree_flatten(self):
        return (self.high,), {}


@jax.custom_jvp
def doubled(x):
    return x**2


doubled.defjvp(lambda primals, tangents: (primals[0] ** 2, 4 * primals[0] * tangents[0]))

FAULTS = {
    "a jump inside of a where": of_normal(jump),
    "a stop_gradient": of_normal(lambda x: x * jax.lax.stop_gradient(x)),
    "a stop_gradient without randomness": lambda t: t * jax.lax.stop_gradient(t),
    "a wrong rule of the user": of_normal(doubled),
    "a derivative that is not a number": lambda t: jnp.where(t > 0, t, jnp.sqrt(t - t)),
    "a value that is not a number": lambda t: jnp.log(t - 5.0) + draw(dist.Normal(t, 1.0)),
}


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name):
    for seed in range(3):
        report = audit(FAULTS[name], 0.3, seed=seed)
        assert report.verdict == "disagrees", str(report)


def drawn_by_jax(key, p):
    return 1.0 * jax.random.bernoulli(key, p)


def score_of_a_moving_support(key, high):
    x = Moving(jax.lax.stop_gradient(high)).sample(key)
    score = Moving(high).log_prob(x)
    return x**2 * jnp.exp(score - jax.lax.stop_gradient(score))


ESTIMATORS = {
    "randomness that nobody sees": (lambda p: draw(dist.Bernoulli(p)) * 1.0, drawn_by_jax),
    "a support that moves": (
        lambda high: draw(dist.Uniform(0.0, high)) ** 2,
        score_of_a_moving_support,
    ),
    "a wrong value": (lambda t: draw(dist.Normal(t, 1.0)), lambda key, t: t + 0.2),
}


@pytest.mark.sweep(of=2)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_faults_of_an_estimator_of_ones_own_are_found(name):
    f, estimator = ESTIMATORS[name]
    report = audit(f, 0.5, estimator=estimator)
    assert report.verdict == "disagrees", str(report)


def test_foreign_randomness_is_found_or_refused():
    def f(p):
        return 1.0 * jax.random.bernoulli(numpyro.prng_key(), p)

    try:
        assert verdict(f, 0.3) == "disagrees"
    except ppgen.PpgenError:
        pass  # a rule may know it first


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(
    "bug, f",
    [
        ("dropped score term", SOUND["score function"]),
        ("score term scaled twice", SOUND["a flip"]),
        (
            "dropped phantom",
            lambda t: draw(dist.Normal(0.0, t), grad=ppgen.MeasureValued()) ** 2,
        ),
    ],
)
def test_bugs_of_estimators_are_found(bug, f):
    with planted(bug):
        assert verdict(f, 0.3) == "disagrees"


def test_what_is_refused_stays_refused():
    with pytest.raises(DiscontinuityError):
        audit(of_normal(jnp.floor), 0.3)


# --- power ----------------------------------------------------------------------------------------


def test_without_power_it_says_so():
    report = audit(of_normal(lambda x: x + 50.0 * x**2, ppgen.ScoreFunction()), 0.01, max_draws=500)
    assert report.verdict == "no power"
    assert report.reach > report.effect and "max_draws=" in report.reason


def test_a_gradient_of_zero_sets_no_scale():
    report = audit(of_normal(jnp.square, ppgen.ScoreFunction()), 0.0, max_draws=3000)
    assert report.verdict == "no power"


def test_tails_without_a_standard_error():
    def f(t):
        x = draw(dist.Normal(t, 1.0), grad=ppgen.ScoreFunction())
        return x * draw(dist.Cauchy(0.0, 1.0)) ** 3

    report = audit(f, 1.0, max_draws=3000)
    assert report.verdict == "no power" and "tails" in report.reason


def test_no_time():
    report = audit(of_normal(jnp.square), 0.3, seconds=0.0)
    assert report.verdict == "no power"


# --- the report -----------------------------------------------------------------------------------


def test_report():
    report = audit(SOUND["a flip"], 0.3)
    text = str(report)
    assert "args[0]" in text and "verdict  agrees" in text and "±" in text
    assert max(map(len, text.splitlines())) <= 100
    with pytest.raises(TypeError, match="verdict == 'agrees'"):
        bool(report)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.verdict = "agrees"
    assert report.rows[0].direction == "value" and report.rows[0].step == 0


def test_the_same_key_gives_the_same_report():
    report = ppgen.audit(SOUND["a flip"], effect=0.5, progress=False)
    assert report(KEY, 0.3).rows == report(KEY, 0.3).rows


def test_progress(capsys):
    ppgen.audit(SOUND["no randomness"], max_draws=512)(KEY, 0.3)
    assert "draw" in capsys.readouterr().err
    ppgen.audit(SOUND["no randomness"], max_draws=512, progress=False)(KEY, 0.3)
    assert capsys.readouterr().err == ""


def test_refusals():
    with pytest.raises(DerivativeError, match="floating-point"):
        audit(lambda n: draw(dist.Normal(0.0, 1.0)) * n, 3)
    with pytest.raises(ValueError, match="error is a probability"):
        ppgen.audit(SOUND["a flip"], error=0.0)
    with pytest.raises(ValueError, match="effect"):
        ppgen.audit(SOUND["a flip"], effect=0.0)
    with pytest.raises(ValueError, match="directions"):
        ppgen.audit(SOUND["a flip"], directions=0)


# --- the page on tests ----------------------------------------------------------------------------


@pytest.mark.long
def test_the_page_on_tests_runs(capsys):
    """Every block of it, as a reader would; what Hypothesis is given there fails with a fault."""
    page = Path(__file__).parent.parent / "docs" / "testing.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 3
    scope: dict = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), scope)
    assert "verdict  disagrees" in capsys.readouterr().out
    scope["test_second_moment"]()
    scope["test_the_test"]()
    right = scope["second_moment"]
    scope["second_moment"] = lambda loc, estimator: right(loc, estimator) + 0.5 * loc
    with pytest.raises(AssertionError, match="biased"):
        scope["test_second_moment"]()


def test_the_exact_sum_does_not_see_what_an_audit_does():
    """What `assert_unbiased` says that it cannot see, without `exact=`."""

    def f(t):
        return draw(dist.Normal(jax.lax.stop_gradient(t), 1.0)) * t

    assert_unbiased(f, 0.8, order=1)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(f, 0.8, order=1, exact=jnp.square)
    assert verdict(f, 0.8) == "disagrees"
