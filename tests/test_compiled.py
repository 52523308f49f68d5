"""Compiled programs over many elements compute what they do over few."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen import ScoreFunction, _xla_flags

LANES = 20_000  # of three numbers: more than 32,768 of them
THETA = jnp.array([0.3, -0.8, 0.6])

FAMILIES = {
    "dirichlet": lambda t: dist.Dirichlet(jnp.exp(t)),
    "normal": lambda t: dist.MultivariateNormal(t, jnp.eye(3)),
    "beta": lambda t: dist.Beta(jnp.exp(t), 2.0).to_event(1),
    "gamma": lambda t: dist.Gamma(jnp.exp(t), 2.0).to_event(1),
    "counts": lambda t: dist.DirichletMultinomial(jnp.exp(t), 5),
}


@pytest.mark.sweep(quick=["dirichlet"])
@pytest.mark.parametrize("family", FAMILIES)
def test_second_derivatives_of_many_lanes(family):
    """In one piece, and in pieces of 500 lanes."""

    def f(t):
        x = ppgen.draw(FAMILIES[family](t), grad=ScoreFunction())
        return jnp.sum(jnp.cos(x) * jnp.arange(3))

    g = ppgen.expectation(f)
    hessian = jax.jit(jax.vmap(lambda key: jax.hessian(g, argnums=1)(key, THETA)))
    keys = jax.random.split(jax.random.key(0), LANES)
    pieces = np.concatenate([hessian(keys[i : i + 500]) for i in range(0, LANES, 500)])
    np.testing.assert_allclose(hessian(keys), pieces, rtol=1e-2, atol=1e-3)


SUMS = """
import jax, jax.numpy as jnp
i = jnp.arange(32_769.0)
x = jnp.stack((i, 0 * i, 0 * i), 1)
f = jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))
print(int(f(x)[-1] == jax.jit(f)(x)[-1]))
"""


def run(code, flags=""):
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def test_the_import_switches_wrong_fusions_off():
    assert run("import ppgen\n" + SUMS)[0] == "1"
    assert run("import jax, ppgen\n" + SUMS)[0] == "1"


@pytest.mark.skipif(_xla_flags._release() != _xla_flags.WRONG, reason="of one release of jaxlib")
def test_a_release_that_is_wrong_is_told_of_too_late_only():
    assert run(SUMS)[0] == "0"  # so that the tests above say something
    assert "39103" not in run("import jax, ppgen\n" + SUMS)[1]
    assert "39103" in run("import jax\njax.devices()\nimport ppgen")[1]
    chosen = f"{_xla_flags.FLAG}={_xla_flags.VALUE}"
    assert "39103" not in run("import jax\njax.devices()\nimport ppgen", chosen)[1]
