"""Variance times time of a gradient: ppgen's estimators, NumPyro's, and plain REINFORCE.

Five objectives. For each, every contender estimates the gradient of the same expectation by the
same parameters. What counts is the variance of the gradient, summed over its entries, times the
time that one gradient takes: the time that a given accuracy takes, up to a constant.

    pip install funsor                       # for NumPyro's TraceEnum_ELBO
    python benchmarks/variance.py            # prints, and writes benchmarks/variance.md
    python benchmarks/variance.py --samples 200 --repetitions 5 --out /dev/null

Plain REINFORCE is the estimator of GenJAX's `vi` without baselines: the whole cost times the score
of all choices, written out here in a few lines. Rows say what was refused by whom, and why.
"""

from __future__ import annotations

import argparse
import datetime
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
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import TraceEnum_ELBO, TraceGraph_ELBO
from sklearn.datasets import load_digits

import ppgen
from ppgen.inference import elbo


class Task(NamedTuple):
    """An evidence bound; `by_hand` is its exact gradient, where that takes a few lines."""

    name: str
    model: Callable
    guide: Callable
    params: Any
    candidates: dict[str, tuple[Any, int]]
    by_hand: Callable | None = None


# --- the objectives -------------------------------------------------------------------------------


def toy() -> Task:
    """E[(b - 0.499)^2] of one flip, as a bound whose model is the guide times a factor."""

    def guide(p):
        return numpyro.sample("b", dist.Bernoulli(probs=p))

    def model(p):
        b = numpyro.sample("b", dist.Bernoulli(probs=p))
        numpyro.factor("cost", (b - 0.499) ** 2)

    candidates = {
        "auto": ("auto", 1),
        "MeasureValued": (ppgen.MeasureValued(), 1),
        "DisARM": (ppgen.DisARM(), 1),
        "ScoreFunction, 2 draws": (ppgen.ScoreFunction(), 2),
        "ScoreFunction": (ppgen.ScoreFunction(), 1),
    }
    by_hand = jax.grad(lambda p: p * 0.501**2 + (1 - p) * 0.499**2)
    return Task("toy", model, guide, jnp.asarray(0.3), candidates, lambda key, p: by_hand(p))


def mixture(n: int = 200, k: int = 10) -> Task:
    """A Gaussian mixture: a 10-way label for each of 200 points, with logits of its own."""
    keys = jax.random.split(jax.random.key(1), 3)
    y = 3.0 * jax.random.normal(keys[0], (n,))
    params = {
        "means": jnp.linspace(-4.0, 4.0, k),
        "logits": 0.3 * jax.random.normal(keys[1], (n, k)),
    }

    def model(p):
        with numpyro.plate("points", n):
            z = numpyro.sample("z", dist.Categorical(logits=jnp.zeros(k)))
            numpyro.sample("y", dist.Normal(p["means"][z], 1.0), obs=y)

    def guide(p):
        with numpyro.plate("points", n):
            numpyro.sample("z", dist.Categorical(logits=p["logits"]))

    def bound(p):
        log_q = jax.nn.log_softmax(p["logits"])
        log_y = -0.5 * (y[:, None] - p["means"]) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.sum(jnp.exp(log_q) * (log_y - jnp.log(k) - log_q))

    candidates = {
        "auto": ("auto", 1),
        "MeasureValued": (ppgen.MeasureValued(), 1),
        "UnorderedSet, 4 of 10": (ppgen.UnorderedSet(4), 1),
        "ScoreFunction, 4 draws": (ppgen.ScoreFunction(), 4),
        "ScoreFunction": (ppgen.ScoreFunction(), 1),
    }
    return Task(
        "mixture, N = 200", model, guide, params, candidates, lambda key, p: jax.grad(bound)(p)
    )


def belief_network(batch: int = 32, units: int = 64) -> Task:
    """A sigmoid belief network with two layers of 64 flips, on binarised digits."""
    x = jnp.asarray(load_digits().data[:batch] > 7, jnp.float32)
    keys = jax.random.split(jax.random.key(2), 4)
    params = {
        name: 0.2 * jax.random.normal(key, (units, units))
        for name, key in zip(("top", "x", "z1", "z2"), keys, strict=True)
    }

    def model(p):
        with numpyro.plate("images", batch):
            prior = dist.Bernoulli(logits=jnp.zeros((batch, units))).to_event(1)
            z2 = numpyro.sample("z2", prior)
            z1 = numpyro.sample("z1", dist.Bernoulli(logits=z2 @ p["top"]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=z1 @ p["x"]).to_event(1), obs=x)

    def guide(p):
        with numpyro.plate("images", batch):
            z1 = numpyro.sample("z1", dist.Bernoulli(logits=(x - 0.4) @ p["z1"]).to_event(1))
            numpyro.sample("z2", dist.Bernoulli(logits=(z1 - 0.5) @ p["z2"]).to_event(1))

    candidates = {
        "auto": ("auto", 1),
        "auto, 16 draws": ("auto", 16),
        "ScoreFunction, 4 draws": (ppgen.ScoreFunction(), 4),
        "ScoreFunction, 16 draws": (ppgen.ScoreFunction(), 16),
        "ARM": (ppgen.ARM(), 1),
        "MeasureValued, pruned": (ppgen.MeasureValued(prune=True), 1),
        "ScoreFunction": (ppgen.ScoreFunction(), 1),
    }
    return Task("sigmoid belief network, 2 x 64", model, guide, params, candidates)


def chain(n: int = 50) -> Task:
    """A chain of 50 sites, in turn flips, normals and 3-way choices; a mean-field guide."""
    kinds = ["flip", "normal", "choice"]
    params = {
        "loc": jnp.linspace(-1.0, 1.0, n),
        "logits": jnp.zeros((n, 3)) + jnp.linspace(-0.5, 0.5, 3),
    }

    def site(i, loc, logits):
        kind = kinds[i % 3]
        if kind == "flip":
            return dist.Bernoulli(logits=loc)
        if kind == "normal":
            return dist.Normal(loc, 1.0)
        return dist.Categorical(logits=logits)

    def model(p):
        x = 0.0
        for i in range(n):
            logits = jnp.stack([0.0 * x, 0.5 * x, -0.3 * x])
            x = numpyro.sample(f"x{i}", site(i, 0.8 * x - 0.2, logits)) * 1.0
        numpyro.sample("y", dist.Normal(x, 1.0), obs=1.0)

    def guide(p):
        for i in range(n):
            numpyro.sample(f"x{i}", site(i, p["loc"][i], p["logits"][i]))

    candidates = {
        "auto": ("auto", 1),
        "pathwise and measure-valued": (
            {"x*": ppgen.MeasureValued(), **{f"x{i}": None for i in range(1, n, 3)}},
            1,
        ),
        "pathwise and score function, 4 draws": (None, 4),
        "pathwise and score function": (None, 1),
    }
    return Task("chain of 50 mixed sites", model, guide, params, candidates)


def hidden_markov(length: int = 50, states: int = 4) -> Task:
    """A hidden Markov model with 4 states and 50 steps; a Markov guide."""
    y = jax.random.normal(jax.random.key(3), (length,))
    params = {
        "transition": jnp.eye(states),
        "guide": jnp.eye(states) * 0.5,
        "slope": jnp.linspace(-1.0, 1.0, states),
    }

    def model(p):
        def step(z, y):
            z = numpyro.sample("z", dist.Categorical(logits=p["transition"][z]))
            numpyro.sample("y", dist.Normal(z - 1.5, 1.0), obs=y)
            return z, None

        scan(step, 0, y)

    def guide(p):
        def step(z, y):
            logits = p["guide"][z] + p["slope"] * y
            return numpyro.sample("z", dist.Categorical(logits=logits)), None

        scan(step, 0, y)

    def bound(p):
        log_p = jax.nn.log_softmax(p["transition"])

        def step(alpha, y):
            log_q = jax.nn.log_softmax(p["guide"] + p["slope"] * y)
            log_y = -0.5 * (y - jnp.arange(states) + 1.5) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
            pairs = alpha[:, None] * jnp.exp(log_q)
            return pairs.sum(0), jnp.sum(pairs * (log_p + log_y - log_q))

        return jnp.sum(jax.lax.scan(step, jnp.eye(states)[0], y)[1])

    candidates = {
        "auto": ("auto", 1),
        "MeasureValued": (ppgen.MeasureValued(), 1),
        "MeasureValued, pruned": (ppgen.MeasureValued(prune=True), 1),
        "ScoreFunction, 4 draws": (ppgen.ScoreFunction(), 4),
        "ScoreFunction": (ppgen.ScoreFunction(), 1),
    }
    return Task(
        "hidden Markov model, T = 50", model, guide, params, candidates,
        lambda key, p: jax.grad(bound)(p),
    )  # fmt: skip


TASKS = {f.__name__: f for f in (toy, mixture, belief_network, chain, hidden_markov)}


# --- contenders -----------------------------------------------------------------------------------


def ours(task: Task, choice: Any, draws: int) -> Callable:
    f = elbo(task.model, task.guide)
    if isinstance(choice, dict):
        choice = dict(reversed([(k, v or ppgen.Reparameterize()) for k, v in choice.items()]))
    elif choice not in (None, "auto"):
        choice = {"*": choice}
    if choice is not None:
        f = ppgen.with_estimators(f, choice)
    return jax.grad(ppgen.expectation(f, draws=draws), 1)


def numpyros(task: Task, bound: Any, guide: Callable) -> Callable:
    def loss(p, key):
        return -bound.loss(key, {}, task.model, guide, p)

    return lambda key, p: jax.grad(loss)(p, key)


def enumerated(guide: Callable) -> Callable:
    """The guide with NumPyro's mark for enumeration at every discrete site."""

    def mark(site):
        finite = getattr(site["fn"], "has_enumerate_support", False)
        return {"enumerate": "parallel"} if finite else {}

    return handlers.infer_config(guide, mark)


def reinforce(task: Task) -> Callable:
    """The whole cost times the score of every choice that has no pathwise derivative."""

    def surrogate(p, key):
        trace = handlers.trace(handlers.seed(task.guide, key)).get_trace(p)
        sites = {k: s for k, s in trace.items() if s["type"] == "sample"}
        values = {k: s["value"] for k, s in sites.items()}
        frozen = {
            k: v if jnp.issubdtype(v.dtype, jnp.floating) else jax.lax.stop_gradient(v)
            for k, v in values.items()
        }
        log_q = sum(jnp.sum(s["fn"].log_prob(frozen[k])) for k, s in sites.items())
        score = sum(
            (
                jnp.sum(s["fn"].log_prob(frozen[k]))
                for k, s in sites.items()
                if not jnp.issubdtype(s["value"].dtype, jnp.floating)
            ),
            jnp.zeros(()),
        )
        model = handlers.substitute(handlers.seed(task.model, key), data=frozen)
        joint = handlers.trace(model).get_trace(p)
        log_p = sum(
            jnp.sum(s["fn"].log_prob(s["value"])) for s in joint.values() if s["type"] == "sample"
        )
        cost = log_p - log_q
        return cost + jax.lax.stop_gradient(cost) * (score - jax.lax.stop_gradient(score))

    return lambda key, p: jax.grad(surrogate)(p, key)


def contenders(task: Task) -> dict[str, Callable]:
    found = {f"ppgen, {k}": ours(task, *v) for k, v in task.candidates.items()}
    found["NumPyro, TraceGraph_ELBO"] = numpyros(task, TraceGraph_ELBO(), task.guide)
    found["NumPyro, TraceEnum_ELBO"] = numpyros(task, TraceEnum_ELBO(), enumerated(task.guide))
    found["plain REINFORCE"] = reinforce(task)
    if task.by_hand is not None:
        found["exact, by hand"] = task.by_hand
    return found


# --- measuring ------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What was measured of one contender."""

    mean: np.ndarray
    variance: float
    error: float
    seconds: float
    refused: str = ""


def measure(task: Task, options: Any) -> dict[str, Result]:
    key = jax.random.key(options.seed)
    params = task.params
    compiled, spreads, refused = {}, {}, {}
    for name, gradient in contenders(task).items():
        try:
            compiled[name] = jax.jit(gradient)
            jax.block_until_ready(compiled[name](key, params))
            spreads[name] = spread(gradient, key, params, options.samples)
        except Exception as error:
            # Which of many libraries' errors it is does not matter: the row says it.
            compiled.pop(name, None)
            why = " ".join(str(error).split())
            refused[name] = f"{type(error).__name__}: {why[:90]}"
    times: dict[str, list[float]] = {name: [] for name in compiled}
    order = np.random.default_rng(options.seed)
    for _ in range(options.repetitions):
        for name in order.permutation(list(compiled)):
            start = time.perf_counter()
            # Short ones several times in a row, so that the clock can tell them apart.
            for _ in range(options.inner):
                jax.block_until_ready(compiled[name](key, params))
            times[name].append((time.perf_counter() - start) / options.inner)
    results = {name: Result(*spreads[name], statistics.median(times[name])) for name in compiled}
    nan = float("nan")
    return results | {n: Result(np.zeros(0), nan, nan, nan, why) for n, why in refused.items()}


def spread(gradient: Callable, key: jax.Array, params: Any, samples: int):
    def flat(key):
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(gradient(key, params))])

    keys = jax.random.split(key, samples)
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(flat, keys, batch_size=20))(keys))
    found = found.astype(np.float64)
    shifted = found - found[0]
    squares = np.sum((shifted - shifted.mean(0)) ** 2, axis=1)
    # What differs by rounding only has no variance.
    total = squares.sum() / (samples - 1)
    exact = total < 1e-10 * np.sum(found.mean(0) ** 2)
    return found.mean(0), 0.0 if exact else total, squares.std() / samples**0.5


def table(task: Task, results: dict[str, Result]) -> str:
    accepted = {n: r for n, r in results.items() if not r.refused}
    ranked = {n: r for n, r in accepted.items() if n != "exact, by hand"}
    best = min(r.variance * r.seconds for r in ranked.values())
    reference = next(iter(ranked.values())).mean
    lines = [
        f"## {task.name}",
        "",
        "| contender | gradient variance | time | variance × time | to the best | mean − first |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    order = sorted(results, key=lambda n: (bool(results[n].refused), rank(results[n])))
    for name in order:
        r = results[name]
        if r.refused:
            lines.append(f"| {name} | refused: {r.refused} | | | | |")
            continue
        product = r.variance * r.seconds
        ratio = product / best if best > 0 else (1.0 if product == 0 else float("inf"))
        gap = np.sqrt(np.sum((r.mean - reference) ** 2))
        lines.append(
            f"| {name} | {r.variance:.3g} ± {r.error:.1g} | {1e3 * r.seconds:.3g} ms "
            f"| {product:.3g} | {ratio:.3g} | {gap:.2g} |"
        )
    if "exact, by hand" in accepted:
        hand = accepted["exact, by hand"].seconds
        ratio = accepted["ppgen, auto"].seconds / hand
        lines += ["", f"Time of `auto` to that of the exact gradient by hand: {ratio:.3f}."]
    return "\n".join(lines)


def rank(r: Result) -> tuple[float, float]:
    return (r.variance * r.seconds, r.seconds)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=51)
    parser.add_argument("--inner", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    sections = []
    for name in options.tasks:
        task = TASKS[name]()
        sections.append(table(task, measure(task, options)))
        print(sections[-1] + "\n", flush=True)
    options.out.write_text(report(sections, options))


def report(sections: list[str], options: Any) -> str:
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (ppgen, jax, numpyro))
    command = " ".join(["python benchmarks/variance.py", *sys.argv[1:]])
    head = f"""# Variance times time

{datetime.date.today()}; {platform.machine()}, {os.cpu_count()} cores, {platform.system()}; \
{jax.default_backend()} (load {os.getloadavg()[0]:.1f} at the end); Python \
{platform.python_version()}, {versions}; seed {options.seed}. Command: `{command}`.

Variances from {options.samples} gradients, summed over the entries, ± a standard error; zero
where gradients differ by rounding only. Times are medians of {options.repetitions}, contenders
interleaved in random order. "Mean − first" is the distance of the mean gradient from that of
`ppgen, auto`: with a variance v it is about the root of v / {options.samples}, if unbiased.
"""
    return "\n".join([head, *(s + "\n" for s in sections)])


if __name__ == "__main__":
    main(sys.argv[1:])
