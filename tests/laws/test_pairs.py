"""Law 1 for every distribution with every estimator that takes it, as a table in the docs.

`PPGEN_WRITE_DOCS=1 pytest tests/laws/test_pairs.py` writes the table; otherwise it has to be current.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from law_helpers import taylor

import ppgen
from ppgen._distributions import flatten
from ppgen.testing import DISTRIBUTIONS, ESTIMATORS, assert_unbiased, exact, sound_estimators

TABLE = Path(__file__).parents[2] / "docs" / "pairs.md"
VALUES = {
    "real": 0.3,
    "positive": 1.2,
    "large": 2.5,
    "unit": 0.4,
    "simplex": [0.2, 0.5, 0.3],
    "logits": [0.3, -0.2, 0.1],
    "positives": [1.2, 0.8],
    "reals": [0.3, -0.4],
}


def example(name):
    make, parameters = DISTRIBUTIONS[name]
    return make(**{p: jnp.array(VALUES[kind]) for p, kind in parameters.items()})


def cost(x):
    # Bounded, so that heavy tails leave a variance; of no symmetry.
    return jnp.sum(jnp.sin(x) + 0.5 * jnp.tanh(x - 0.3))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_estimator_that_takes_it_is_unbiased(name):
    d = example(name)
    leaves, structure = flatten(d)
    flat, rebuild = ravel_pytree([jnp.asarray(x, float) for x in leaves])

    def objective(estimator):
        def f(flat):
            return cost(ppgen.draw(structure.build(rebuild(flat)), grad=estimator))

        return f

    expected = taylor(exact(objective(None)), (np.asarray(flat),), 1)
    for estimator in sound_estimators(d).values():
        assert_unbiased(
            objective(estimator), flat, order=1, exact=expected, samples=15_000, detect=1.0
        )


def table():
    heads = ["distribution", *ESTIMATORS]
    lines = [
        "# Distributions and estimators",
        "",
        "Every pair marked ✓ is tested: the mean of many gradient estimates agrees with the exact",
        "gradient of an expectation, by all the distribution's parameters, within the standard error.",
        "The others are refused with the reason. `tests/laws/test_pairs.py` writes this table.",
        "",
        "| " + " | ".join(heads) + " |",
        "| " + " | ".join(["---"] * len(heads)) + " |",
    ]
    for name in sorted(DISTRIBUTIONS):
        sound = sound_estimators(example(name))
        cells = ["✓" if estimator in sound else "" for estimator in ESTIMATORS]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def test_the_table_in_the_docs_is_current():
    if os.environ.get("PPGEN_WRITE_DOCS"):
        TABLE.write_text(table())
    assert TABLE.read_text() == table()
