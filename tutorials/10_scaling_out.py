# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Scaling out
#
# An objective that fits on a laptop is fitted on many devices by one argument, survives being
# killed, and gives the same numbers. This tutorial shows all three on a machine without
# accelerators: JAX makes eight devices of one processor, if it is told so before it starts. So what
# is run on them runs in processes of its own, which is what a cluster does too.
#
# The model is a linear regression, because everything about it is known: the evidence, and the best
# bound that a guide of independent normals can reach.

# %%
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

PROGRAM = """
import json, os, signal, sys
import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist, optax
import ppgen
from ppgen.inference import Checkpoints, fit

options = json.loads(sys.argv[1])
N, D = 512, 6
features = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
features[:, 1] += features[:, 0]
targets = features @ np.linspace(-1, 1, D, dtype=np.float32)
targets += np.random.default_rng(1).normal(size=N).astype(np.float32)

def model(params, x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
    with numpyro.handlers.scale(scale=N / len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)

def guide(params, x, y):
    numpyro.sample("w", dist.Normal(params["loc"], jnp.exp(params["log_scale"])).to_event(1))

def bound(params, batch):
    trace = ppgen.simulate(guide)(params, *batch)
    return ppgen.log_density(model)(trace, params, *batch) - trace.log_density

def die(progress):
    if progress.step >= options["kill"]:
        os.kill(os.getpid(), signal.SIGKILL)

mesh = jax.make_mesh((jax.device_count(),), ("data",)) if options["mesh"] else None
fitted = fit(
    bound,
    {"loc": jnp.zeros(D), "log_scale": jnp.full(D, -2.0)},
    optax.adam(optax.cosine_decay_schedule(0.05, 600)),
    key=jax.random.key(options["seed"]),
    steps=600,
    data=(features, targets),
    batch_size=128,
    draws=4,
    maximize=True,
    mesh=mesh,
    chunk=50,
    callback=die if options["kill"] else None,
    checkpoints=Checkpoints(options["folder"], every=100) if options["folder"] else None,
)
out = {name: np.asarray(x).tolist() for name, x in fitted.params.items()}
out |= {"history": np.asarray(fitted.history).tolist(), "devices": jax.device_count()}
final = ppgen.expectation(bound, draws=4000)(jax.random.key(7), fitted.params, (features, targets))
print(json.dumps(out | {"bound": float(final)}))
"""


def run(*, devices=1, mesh=False, kill=0, folder=None, seed=0):
    """The program in a process of its own: its exit status, and what it prints."""
    options = {"mesh": mesh, "kill": kill, "folder": folder and str(folder), "seed": seed}
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(options)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(done.stderr)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else None


# %% [markdown]
# ## One argument
#
# `fit(..., mesh=jax.make_mesh((8,), ("data",)))` divides the rows of each batch over eight devices.
# All devices run one program, so the results equal those of one device up to the order of sums. On
# a cluster every process calls `jax.distributed.initialize` and then the same `fit`; from the
# command line that is `--coordinator`, `--num-processes` and `--process-id`.

# %%
_, alone = run()
_, shared = run(devices=8, mesh=True)
_, other = run(seed=1)
assert (alone["devices"], shared["devices"]) == (1, 8)


def apart(a, b, *names):
    return max(float(np.abs(np.subtract(a[name], b[name])).max()) for name in names)


# %% [markdown]
# ## Killed, and resumed
#
# `checkpoints=Checkpoints(folder, every=100)` saves while steps go on, and a `fit` that finds
# checkpoints in its folder resumes from the last undamaged one. Here the process is killed after
# 350 steps, by SIGKILL, so that it cannot clean up. The same call again ends with the same *bits*
# as a run without interruption.

# %%
with tempfile.TemporaryDirectory() as folder:
    status, nothing = run(kill=350, folder=Path(folder) / "checkpoints")
    assert status == -signal.SIGKILL and nothing is None
    saved = sorted(p.name for p in (Path(folder) / "checkpoints").iterdir() if p.name.isdigit())
    print("killed; checkpoints of steps", ", ".join(saved))
    _, resumed = run(folder=Path(folder) / "checkpoints")

# %% [markdown]
# ## The exact answer
#
# The evidence is that of a normal. The best bound of independent normals has their means right, and
# lies below the evidence by half the difference of the log determinants of the diagonal of the
# posterior precision and of the precision itself.

# %%
features = np.random.default_rng(0).normal(size=(512, 6)).astype(np.float32)
features[:, 1] += features[:, 0]
targets = features @ np.linspace(-1, 1, 6, dtype=np.float32)
targets += np.random.default_rng(1).normal(size=512).astype(np.float32)
X, Y = features.astype(np.float64), targets.astype(np.float64)
precision = X.T @ X + np.eye(6)
posterior_mean = np.linalg.solve(precision, X.T @ Y)
log_det = np.linalg.slogdet(precision)[1]
log_evidence = -0.5 * (Y @ Y - posterior_mean @ precision @ posterior_mean)
log_evidence -= 0.5 * (log_det + 512 * np.log(2 * np.pi))
best = log_evidence - 0.5 * (np.log(np.diag(precision)).sum() - log_det)

others = {
    "eight devices": shared,
    "killed and resumed": resumed,
    "control: another seed": other,
}
rows = {
    name: (apart(alone, b, "loc", "log_scale"), apart(alone, b, "history"))
    for name, b in others.items()
}
print(f"largest difference from one device: {'parameter':>12s}{'bound':>10s}")
for name, (in_params, in_history) in rows.items():
    print(f"  {name:34s}{in_params:12.1e}{in_history:10.1e}")
off = np.abs(np.subtract(alone["loc"], posterior_mean)) * np.sqrt(np.diag(precision))
print(f"log evidence {log_evidence:.3f}, best bound {best:.3f}, reached {alone['bound']:.3f}")
print(f"posterior means are met within {off.max():.2f} posterior standard deviations")
assert rows["killed and resumed"] == (0.0, 0.0)
# Sums in another order: not the same bits, so something was divided; and nothing else.
assert 0 < rows["eight devices"][1] < 0.02 < rows["control: another seed"][1]
assert rows["eight devices"][0] < 1e-3 < rows["control: another seed"][0]
assert abs(alone["bound"] - best) < 0.1 and off.max() < 0.2

# %%
figure, axis = plt.subplots(figsize=(7, 3.4))
axis.plot(alone["history"], lw=0.8, label="one device")
axis.plot(shared["history"], ":", lw=1.4, label="eight devices")
axis.axvline(350, color="black", lw=0.8, label="killed here, and resumed")
axis.axhline(best, color="tab:green", lw=1, label="best bound, exact")
axis.set(xlabel="step", ylabel="bound, nats", ylim=(best - 60, best + 15))
axis.legend(fontsize=8)
figure.tight_layout()
plt.show()

# %% [markdown]
# The other axis to scale along is `draws=K`, the mean of K vectorised draws of the objective: over
# a mesh with a second axis they are divided along it. The variance of a gradient falls like $1/K$
# ([choosing estimators](02_choosing_estimators)).

# %% [markdown]
# ## The command line
#
# The same for a model with a command: `ppgen fit vae --devices 4`, then `ppgen resume RUN` after
# whatever happened to it. `python benchmarks/faults.py` kills fifty fits of all kinds and looks at
# the bits; `benchmarks/fit.py` counts what is sent between devices: one sum of the gradient and the
# objective in each step, and nothing else.
