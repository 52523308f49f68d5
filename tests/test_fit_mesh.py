"""Over a mesh of virtual devices, the numbers are those of one. In a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

COMMON = """
import tempfile
import jax, jax.numpy as jnp, numpy as np, numpyro.distributions as dist, optax
import ppgen
from jax.sharding import PartitionSpec as P
from ppgen.inference import Checkpoints, FitError, fit

assert len(jax.devices()) == 8
rows = np.random.default_rng(0).normal(size=(53, 16)).astype(np.float32)

def loss(params, batch):
    noise = ppgen.draw(dist.Normal(jnp.ones((batch.shape[0], 8)), jnp.exp(params["s"])))
    return jnp.mean((batch @ params["w"] - noise) ** 2)

class Stream:
    def __iter__(self):
        return iter([rows[i : i + 10] for i in range(0, 50, 10)])

def run(data, **more):
    start = {"w": jnp.zeros((16, 8)), "s": jnp.zeros(8)}
    more = {"steps": 12} | more
    return fit(loss, start, optax.adam(.01), key=jax.random.key(3), data=data, batch_size=16,
               chunk=5, ema=.9, **more)

def same(a, b):
    for x, y in zip(jax.tree.leaves(a[:4]), jax.tree.leaves(b[:4]), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)

one, two = jax.make_mesh((8,), ("data",)), jax.make_mesh((4, 2), ("data", "model"))
"""

ONE_AXIS = """
same(run(rows), run(rows, mesh=one))
"""

EVERYTHING = """
specs = {"w": P(None, "model"), "s": P("model")}
for data in (rows, Stream()):
    alone = run(data)
    same(alone, run(data, mesh=one))
    shared = run(data, mesh=two, shardings=specs)
    assert shared.params["w"].sharding.spec == P(None, "model")
    same(alone, shared)

with tempfile.TemporaryDirectory() as folder:
    saved = {"checkpoints": Checkpoints(folder + "/checkpoints", every=5)}
    run(rows, steps=8, mesh=two, shardings=specs, **saved)
    by_shape = lambda path, x: P("model") if x.ndim == 1 else P()
    same(run(rows), run(rows, mesh=two, shardings=by_shape, **saved))
    same(run(rows, steps=15), run(rows, steps=15, **saved))  # on one device again

def flips(**more):
    cost = lambda p: (ppgen.draw(dist.Bernoulli(logits=p)) - .3) ** 2
    return fit(cost, 0., optax.adam(.1), key=jax.random.key(1), steps=8, draws=64, **more)

same(flips(), flips(mesh=one))

# The particles of a bound: the same one, of which each device has its part of the work.
import numpyro
from jax.sharding import AxisType, NamedSharding
from ppgen.inference import iwelbo

def model(params, x):
    z = numpyro.sample("z", dist.Normal(jnp.zeros(16), 1.).to_event(1))
    numpyro.sample("x", dist.Normal(jnp.tanh(params["w"] @ z), 1.).to_event(1), obs=x)

def guide(params, x):
    numpyro.sample("z", dist.Normal(params["v"] @ x, 1.).to_event(1))

def slope(sharding):
    bound = iwelbo(model, guide, particles=64, sharding=sharding)
    each = jax.vmap(bound, (None, 0))
    cost = ppgen.expectation(lambda params, x: jnp.mean(each(params, x)))
    values = {"w": .1 * jnp.ones((32, 16)), "v": .1 * jnp.ones((16, 32))}
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 32)), jnp.float32)
    if sharding is not None:
        values, x = jax.device_put((values, x), NamedSharding(sharding.mesh, P()))
    args = jax.random.key(0), values, x
    compiled = jax.jit(jax.grad(cost, 1)).lower(*args).compile()
    return compiled(*args), compiled.cost_analysis()["flops"]

auto = jax.make_mesh((8,), ("particles",), axis_types=(AxisType.Auto,))
(alone, all_work), (shared, part) = slope(None), slope(NamedSharding(auto, P("particles")))
for name in alone:
    np.testing.assert_allclose(alone[name], shared[name], rtol=1e-4, atol=1e-5)
assert part < all_work / 4, (part, all_work)

try:
    run(np.where(np.arange(53)[:, None] == 20, np.nan, rows), mesh=one)
except FitError as error:
    assert "data held nan" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.sweep(quick=["one axis"])
@pytest.mark.parametrize("program", [ONE_AXIS, EVERYTHING], ids=["one axis", "everything"])
def test_numbers_are_those_of_one_device(program):
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMMON + program + 'print("same")']
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout.endswith("same\n"), done.stderr
