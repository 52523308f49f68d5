"""What the compiled loop of `fit` sends between devices. In a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np, numpyro.distributions as dist, optax
import ppgen
from collectives import Collective, collectives, dumped
from ppgen.inference import fit

assert len(jax.devices()) == 8
mesh = jax.make_mesh((8,), ("data",))
rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)

def loss(params, batch):
    noise = ppgen.draw(dist.Normal(jnp.ones((batch.shape[0], 5)), jnp.exp(params["s"])))
    return jnp.mean((batch @ params["w"] - noise) ** 2)

def shuffled(params, batch):
    order = jax.random.permutation(jax.random.key(0), batch.shape[0])
    return loss(params, batch * batch[order])

def drawn(family):
    def cost(params):
        return jnp.sum((ppgen.draw(family(params["s"]).to_event(1)) @ params["w"].T - .3) ** 2)

    return cost

class Stream:
    def __iter__(self):
        return iter([rows[:16], rows[16:32]])

def sent(objective, **more):
    start = {"w": jnp.zeros((3, 5)), "s": jnp.zeros(5)}
    fit(objective, start, optax.adam(.01), key=jax.random.key(3), steps=2, chunk=2, mesh=mesh,
        **more)
    return collectives(dumped(sys.argv[1])[-1])

once = Collective("all-reduce", (1, 5, 15), 4 * (1 + 5 + 15))  # objective, gradients
normals = drawn(lambda s: dist.Normal(s, 1.))
for found in (
    sent(loss, data=rows, batch_size=16),
    sent(loss, data=Stream()),
    sent(normals, draws=16),
):
    assert found == [once], found

# A score function's default baseline is a mean over the other draws: a number more, and before.
found = sent(drawn(lambda s: dist.Bernoulli(logits=s)), draws=16)
assert [c.kind for c in found] == ["all-reduce"] * 2, found
assert sum(c.bytes for c in found) == once.bytes + 4, found

# Rows that change their device are found.
found = sent(shuffled, data=rows, batch_size=16)
others = [c for c in found if c != once]
assert once in found and sum(c.bytes for c in others) >= 4 * 3 * 2, found
print("as expected")
"""


def test_one_all_reduce_of_gradient_and_objective(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from collectives import dump_flags

    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    environment = os.environ | {
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is cached is not dumped
        "XLA_FLAGS": flags + dump_flags(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
    }
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout.endswith("as expected\n"), done.stderr
