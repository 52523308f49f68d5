"""What exact enumeration costs: ppgen against the sum over labels written by hand, and NumPyro.

A Gaussian mixture with a 10-way label for each of 200 points, whose logits the guide has. Value and
gradient of the bound; "step" adds an Adam update.

    python benchmarks/gmm.py                     # prints, and writes benchmarks/gmm.md
    python benchmarks/gmm.py --repetitions 11 --out /dev/null

NumPyro's `TraceEnum_ELBO` sums over the labels too (it needs `funsor`, and is left out without);
its `TraceGraph_ELBO` samples them, so that its gradient is a noisy one.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax.scipy.stats import norm
from numpyro.infer import TraceEnum_ELBO, TraceGraph_ELBO
from overhead import Result, Task, gradients, measure, origin

import ppgen
from ppgen.inference import elbo

EXACT = ("hand", "ppgen", "TraceEnum_ELBO")


def mixture(points: int, classes: int, seed: int) -> tuple[dict[str, Callable], dict, jax.Array]:
    """Bounds of `(key, params, data)`, parameters and data."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = 3.0 * jax.random.normal(keys[0], (points,))
    params = {
        "means": jnp.linspace(-4.0, 4.0, classes),
        "prior": 0.3 * jax.random.normal(keys[1], (classes,)),
        "logits": 0.3 * jax.random.normal(keys[2], (points, classes)),
    }

    def model(p: dict, x: jax.Array) -> None:
        with numpyro.plate("points", points):
            z = numpyro.sample("z", dist.Categorical(logits=p["prior"]))
            numpyro.sample("x", dist.Normal(p["means"][z], 1.0), obs=x)

    def guide(p: dict, x: jax.Array) -> None:
        infer = {"grad": ppgen.Enumerate(), "enumerate": "parallel"}
        with numpyro.plate("points", points):
            numpyro.sample("z", dist.Categorical(logits=p["logits"]), infer=infer)

    def sampled(p: dict, x: jax.Array) -> None:
        with numpyro.plate("points", points):
            numpyro.sample("z", dist.Categorical(logits=p["logits"]))

    def by_hand(key: jax.Array, p: dict, x: jax.Array) -> jax.Array:
        log_q = jax.nn.log_softmax(p["logits"])
        log_p = jax.nn.log_softmax(p["prior"]) + norm.logpdf(x[:, None], p["means"])
        return jnp.sum(jnp.exp(log_q) * (log_p - log_q))

    bounds = {"hand": by_hand, "ppgen": ppgen.expectation(elbo(model, guide))}
    if importlib.util.find_spec("funsor"):
        enumerated = TraceEnum_ELBO(max_plate_nesting=1).loss
        bounds["TraceEnum_ELBO"] = lambda key, p, x: -enumerated(key, {}, model, guide, p, x)
    graph = TraceGraph_ELBO().loss
    bounds["TraceGraph_ELBO"] = lambda key, p, x: -graph(key, {}, model, sampled, p, x)
    return bounds, params, x


def steps(name: str, bounds: dict[str, Callable], p: dict, x: jax.Array) -> Task:
    """One step of training with Adam."""
    optimizer = optax.adam(1e-3)

    def training(f: Callable) -> Callable:
        def step(key, p, state, x):
            value, gradient = jax.value_and_grad(f, argnums=1)(key, p, x)
            updates, state = optimizer.update(jax.tree.map(jnp.negative, gradient), state)
            return value, (optax.apply_updates(p, updates), state)

        return jax.jit(step)

    contenders = {who: lambda f=f: training(f) for who, f in bounds.items()}
    arguments = dict.fromkeys(bounds, (p, optimizer.init(p), x))
    return Task(f"{name}, step with Adam", contenders, arguments)


def same_results(task: Task, seed: int) -> None:
    """Refuse to compare exact contenders that compute different things."""
    key = jax.random.key(seed)
    results = [
        task.contenders[who]()(key, *task.arguments[who]) for who in EXACT if who in task.contenders
    ]
    for other in results[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), results[0], other
        )


COLUMNS = ("task", "contender", "ms", "to hand, wall", "to hand, CPU", "FLOPs", "to hand", "first")
HEADER = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def rows(name: str, r: Result) -> list[str]:
    def ratio(times: dict[str, list[float]], who: str) -> tuple[float, float, float]:
        paired = [a / b for a, b in zip(times[who], times["hand"], strict=True)]
        low, middle, high = statistics.quantiles(paired, n=4)
        return low, middle, high

    lines = []
    for who in r.wall:
        low, middle, high = ratio(r.wall, who)
        cells = [
            name,
            who,
            f"{1e3 * statistics.median(r.wall[who]):.3g}",
            f"**{middle:.3f}** ({low:.2f}–{high:.2f})",
            f"{ratio(r.cpu, who)[1]:.3f}",
            f"{r.flops[who]:,.0f}",
            f"{r.flops[who] / r.flops['hand']:.2f}",
            f"{statistics.median(r.first[who]):.2f} s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def report(lines: list[str], options: Any) -> str:
    return "\n".join(
        [
            "# What exact enumeration costs",
            "",
            origin("gmm.py", options),
            "",
            f"Medians of {options.repetitions} repetitions, contenders interleaved in random "
            "order. Ratios are medians of those",
            "within a repetition, in brackets their quartiles; the floor is `hand`. FLOPs: "
            "compiled, by XLA's count. First: from",
            f"function to first result, median of {options.first_calls}, caches cleared.",
            "",
            HEADER,
            *lines,
            "",
        ]
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=201)
    parser.add_argument("--first-calls", type=int, default=3)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    options.command = arguments
    bounds, p, x = mixture(options.points, options.classes, options.seed)
    name = f"N = {options.points}, K = {options.classes}"
    lines = []
    print(HEADER)
    for task in (gradients(name, bounds, p, x), steps(name, bounds, p, x)):
        same_results(task, options.seed)
        lines += rows(task.name, measure(task, options.repetitions, options.first_calls, 0))
        print("\n".join(lines[-len(bounds) :]), flush=True)
    options.out.write_text(report(lines, options))


if __name__ == "__main__":
    main(sys.argv[1:])
