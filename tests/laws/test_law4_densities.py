"""Law 4: densities integrate to one, and are those of what was simulated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from law_programs import PROGRAMS
from numpyro.contrib.control_flow import cond, scan

import ppgen
from ppgen._staging import sites as _sites
from ppgen.testing import exact


@pytest.mark.parametrize("name", PROGRAMS)
def test_simulated_density_is_the_density(name):
    program = PROGRAMS[name]

    def both(shift):
        trace = ppgen.simulate(program)(shift)
        return trace.log_density, ppgen.log_density(program)(trace, shift)

    one, other = jax.jit(jax.vmap(ppgen.seed(both)))(
        jax.random.split(jax.random.key(0), 20), jnp.linspace(-0.5, 1.0, 20)
    )
    np.testing.assert_array_equal(one, other)
    assert np.std(one) > 0.1


def chain(t):
    x = numpyro.sample("x", dist.Normal(t, 1.0 + t**2))
    numpyro.sample("b", dist.Bernoulli(logits=x - t))


def plated(t):
    with numpyro.plate("N", 2):
        k = numpyro.sample("k", dist.Categorical(logits=jnp.array([0.0, 1.0, t])))
        numpyro.sample("b", dist.Bernoulli(logits=t * k))


def markov(t):
    def step(b, _):
        return numpyro.sample("b", dist.Bernoulli(logits=t + b)) * 1.0, None

    scan(step, 0.0, jnp.arange(3))


def branching(t):
    b = numpyro.sample("b", dist.Bernoulli(logits=t))
    cond(
        b == 1,
        lambda t: numpyro.sample("z", dist.Normal(t, 1.0)),
        lambda t: numpyro.sample("z", dist.Normal(-t, 1.5)),
        t,
    )


def vector(t):
    x = numpyro.sample("x", dist.Dirichlet(jnp.array([2.0 + t, 1.5])))
    numpyro.sample("n", dist.Binomial(2, x[0]))


def check_normalised(program):
    """`E_q[p / q] = 1`, with `q` the same program with another argument."""

    def ratio(t, s):
        trace = ppgen.simulate(program)(s)
        return jnp.exp(ppgen.log_density(program)(trace, t) - trace.log_density)

    np.testing.assert_allclose(exact(ratio)(jnp.array(0.4), jnp.array(0.1)), 1.0, 1e-5)


@pytest.mark.parametrize("program", [chain, plated, markov, branching, vector])
def test_densities_are_normalised(program):
    check_normalised(program)


def test_power(monkeypatch):
    right = _sites.log_prob
    monkeypatch.setattr(_sites, "log_prob", lambda d, x: 1.1 * right(d, x))
    with pytest.raises(AssertionError, match="Not equal"):
        check_normalised(chain)
