"""Law 5: where NumPyro has a density, ppgen has the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from law_programs import PROGRAMS
from numpyro.infer.util import log_density as numpyro_log_density

import ppgen
from ppgen.testing import planted


def check(name):
    program = PROGRAMS[name]

    @jax.jit
    def both(key, shift):
        trace = ppgen.seed(ppgen.simulate(program))(key, shift)
        ours = ppgen.log_density(program)(trace.choices, shift)
        return ours, numpyro_log_density(program, (shift,), {}, trace.choices)[0]

    for seed, shift in enumerate((0.0, 0.7)):
        np.testing.assert_allclose(*both(jax.random.key(seed), shift), 1e-5, 1e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_log_density(name):
    check(name)


@pytest.mark.parametrize("name", ["hierarchical", "handled", "state_space"])
def test_gradient(name):
    program = PROGRAMS[name]
    choices = ppgen.seed(ppgen.simulate(program))(jax.random.key(0), 0.3).choices

    def ours(choices, shift):
        return ppgen.log_density(program)(choices, shift)

    def theirs(choices, shift):
        return numpyro_log_density(program, (shift,), {}, choices)[0]

    got, expected = (jax.grad(f, (0, 1))(choices, 0.3) for f in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), got, expected)
    assert jnp.any(got[1] != 0)


@pytest.mark.parametrize("name", ["minibatch", "handled"])
def test_power(name):
    with planted("doubled plate scale"), pytest.raises(AssertionError, match="Not equal"):
        check(name)
