"""The report of an objective."""

import os
import re

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.inference import elbo, iwelbo


def model(theta, x):
    with numpyro.plate("N", 5):
        k = numpyro.sample("k", dist.Bernoulli(0.3))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(k + theta * z.sum(-1), 1.0), obs=x)


def guide(theta, x):
    with numpyro.plate("N", 5):
        numpyro.sample("k", dist.Bernoulli(logits=theta + x))
        numpyro.sample("z", dist.Normal(theta, 1.0).expand([2]).to_event(1))


def line_of(function, text):
    """`file.py:12` of the first line of a function that contains a text."""
    with open(__file__) as file:
        lines = file.read().splitlines()
    start = function.__code__.co_firstlineno
    number = next(i for i in range(start, len(lines)) if text in lines[i])
    return f"{os.path.basename(__file__)}:{number + 1}"


def row(report, start):
    """The cells of the table row that starts with a text."""
    (line,) = [x for x in str(report).splitlines() if x.startswith(start + "  ")]
    return re.split(r"  +", line)


def test_tables_of_an_evidence_bound(capsys):
    report = ppgen.check(elbo(model, guide))(0.3, jnp.ones(5))
    assert capsys.readouterr().out == f"{report}\n"
    k, z = line_of(guide, '"k"'), line_of(guide, '"z"')
    assert row(report, "k") == ["k", "Bernoulli", "5", "·", "ScoreFunction (default)", k]
    assert row(report, "z") == ["z", "Normal", "5", "2", "Reparameterize (default)", z]
    # Model and guide have sites of the same names: sign and line tell them apart.
    assert row(report, "- log p(k)") == ["- log p(k)", "5", k, "k[i]"]
    assert row(report, "+ log p(k)") == ["+ log p(k)", "5", line_of(model, '"k"'), "k[i]"]
    assert row(report, "+ log p(x)") == ["+ log p(x)", "5", line_of(model, '"x"'), "k[i], z"]
    assert row(report, "- log p(z)") == ["- log p(z)", "5", z, "z"]
    assert len(report.terms) == 5
    assert str(report).splitlines()[-1] == "verdict  unbiased to every order"
    assert report.ok


def test_nothing_is_run():
    def loud(theta, x):
        jax.debug.callback(lambda: pytest.fail("it ran"))
        return model(theta, x)

    shape = jax.ShapeDtypeStruct((5,), jnp.float32)
    report = ppgen.check(elbo(loud, guide))(0.3, shape)
    assert report.ok


def test_a_term_that_is_no_sum_names_what_it_is_made_of():
    report = ppgen.check(iwelbo(model, guide, particles=3))(0.3, jnp.ones(5))
    (term,) = report.terms
    assert "log_mean_exp" in term.name and "log p(x)" in term.name
    # Each element of the shared plate has a bound, of its own choices.
    assert term.shape == (5,)
    assert term.reached_by == ("k[:, i]", "z")
    assert row(report, "k")[2] == "3×5"


def test_terms_of_a_cost_without_densities():
    def f(theta):
        b = ppgen.draw(dist.Bernoulli(theta).expand([4]), name="b", grad=ppgen.Enumerate())
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x", grad=ppgen.MeasureValued())
        return jnp.sum((b - 0.3) ** 2) - 3 * x**2 + jnp.sum(b) ** 2 + theta**2 + 1.0

    report = ppgen.check(f)(0.3)
    assert [(t.sign, t.name, t.shape, t.reached_by) for t in report.terms] == [
        ("+", "(b - 0.3) ** 2", (4,), ("b[i]",)),
        ("-", "x**2", (), ("x",)),
        ("+", "jnp.sum(b) ** 2", (), ("b",)),
        ("+", "theta**2", (), ()),
    ]
    assert report.verdict == "first derivatives only (MeasureValued at 'x')"
    assert "(default)" not in str(report)


def test_choices_in_loops_and_lanes():
    def f(theta):
        def step(carry, _):
            z = ppgen.draw(dist.Normal(carry, 1.0), name="z", grad=ppgen.ScoreFunction())
            return theta * z, z**2

        _, costs = jax.lax.scan(step, theta, length=7)
        w = jax.vmap(lambda t: ppgen.draw(dist.Normal(t, 1.0), name="w"))(jnp.arange(3.0))
        return jnp.sum(costs) + jnp.sum(w**2)

    report = ppgen.check(f)(0.3)
    assert row(report, "z")[2] == "7" and row(report, "w")[2] == "3"
    assert [t.reached_by for t in report.terms] == [("z[≤i]",), ("w",)]


def test_discontinuities_are_listed_and_refused():
    def f(theta):
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x")
        return jnp.where(x > 0, 1.0, 0.0) + jnp.floor(x)

    report = ppgen.check(f)(0.3)
    here = line_of(f, "floor")
    assert not report.ok
    assert f"  ! x reaches floor at {here}" in str(report).splitlines()
    assert len(report.discontinuities) == 2
    assert report.verdict.startswith("error: x reaches an indicator")
    with pytest.raises(ppgen.PpgenError):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


def test_jumps_that_are_said_not_to_matter():
    def f(theta):
        grad = ppgen.Reparameterize(assume_smooth=True)
        return jnp.floor(ppgen.draw(dist.Normal(theta, 1.0), name="x", grad=grad))

    report = ppgen.check(f)(0.3)
    assert report.ok and not report.discontinuities
    assert report.verdict == "unbiased to every order, if no jump matters that 'x' passes over"


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda: jnp.ones(3), ["must be a real scalar"]),
        (
            lambda: (
                jnp.sum(
                    ppgen.draw(dist.Bernoulli(0.3).expand([40]), name="b", grad=ppgen.Enumerate())
                )
                ** 2
            ),
            ["2^40 joint points", "'b'", "test_check.py:", "Write instead"],
        ),
        (
            lambda: ppgen.draw(dist.Poisson(3.0), name="n", grad=ppgen.Reparameterize()),
            ["does not fit", "'n'"],
        ),
    ],
)
def test_errors_are_the_verdict(f, words):
    report = ppgen.check(f)()
    assert not report.ok and report.verdict.startswith("error: ")
    for word in words:
        assert word in report.verdict


def test_nothing_random():
    report = ppgen.check(lambda theta: theta**2)(3.0)
    assert "no random choices" in str(report)
    assert report.verdict == "nothing is random: the cost itself"


def test_a_hundred_sites_fit_the_screen():
    def f(theta):
        cost = 0.0
        for i in range(100):
            name = f"a rather long name of a random choice, as scopes make them, number {i}"
            b = ppgen.draw(dist.Bernoulli(theta), name=name)
            cost = cost + theta * (cost + b)
        return cost**2 + jnp.sum(cost)

    report = ppgen.check(f)(0.3)
    lines = str(report).splitlines()
    assert len(report.choices) == 100
    assert max(map(len, lines)) <= 100
    assert len(lines) < 70
    assert "… 77 more choices …" in lines
    assert lines[4].startswith("a rather long…") and "number 0  Bernoulli" in lines[4]


def test_the_advice_is_that_of_the_error():
    """Where a parameter itself moves the jump, freezing the choice is none."""

    def f(theta):
        x = ppgen.draw(dist.Normal(0.0, 1.0), name="x")
        return jnp.where(x < theta, 1.0, 0.0)

    with pytest.raises(ppgen.errors.DiscontinuityError) as caught:
        jax.grad(ppgen.expectation(f), argnums=1)(jax.random.key(0), 0.3)
    assert "as a probability" in caught.value.instead
    assert ppgen.check(f)(0.3).verdict.endswith(caught.value.instead)


@pytest.mark.parametrize(
    "with_constant, sign",
    [
        (lambda x: x + jnp.negative(3.0), "+"),
        (lambda x: jnp.negative(3.0) - x, "-"),
        (lambda x: x - 3.0, "+"),
        (lambda x: -(3.0 - x), "+"),
        (lambda x: x * -3.0, "-"),
        (lambda x: x / -3.0, "-"),
        (lambda x: jnp.stack([x, jnp.asarray(3.0)]).sum(), "+"),
        (lambda x: jnp.where(jnp.asarray(True), x, jnp.negative(3.0)), "+"),
        (lambda x: x + jnp.broadcast_to(jnp.negative(3.0), 2).sum(), "+"),
        (lambda x: x - x, "±"),
    ],
)
def test_constants_are_no_terms_wherever_they_enter(with_constant, sign):
    report = ppgen.check(lambda p: with_constant(ppgen.draw(dist.Normal(p, 1.0), name="x")))(0.3)
    assert report.ok, report.verdict
    assert [(t.sign, t.reached_by) for t in report.terms] == [(sign, ("x",))]
