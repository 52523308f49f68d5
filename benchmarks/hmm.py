"""What exact elimination in a scan costs: ppgen against the forward algorithm written by hand.

The bound of a hidden Markov model, exact, under a guide that is a Markov chain itself: its own
matrix ("blind"), or one that is tilted by each observation ("sees").

    python benchmarks/hmm.py                     # prints, and writes benchmarks/hmm.md
    python benchmarks/hmm.py --repetitions 5 --steps 50 --out /dev/null

`hand` is the loop that one writes; `hoisted` has all that can be outside of the loop there, at all
steps at once, which takes memory for all pairs of states at all steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from gmm import HEADER, rows
from numpyro.contrib.control_flow import scan
from overhead import Task, gradients, measure, origin

import ppgen
from ppgen.inference import elbo

Bound = Callable[[jax.Array, dict, jax.Array], jax.Array]


def by_ppgen(sees: bool, parallel: bool) -> Bound:
    """The bound as a model and a guide."""
    infer = {"grad": ppgen.Enumerate(parallel=parallel)}

    def model(p: dict, y: jax.Array) -> None:
        def step(z, y):
            z = numpyro.sample("z", dist.Categorical(logits=p["model"][z]))
            numpyro.sample("y", dist.Normal(p["means"][z], 1.0), obs=y)
            return z, None

        scan(step, 0, y)

    def guide(p: dict, y: jax.Array) -> None:
        def step(z, y):
            logits = p["guide"][z] + (y * p["tilt"] if sees else 0.0)
            return numpyro.sample("z", dist.Categorical(logits=logits), infer=infer), None

        scan(step, 0, y)

    return ppgen.expectation(elbo(model, guide))


def log_density(y: jax.Array, means: jax.Array) -> jax.Array:
    """Of an observation, given the state."""
    return -0.5 * (y - means) ** 2 - 0.5 * np.log(2 * np.pi)


def by_hand(sees: bool) -> Bound:
    """The forward algorithm, step by step."""

    def bound(key: jax.Array, p: dict, y: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(p["model"])
        same = jax.nn.log_softmax(p["guide"])

        def step(row, y):
            log_q = jax.nn.log_softmax(p["guide"] + y * p["tilt"]) if sees else same
            pairs = row[:, None] * jnp.exp(log_q)
            cost = jnp.sum(pairs * (log_p + log_density(y, p["means"]) - log_q))
            return jnp.sum(pairs, 0), cost

        return jnp.sum(jax.lax.scan(step, jnp.eye(len(log_p))[0], y)[1])

    return bound


def hoisted(sees: bool) -> Bound:
    """The same with nothing but a product in the loop."""

    def bound(key: jax.Array, p: dict, y: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(p["model"])
        tilt = y[:, None, None] * p["tilt"] if sees else 0.0
        log_q = jax.nn.log_softmax(p["guide"] + tilt)
        q = jnp.exp(log_q)

        def step(row, now):
            return row @ (now if sees else q), row

        start = jnp.eye(len(log_p))[0]
        _, before = jax.lax.scan(step, start, q if sees else None, length=len(y))
        log_y = log_density(y[:, None], p["means"])
        return jnp.sum(before[:, :, None] * q * (log_p + log_y[:, None] - log_q))

    return bound


def contenders(sees: bool) -> dict[str, Bound]:
    """All of them."""
    return {
        "hand": by_hand(sees),
        "hoisted": hoisted(sees),
        "ppgen": by_ppgen(sees, False),
        "ppgen, parallel": by_ppgen(sees, True),
    }


def problem(states: int, length: int, seed: int) -> tuple[dict, jax.Array]:
    """Parameters, and observations."""
    keys = jax.random.split(jax.random.key(seed), 3)
    p = {
        "model": jax.random.normal(keys[0], (states, states)),
        "guide": jax.random.normal(keys[1], (states, states)),
        "means": jnp.linspace(-2.0, 2.0, states),
        "tilt": jnp.linspace(-1.0, 1.0, states),
    }
    return p, jax.random.normal(keys[2], (length,))


def same_results(task: Task) -> None:
    """Refuse to compare contenders that compute different things."""
    results = [
        contender()(jax.random.key(0), *task.arguments[who])
        for who, contender in task.contenders.items()
    ]
    for other in results[1:]:
        # Entries are sums over steps that cancel: single precision has the digits of the largest.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * np.max(np.abs(a))),
            results[0],
            other,
        )


def report(lines: list[str], options: Any) -> str:
    """The page."""
    return "\n".join(
        [
            "# What exact elimination costs",
            "",
            origin("hmm.py", options),
            "",
            f"The exact bound of a hidden Markov model with {options.states} states. Medians of "
            f"{options.repetitions} repetitions,",
            "contenders interleaved in random order. Ratios are medians of those within a "
            "repetition, in brackets their",
            "quartiles; `hand` is the forward algorithm as a loop, `hoisted` the same with all but "
            "a product outside of it.",
            "FLOPs are XLA's count, which counts the body of a loop once: they compare `hoisted` "
            "and ppgen. First: from",
            f"function to first result, median of {options.first_calls}, caches cleared.",
            "",
            HEADER,
            *lines,
            "",
        ]
    )


def main(arguments: list[str]) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=51)
    parser.add_argument("--first-calls", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="*", default=[50, 500])
    parser.add_argument("--states", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    options.command = arguments
    n = options.states
    lines = []
    print(HEADER)
    for length in options.steps:
        p, y = problem(n, length, options.seed)
        for sees in (False, True):
            bounds = contenders(sees)
            name = f"T = {length}, S = {n}, guide {'sees' if sees else 'blind'}"
            value = {who: lambda f=f: jax.jit(f) for who, f in bounds.items()}
            tasks = [
                Task(f"{name}, value", value, dict.fromkeys(bounds, (p, y))),
                gradients(name, bounds, p, y),
            ]
            for task in tasks:
                same_results(task)
                lines += rows(task.name, measure(task, options.repetitions, options.first_calls, 0))
                print("\n".join(lines[-len(bounds) :]), flush=True)
    options.out.write_text(report(lines, options))


if __name__ == "__main__":
    main(sys.argv[1:])
