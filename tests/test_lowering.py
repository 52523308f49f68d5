"""Lowering: programs in which there is nothing to lower are left as they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import _jax
from ppgen._lowering.lower import lower, needs_lowering
from ppgen._staging.stage import stage

FLIP = dist.Bernoulli(0.3)


def plain():
    """Choices and arithmetic, as they are evaluated."""
    x = ppgen.draw(FLIP, name="x", grad=ppgen.ScoreFunction())
    y = ppgen.draw(dist.Normal(x * 0.5, 1.0), name="y", grad=ppgen.ScoreFunction())
    return 0.7 * x * y + y


def with_a_call():
    return jax.jit(plain)()


def with_a_function_of_jax():
    return jax.nn.softplus(plain())


def with_a_branch():
    return jax.lax.cond(ppgen.draw(FLIP, name="b") > 0, plain, lambda: 1.0)


def with_a_site():
    return numpyro.sample("z", FLIP) * 2.0


def without_choices():
    return jnp.sin(ppgen.draw(dist.Normal(0.0, 1.0), name="x"))


@pytest.mark.parametrize(
    "program, needed",
    [
        (plain, False),
        (without_choices, False),
        (with_a_call, True),
        (with_a_function_of_jax, True),
        (with_a_branch, True),
        (with_a_site, True),
    ],
)
def test_what_needs_lowering(program, needed):
    assert needs_lowering(stage(program, in_place=program is without_choices).jaxpr) == needed


def test_where_nothing_is_to_be_lowered_lowering_changes_nothing():
    jaxpr = stage(plain).jaxpr
    assert not needs_lowering(jaxpr)
    before, after = (_jax.open_jaxpr(j)[0].eqns for j in (jaxpr, lower(jaxpr)))
    assert [e.primitive for e in before] == [e.primitive for e in after]
    assert [e.params for e in before] == [e.params for e in after]
