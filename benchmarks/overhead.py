"""What the language costs: ppgen against hand-written JAX and NumPyro, in one run.

The variational autoencoder of Table 1 of Becker et al. (PLDI 2024) and their cone. Every contender
has the same networks, the same parameters and noise of the same shape, and computes value and
gradient of the same bound; "step" adds an Adam update, for NumPyro through `SVI.update`.

    python benchmarks/overhead.py                     # prints, and writes benchmarks/overhead.md
    python benchmarks/overhead.py --repetitions 11 --out /dev/null

Contenders are called in turn, in a new random order in each repetition, so that whatever else the
machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax.scipy.stats import norm
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import optax_to_numpyro

import ppgen
from ppgen.inference import elbo
from ppgen.models.parts.hardware import processor

PIXELS, HIDDEN, LATENT = 784, 200, 10


# --- the autoencoder, 784-200-(10, 10) and 10-200-784 ---------------------------------------------


def init_vae(key: jax.Array, hidden: int = HIDDEN) -> dict[str, jax.Array]:
    sizes = {"e": (PIXELS, hidden), "m": (hidden, LATENT), "s": (hidden, LATENT)}
    sizes |= {"d": (LATENT, hidden), "o": (hidden, PIXELS)}
    params = {}
    for (name, (n, m)), k in zip(sizes.items(), jax.random.split(key, len(sizes)), strict=True):
        params["w" + name] = jax.random.normal(k, (n, m)) / n**0.5
        params["b" + name] = jnp.zeros(m)
    return params


def encode(p: dict, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    hidden = jax.nn.leaky_relu(x @ p["we"] + p["be"])
    return hidden @ p["wm"] + p["bm"], jnp.exp(hidden @ p["ws"] + p["bs"])


def decode(p: dict, z: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(z @ p["wd"] + p["bd"]) @ p["wo"] + p["bo"]


def vae_model(p: dict, x: jax.Array) -> None:
    with numpyro.plate("images", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decode(p, z)).to_event(1), obs=x)


def vae_guide(p: dict, x: jax.Array) -> None:
    with numpyro.plate("images", x.shape[0]):
        numpyro.sample("z", dist.Normal(*encode(p, x)).to_event(1))


def vae_by_hand(key: jax.Array, p: dict, x: jax.Array) -> jax.Array:
    mean, scale = encode(p, x)
    z = mean + scale * jax.random.normal(key, mean.shape)
    logits = decode(p, z)
    log_likelihood = jnp.sum(x * logits - jax.nn.softplus(logits))
    log_ratio = jnp.sum(norm.logpdf(z) - norm.logpdf(z, mean, scale))
    return (log_likelihood + log_ratio) / x.shape[0]


# --- the cone, with 64 draws ----------------------------------------------------------------------

DRAWS = 64


def init_cone(key: jax.Array) -> dict[str, jax.Array]:
    return {"mean": jax.random.normal(key, (2,)), "log_scale": jnp.zeros(2)}


def cone_model(p: dict, z: jax.Array) -> None:
    x = numpyro.sample("x", dist.Normal(0.0, 10.0))
    y = numpyro.sample("y", dist.Normal(0.0, 10.0))
    r = x**2 + y**2
    numpyro.sample("z", dist.Normal(r, 0.1 + r / 100), obs=z)


def cone_guide(p: dict, z: jax.Array) -> None:
    scale = jnp.exp(p["log_scale"])
    numpyro.sample("x", dist.Normal(p["mean"][0], scale[0]))
    numpyro.sample("y", dist.Normal(p["mean"][1], scale[1]))


def cone_by_hand(key: jax.Array, p: dict, z: jax.Array, draws: int = DRAWS) -> jax.Array:
    scale = jnp.exp(p["log_scale"])
    xy = p["mean"] + scale * jax.random.normal(key, (draws, 2))
    r = jnp.sum(xy**2, axis=1)
    log_ratio = norm.logpdf(xy, 0.0, 10.0) - norm.logpdf(xy, p["mean"], scale)
    return jnp.mean(jnp.sum(log_ratio, axis=1) + norm.logpdf(z, r, 0.1 + r / 100))


# --- contenders -----------------------------------------------------------------------------------


class Task(NamedTuple):
    """One quantity that all contenders compute: `contender(key, state) -> (new state, ...)`."""

    name: str
    contenders: dict[str, Callable[[], Callable]]
    arguments: dict[str, tuple]


def gradients(name: str, bounds: dict[str, Callable], p: dict, *data: jax.Array) -> Task:
    """Value and gradient of a bound; `bounds` are of `(key, params, *data)`."""
    contenders = {
        who: lambda f=f: jax.jit(lambda key, p, *d: jax.value_and_grad(f, argnums=1)(key, p, *d))
        for who, f in bounds.items()
    }
    return Task(f"{name}, gradient", contenders, dict.fromkeys(bounds, (p, *data)))


def steps(name: str, bounds: dict[str, Callable], svi: SVI, p: dict, *data: jax.Array) -> Task:
    """One step of training with Adam."""
    optimizer = optax.adam(1e-3)

    def training(f: Callable) -> Callable:
        def step(key, p, state, *data):
            value, gradient = jax.value_and_grad(f, argnums=1)(key, p, *data)
            updates, state = optimizer.update(jax.tree.map(jnp.negative, gradient), state)
            return value, (optax.apply_updates(p, updates), state)

        return jax.jit(step)

    contenders: dict[str, Callable[[], Callable]] = {
        who: lambda f=f: training(f) for who, f in bounds.items() if who != "NumPyro"
    }
    arguments: dict[str, tuple] = dict.fromkeys(contenders, (p, optimizer.init(p), *data))
    contenders["NumPyro"] = lambda: jax.jit(lambda _, state, *data: svi.update(state, *data))
    arguments["NumPyro"] = (svi.init(jax.random.key(0), *data), *data)
    return Task(f"{name}, step with Adam", contenders, arguments)


def vae_tasks(batch: int, seed: int) -> list[Task]:
    p = init_vae(jax.random.key(seed))
    x = jax.random.bernoulli(jax.random.key(seed + 1), 0.5, (batch, PIXELS)).astype(jnp.float32)
    bound = ppgen.expectation(elbo(vae_model, vae_guide))
    loss = Trace_ELBO().loss
    bounds = {
        "hand": vae_by_hand,
        "ppgen": lambda key, p, x: bound(key, p, x) / batch,
        "NumPyro": lambda key, p, x: -loss(key, {}, vae_model, vae_guide, p, x) / batch,
    }
    # NumPyro's way to train: parameters are `numpyro.param`s, and SVI has them.
    svi = SVI(
        lambda x: vae_model(numpyro_params(p), x),
        lambda x: vae_guide(numpyro_params(p), x),
        optax_to_numpyro(optax.adam(1e-3)),
        Trace_ELBO(),
    )
    name = f"VAE, B = {batch}"
    return [gradients(name, bounds, p, x), steps(name, bounds, svi, p, x)]


def numpyro_params(p: dict) -> dict:
    return {name: numpyro.param(name, value) for name, value in p.items()}


def cone_tasks(seed: int) -> list[Task]:
    loss = Trace_ELBO(num_particles=DRAWS).loss
    bounds = {
        "hand": cone_by_hand,
        "ppgen": ppgen.expectation(elbo(cone_model, cone_guide), draws=DRAWS),
        "NumPyro": lambda key, p, z: -loss(key, {}, cone_model, cone_guide, p, z),
    }
    p = init_cone(jax.random.key(seed))
    return [gradients(f"cone, {DRAWS} draws", bounds, p, jnp.asarray(5.0))]


# --- measurement ----------------------------------------------------------------------------------


class Result(NamedTuple):
    """What was measured of each contender.

    Attributes:
        wall: seconds of each repetition.
        cpu: CPU seconds of each repetition.
        flops: compiled floating-point operations, by XLA's count.
        first: seconds of first calls.
        memory: bytes of temporary buffers, as compiled.
    """

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]
    flops: dict[str, float]
    first: dict[str, list[float]]
    memory: dict[str, int]


def measure(task: Task, repetitions: int, first_calls: int, seed: int) -> Result:
    order = np.random.default_rng(seed)
    names = list(task.contenders)
    first: dict[str, list[float]] = {who: [] for who in names}
    key = jax.random.key(seed)
    functions = {}
    for _ in range(first_calls):
        for who in order.permutation(names):
            jax.clear_caches()
            gc.collect()
            start = time.perf_counter()
            functions[who] = task.contenders[who]()
            jax.block_until_ready(functions[who](key, *task.arguments[who]))
            first[who].append(time.perf_counter() - start)
    compiled = {who: functions[who].lower(key, *task.arguments[who]).compile() for who in names}
    flops = {who: c.cost_analysis()["flops"] for who, c in compiled.items()}
    memory = {who: c.memory_analysis().temp_size_in_bytes for who, c in compiled.items()}
    for who in names:  # `clear_caches` dropped all but the last
        jax.block_until_ready(functions[who](key, *task.arguments[who]))
    wall: dict[str, list[float]] = {who: [] for who in names}
    cpu: dict[str, list[float]] = {who: [] for who in names}
    # Several calls a repetition, so that one lasts well beyond the scheduler's grain.
    calls = _calls_for(functions["hand"], (key, *task.arguments["hand"]), 5e-3)
    gc.disable()
    for key in jax.random.split(jax.random.key(seed + 2), repetitions):
        for who in order.permutation(names):
            start, start_cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                jax.block_until_ready(functions[who](key, *task.arguments[who]))
            wall[who].append((time.perf_counter() - start) / calls)
            cpu[who].append((time.process_time() - start_cpu) / calls)
    gc.enable()
    return Result(wall, cpu, flops, first, memory)


def _calls_for(f: Callable, arguments: tuple, seconds: float) -> int:
    start = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(f(*arguments))
    return max(1, round(5 * seconds / (time.perf_counter() - start)))


def same_value(task: Task, seed: int) -> None:
    """Refuse to compare functions that estimate different things."""
    keys = jax.random.split(jax.random.key(seed + 3), 50)
    if "gradient" not in task.name:
        return
    means, errors = [], []
    for who in task.contenders:
        f = task.contenders[who]()
        values = np.array([f(key, *task.arguments[who])[0] for key in keys])
        means.append(values.mean())
        errors.append(values.std() / len(keys) ** 0.5)
    if np.ptp(means) > 6 * max(errors):
        raise AssertionError(f"{task.name}: the bounds differ: {means} ± {errors}")


# --- the report -----------------------------------------------------------------------------------

COLUMNS = (
    "task",
    "hand",
    "ppgen",
    "NumPyro",
    "ppgen / hand",
    "NumPyro / hand",
    "CPU",
    "FLOPs",
    "first call: hand, ppgen, NumPyro",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def row(name: str, r: Result) -> str:
    median = {who: statistics.median(times) for who, times in r.wall.items()}
    cpu = {who: statistics.median(times) for who, times in r.cpu.items()}
    paired = [a / b for a, b in zip(r.wall["ppgen"], r.wall["hand"], strict=True)]
    low, _, high = statistics.quantiles(paired, n=4)
    first = {who: statistics.median(times) for who, times in r.first.items()}
    cells = [
        name,
        *(f"{1e3 * median[who]:.3g} ms" for who in ("hand", "ppgen", "NumPyro")),
        f"**{median['ppgen'] / median['hand']:.3f}** ({low:.2f}–{high:.2f})",
        f"{median['NumPyro'] / median['hand']:.3f}",
        f"{cpu['ppgen'] / cpu['hand']:.3f}",
        f"{r.flops['ppgen'] / r.flops['hand']:.4f}",
        ", ".join(f"{first[who]:.2f} s" for who in ("hand", "ppgen", "NumPyro")),
    ]
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}; {jax.devices()[0].platform}"
    )


def origin(script: str, options: Any) -> str:
    """When, where and by which command figures were measured."""
    versions = f"ppgen {ppgen.__version__}, jax {jax.__version__}, numpyro {numpyro.__version__}"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    command = f"python benchmarks/{script} {' '.join(options.command)}".strip()
    return (
        f"{datetime.date.today()}; {machine()} (load {load} at the end); Python "
        f"{platform.python_version()}, {versions}; seed {options.seed}. Command: `{command}`."
    )


def report(rows: list[str], options: Any) -> str:
    return "\n".join(
        [
            "# What the language costs",
            "",
            origin("overhead.py", options),
            "",
            f"Medians of {options.repetitions} repetitions, contenders interleaved in random "
            "order; in brackets the",
            "quartiles of the ratio within a repetition. CPU and FLOPs (compiled, by XLA's count) "
            "are ppgen / hand.",
            f"First call: from function to first result, median of {options.first_calls}, caches "
            "cleared.",
            "",
            HEADER,
            *rows,
            "",
        ]
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=101)
    parser.add_argument("--first-calls", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 256, 1024])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    options.command = arguments
    rows = []
    print(HEADER)
    tasks = [task for batch in options.batches for task in vae_tasks(batch, options.seed)]
    for task in [*tasks, *cone_tasks(options.seed)]:
        same_value(task, options.seed)
        result = measure(task, options.repetitions, options.first_calls, options.seed)
        rows.append(row(task.name, result))
        print(rows[-1], flush=True)
    options.out.write_text(report(rows, options))


if __name__ == "__main__":
    main(sys.argv[1:])
