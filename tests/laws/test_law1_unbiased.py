"""Law 1: value, gradient and Hessian are unbiased, whatever the program and its estimators."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from law_helpers import few, truth

import ppgen
from ppgen._distributions.rebuild import flatten
from ppgen.testing import (
    CASES,
    DISTRIBUTIONS,
    UnderpoweredError,
    assert_unbiased,
    distributions,
    estimators,
    exact,
    programs,
)

# Runtime type checks draw random numbers, also inside of strategies.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module")

VECTORS = ("Dirichlet", "MultivariateNormal")


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("name", CASES)
def test_registry(name):
    case = CASES[name]
    expected = truth(case)
    for variant in case.variants().values():
        assert_unbiased(
            variant.function,
            *variant.args,
            order=variant.order,
            exact=expected,
            samples=case.samples,
            **variant.kwargs,
        )


def check(f, *args, **options):
    """A random objective, if its estimates are not too noisy to show a bias of its own size."""
    try:
        assert_unbiased(f, *args, detect=1.0, **options)
    except UnderpoweredError:
        reject()


@pytest.mark.long
@few
@given(programs())
def test_random_programs(program):
    check(program, *program.args, order=program.order, exact=program.exact)


@st.composite
def distributions_with_estimators(draw):
    # A HalfNormal holds its scale twice: its arrays cannot be moved apart from each other.
    scalar = [name for name in DISTRIBUTIONS if name not in (*VECTORS, "HalfNormal")]
    d = draw(
        st.one_of(
            distributions(scalar),
            distributions(VECTORS, batch_shapes=[()]),
        )
    )
    return d, draw(estimators(d))


@pytest.mark.long
@few
@given(distributions_with_estimators())
def test_random_distributions(pair):
    d, estimator = pair
    leaves, structure = flatten(d)

    def f(leaves):
        x = ppgen.draw(structure.build(leaves), grad=estimator)
        # Bounded, so that heavy tails leave a variance.
        return jnp.sum(jnp.sin(x) + 0.5 * jnp.tanh(x - 0.3))

    check(f, leaves, order=1, exact=exact(f), samples=10_000)
