"""Variance times time of a gradient: ppgen's estimators, NumPyro's, and plain REINFORCE.

Five objectives. For each, every contender estimates the gradient of the same expectation by the
same parameters. What counts is the variance of the gradient, summed over its entries, times the
time that one gradient takes: the time that a given accuracy takes, up to a constant.

    pip install funsor                       # for NumPyro's TraceEnum_ELBO
    python benchmarks/variance.py            # prints, and writes benchmarks/variance.md
    python benchmarks/variance.py --effort 0.1 --repetitions 5 --out /dev/null
    python benchmarks/variance.py --only-tune --tasks toy   # makes the section on `ppgen.tune` anew

The time is that of the processor, over all threads of the process: unlike the clock on the wall,
which is printed too, it does not count what else the machine is doing.

Plain REINFORCE is the estimator of GenJAX's `vi` without baselines: the whole cost times the score
of all choices, written out here in a few lines. Rows say what was refused by whom, and why.

A last section compares what `ppgen.tune` finds by itself with the rows of ppgen above, which were
chosen by hand.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
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
    """An evidence bound, and what estimates its gradient.

    Attributes:
        name: of the task.
        model: the model.
        guide: the guide.
        params: of both.
        candidates: estimators of ppgen and numbers of draws, by the names of their rows.
        samples: how many gradients to take the variance of.
        by_hand: the exact gradient, where that takes a few lines.
    """

    name: str
    model: Callable
    guide: Callable
    params: Any
    candidates: dict[str, tuple[Any, int]]
    samples: int
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
    return Task("toy", model, guide, jnp.asarray(0.3), candidates, 4000, lambda key, p: by_hand(p))


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
        "mixture, N = 200", model, guide, params, candidates, 1000,
        lambda key, p: jax.grad(bound)(p),
    )  # fmt: skip


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
    return Task("sigmoid belief network, 2 x 64", model, guide, params, candidates, 300)


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
        "auto, 4 draws": ("auto", 4),
        "pathwise and measure-valued": (
            {"x*": ppgen.MeasureValued(), **{f"x{i}": None for i in range(1, n, 3)}},
            1,
        ),
        "pathwise and score function, 4 draws": (None, 4),
        "pathwise and score function": (None, 1),
    }
    return Task("chain of 50 mixed sites", model, guide, params, candidates, 1000)


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
        "hidden Markov model, T = 50", model, guide, params, candidates, 400,
        lambda key, p: jax.grad(bound)(p),
    )  # fmt: skip


TASKS = {f.__name__: f for f in (toy, mixture, belief_network, chain, hidden_markov)}


BY_HAND = "exact, by hand"


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


def of_ppgen(task: Task) -> dict[str, Callable]:
    return {f"ppgen, {k}": ours(task, *v) for k, v in task.candidates.items()}


def contenders(task: Task) -> dict[str, Callable]:
    found = of_ppgen(task)
    found["NumPyro, TraceGraph_ELBO"] = numpyros(task, TraceGraph_ELBO(), task.guide)
    found["NumPyro, TraceEnum_ELBO"] = numpyros(task, TraceEnum_ELBO(), enumerated(task.guide))
    found["plain REINFORCE"] = reinforce(task)
    if task.by_hand is not None:
        found[BY_HAND] = task.by_hand
    return found


# --- measuring ------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What was measured of one contender.

    Attributes:
        mean: of the gradients, flat.
        variance: their variance, summed over the entries.
        error: its standard error.
        cpu: seconds of processor time that one gradient takes.
        wall: seconds that pass.
        refused: why there is none, where there is none.
    """

    mean: np.ndarray
    variance: float
    error: float
    cpu: float
    wall: float
    refused: str = ""

    @property
    def product(self) -> float:
        """The processor time that a given accuracy takes, up to a constant."""
        return self.variance * self.cpu


def measure(
    gradients: dict[str, Callable], params: Any, samples: int, options: Any
) -> dict[str, Result]:
    key = jax.random.key(options.seed)
    runs, spreads, refused = {}, {}, {}
    for name, gradient in gradients.items():
        try:
            run = timed(jax.jit(gradient), key, params)
            spreads[name] = spread(gradient, key, params, samples)
            runs[name] = run
        except Exception as error:
            # Which of many libraries' errors it is does not matter: the row says it.
            why = " ".join(str(error).split())
            refused[name] = f"{type(error).__name__}: {why[:90]}"
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    order = np.random.default_rng(options.seed)
    for _ in range(options.repetitions):
        for name in order.permutation(list(runs)):
            times[name].append(runs[name]())
    medians = {name: np.median(found, axis=0).tolist() for name, found in times.items()}
    results = {name: Result(*spreads[name], *medians[name]) for name in runs}
    nan = float("nan")
    return results | {n: Result(np.zeros(0), nan, nan, nan, nan, why) for n, why in refused.items()}


def timed(gradient: Callable, key: jax.Array, params: Any, least: float = 4e-3) -> Callable:
    """A function that runs it for about `least` seconds and says what once took, by both clocks."""

    def repeat(times: int) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(times):
            jax.block_until_ready(gradient(key, params))
        return (time.process_time() - cpu) / times, (time.perf_counter() - wall) / times

    repeat(2)  # compiles
    once = min(repeat(1)[0] for _ in range(5))
    return lambda: repeat(max(1, math.ceil(least / once)))


def spread(gradient: Callable, key: jax.Array, params: Any, samples: int):
    """The mean of the gradients, their variance, and its standard error."""

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


def table(task: Task, results: dict[str, Result], samples: int) -> str:
    accepted = {n: r for n, r in results.items() if not r.refused}
    reference = accepted.get(BY_HAND, next(iter(accepted.values())))
    gaps = {n: float(np.linalg.norm(r.mean - reference.mean)) for n, r in accepted.items()}
    biased = {n for n, r in accepted.items() if gaps[n] > noise(r, reference, samples)}
    best = min((r for n, r in accepted.items() if n != BY_HAND and n not in biased), key=rank)
    lines = [
        f"## {task.name}",
        "",
        "| contender | gradient variance | processor time | time | variance × processor time "
        "| to the best | distance of the mean |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    last = biased | (results.keys() - accepted.keys())
    for name in sorted(results, key=lambda n: (n in last, rank(results[n]))):
        r = results[name]
        if r.refused:
            lines.append(f"| {name} | refused: {r.refused} | | | | | |")
            continue
        relative = "biased" if name in biased else f"{ratio(r, best):.3g}"
        lines.append(
            f"| {name} | {r.variance:.3g} ± {r.error:.1g} | {1e3 * r.cpu:.3g} ms "
            f"| {1e3 * r.wall:.3g} ms | {r.product:.3g} | {relative} | {gaps[name]:.2g} |"
        )
    lines += ["", f"Variances of {samples} gradients; distances from {label(reference, results)}."]
    if BY_HAND in accepted:
        to_hand = accepted["ppgen, auto"].cpu / accepted[BY_HAND].cpu
        lines[-1] += f" Time of `auto` to that of the exact gradient by hand: {to_hand:.3f}."
    return "\n".join(lines)


TUNED = "ppgen, tuned"


def tuned_row(task: Task, samples: int, options: Any) -> str:
    """What `tune` finds among all estimators, and the numbers of draws of the rows by hand."""
    draws = tuple(sorted({d for _, d in task.candidates.values()}))
    f = elbo(task.model, task.guide)
    found = ppgen.tune(
        f, seconds=options.tune, draws=draws, clock=time.process_time, progress=False
    )(jax.random.key(options.seed), task.params)
    g = ppgen.expectation(ppgen.with_estimators(f, found.estimators), draws=found.draws)
    gradients = of_ppgen(task) | {TUNED: jax.grad(g, 1)}
    # With another key than the search had.
    results = measure(gradients, task.params, samples, options)
    mine = results.pop(TUNED)
    best = min((n for n, r in results.items() if not r.refused), key=lambda n: rank(results[n]))
    tried = sum(not c.refused for c in found.candidates)
    return (
        f"| {task.name} | {found.chosen} | {found.seconds:.0f} s | {tried}, {found.left_out} "
        f"| {best.removeprefix('ppgen, ')} | {mine.variance:.3g} ± {mine.error:.1g} "
        f"| {ratio(mine, results[best]):.3g} |"
    )


def tuned_section(rows: list[str], options: Any) -> str:
    return "\n".join(
        [
            TUNED_TITLE,
            "",
            where(options),
            "",
            f"Each search had {options.tune:.0f} seconds, compilation included. The best row by",
            "hand is the best of ppgen's rows, measured again beside what was found; the last",
            "column is the ratio of the products (of the processor times, among those without",
            "variance).",
            "",
            "| task | found | took | candidates tried, left out | best row by hand "
            "| gradient variance | to the best row |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


TUNED_TITLE = "## What `ppgen.tune` finds"


def noise(r: Result, reference: Result, samples: int) -> float:
    """What the means of unbiased estimates hardly ever differ by."""
    error = math.sqrt((r.variance + reference.variance) / samples)
    return 4 * error + 1e-3 * float(np.linalg.norm(reference.mean))


def label(result: Result, results: dict[str, Result]) -> str:
    return next(name for name, r in results.items() if r is result)


def rank(r: Result) -> tuple[float, float]:
    """Among those without variance, time decides."""
    return (r.product, r.cpu)


def ratio(r: Result, best: Result) -> float:
    if best.variance > 0:
        return r.product / best.product
    return r.cpu / best.cpu if r.variance == 0 else math.inf


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--effort", type=float, default=1.0, help="a factor of the sample sizes")
    parser.add_argument("--repetitions", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", type=float, default=60.0, help="seconds of each search")
    parser.add_argument(
        "--only-tune", action="store_true", help="keep all of the page but its last section"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    sections, found = [], []
    for name in options.tasks:
        task = TASKS[name]()
        samples = max(20, round(task.samples * options.effort))
        if not options.only_tune:
            results = measure(contenders(task), task.params, samples, options)
            sections.append(table(task, results, samples))
            print(sections[-1] + "\n", flush=True)
        found.append(tuned_row(task, samples, options))
        print(found[-1] + "\n", flush=True)
        if options.only_tune:
            head = options.out.read_text().split(TUNED_TITLE)[0].rstrip() + "\n"
        else:
            head = report(sections, options)
        # After each task, so that what an interrupted run has measured is there.
        options.out.write_text(head + "\n" + tuned_section(found, options))


def where(options: Any) -> str:
    """The machine, the versions and the command."""
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (ppgen, jax, numpyro))
    command = " ".join(["python benchmarks/variance.py", *sys.argv[1:]])
    return f"""{datetime.date.today()}; {platform.machine()}, {os.cpu_count()} cores, \
{platform.system()}; {jax.default_backend()} (load {os.getloadavg()[0]:.1f} at the end); Python \
{platform.python_version()}, {versions}; seed {options.seed}. Command: `{command}`."""


def report(sections: list[str], options: Any) -> str:
    head = f"""# Variance times time

{where(options)}

Variances are summed over the entries, ± a standard error; zero where gradients differ by rounding
only. Times are medians of {options.repetitions}, contenders interleaved in random order. Processor
time is that of all threads of the process; where the machine has other work, the time that passes
says little. Where the best row has no variance, "to the best" is the ratio of processor times among
those without. A mean gradient that is further from the reference than noise explains is biased; the
best is the best of the others, and the gradient by hand is no contender.
"""
    return "\n".join([head, *(s + "\n" for s in sections)])


if __name__ == "__main__":
    main(sys.argv[1:])
