"""What the language costs on one device, a GPU above all: ppgen against hand-written JAX.

    python benchmarks/gpu.py                    # prints, and writes benchmarks/gpu.md; 8 minutes
    python benchmarks/gpu.py --small --out /dev/null       # the same on a CPU, in a minute or two

The sizes are those for which one uses a GPU. Tasks come in the order of what they tell; those that
do not begin within `--minutes` are left out, and the page says so. Contenders are called in turn,
in a new random order in each repetition.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hmm
import jax
import jax.numpy as jnp
import optax
from fit_common import BATCH, batch_bound, binary, hand_loop
from gmm import mixture
from jax.scipy.stats import norm
from overhead import (
    Result,
    Task,
    cone_by_hand,
    cone_guide,
    cone_model,
    decode,
    encode,
    gradients,
    init_cone,
    init_vae,
    measure,
    origin,
    vae_by_hand,
    vae_guide,
    vae_model,
)

import ppgen
from ppgen.inference import elbo, fit, iwelbo


class Sizes(NamedTuple):
    """How large the tasks are.

    Attributes:
        batches: images of a step of the autoencoder.
        hidden: its hidden units.
        particles: of importance-weighted bounds, on the first of `batches`.
        draws: of the cone.
        points: of the mixture.
        steps: of the hidden Markov model.
        rows: of the data that `fit` is timed on.
        chunk: steps of `fit` in one repetition.
    """

    batches: tuple[int, ...]
    hidden: int
    particles: tuple[int, ...]
    draws: tuple[int, ...]
    points: tuple[int, ...]
    steps: tuple[int, ...]
    rows: int
    chunk: int


FULL = Sizes((256, 4096), 1024, (8, 64), (64, 65_536), (200, 100_000), (50, 1000), 50_000, 500)
SMALL = Sizes((16,), 32, (4,), (64,), (50,), (20,), 512, 10)


def vae(batch: int, hidden: int, dtype: Any) -> Task:
    """Value and gradient of the bound of a batch."""
    p = jax.tree.map(lambda w: w.astype(dtype), init_vae(jax.random.key(0), hidden))
    x = jnp.asarray(binary(batch, 1), dtype)
    bound = ppgen.expectation(elbo(vae_model, vae_guide))
    bounds = {"hand": vae_by_hand, "ppgen": lambda key, p, x: bound(key, p, x) / batch}
    return gradients(f"VAE, {batch} images, {jnp.dtype(dtype).name}", bounds, p, x)


def importance_weighted(batch: int, hidden: int, particles: int) -> Task:
    """The same of the importance-weighted bound, image by image."""

    def by_hand(key: jax.Array, p: dict, x: jax.Array) -> jax.Array:
        mean, scale = encode(p, x)
        z = mean + scale * jax.random.normal(key, (particles, *mean.shape))
        logits = decode(p, z)
        weights = jnp.sum(x * logits - jax.nn.softplus(logits), axis=-1)
        weights += jnp.sum(norm.logpdf(z) - norm.logpdf(z, mean, scale), axis=-1)
        return jnp.mean(jax.nn.logsumexp(weights, axis=0) - jnp.log(particles))

    bound = ppgen.expectation(iwelbo(vae_model, vae_guide, particles=particles))
    bounds = {"hand": by_hand, "ppgen": lambda key, p, x: bound(key, p, x) / batch}
    p, x = init_vae(jax.random.key(0), hidden), jnp.asarray(binary(batch, 1))
    return gradients(f"IWELBO, {batch} images, K = {particles}", bounds, p, x)


def cone(draws: int) -> Task:
    """A tiny program of two normals, run many times."""
    bounds = {
        "hand": functools.partial(cone_by_hand, draws=draws),
        "ppgen": ppgen.expectation(elbo(cone_model, cone_guide), draws=draws),
    }
    return gradients(f"cone, {draws:,} draws", bounds, init_cone(jax.random.key(0)), jnp.array(5.0))


def enumeration(points: int) -> Task:
    """A mixture of ten components, whose labels are summed out."""
    bounds, p, x = mixture(points, 10, 0)
    chosen = {who: bounds[who] for who in ("hand", "ppgen")}
    return gradients(f"mixture, {points:,} labels, enumerated", chosen, p, x)


def elimination(steps: int, states: int = 10) -> Task:
    """The exact bound of a hidden Markov model; in parallel over time too."""
    p, y = hmm.problem(states, steps, 0)
    bounds = hmm.contenders(True)
    return gradients(f"HMM, {steps} steps", bounds, p, y)


def loops(sizes: Sizes, repetitions: int) -> Iterator[str]:
    """Steps of `fit` against the loop by hand, in turn."""
    x = jnp.asarray(binary(sizes.rows, 0))
    p = init_vae(jax.random.key(0), sizes.hidden)
    run, begin = hand_loop(x, sizes.chunk, jax.random.key(1))
    carry = begin(p)
    run = run.lower(carry).compile()
    wall: dict[str, list[float]] = {"fit": [], "hand": []}
    since = [0.0]

    def callback(progress: Any) -> None:
        nonlocal carry
        wall["fit"].append(time.perf_counter() - since[0])
        start = time.perf_counter()
        carry, values = run(carry)
        jax.block_until_ready(values)
        wall["hand"].append(time.perf_counter() - start)
        since[0] = time.perf_counter()

    fit(
        batch_bound,
        p,
        optax.adam(1e-3),
        key=jax.random.key(1),
        steps=sizes.chunk * (repetitions + 1),
        data=x,
        batch_size=BATCH if sizes.rows > BATCH else None,
        maximize=True,
        chunk=sizes.chunk,
        callback=callback,
    )
    seconds = {who: statistics.median(times[1:]) / sizes.chunk for who, times in wall.items()}
    yield (
        f"`fit`, {sizes.rows:,} images in batches of {BATCH}: {1 / seconds['fit']:,.0f} steps a "
        f"second; the loop by hand: {1 / seconds['hand']:,.0f} "
        f"({seconds['fit'] / seconds['hand']:.3f} of its time)."
    )


COLUMNS = ("task", "contender", "ms", "to hand", "FLOPs", "temporary memory", "first call")
HEADER = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def rows(name: str, r: Result) -> list[str]:
    """A line for each contender."""
    lines = []
    for who, times in r.wall.items():
        paired = [a / b for a, b in zip(times, r.wall["hand"], strict=True)]
        low, middle, high = statistics.quantiles(paired, n=4)
        cells = [
            name,
            who,
            f"{1e3 * statistics.median(times):.3g}",
            f"**{middle:.3f}** ({low:.2f}–{high:.2f})",
            f"{r.flops[who]:,.0f}",
            f"{r.memory[who] / 2**20:.3g} MiB",
            f"{statistics.median(r.first[who]):.2f} s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def tasks(sizes: Sizes) -> list[Callable[[], Task]]:
    """What is measured, the most telling first."""
    first, *rest = sizes.batches
    hidden = sizes.hidden
    return [
        functools.partial(vae, first, hidden, jnp.float32),
        *(functools.partial(cone, n) for n in sizes.draws),
        *(functools.partial(elimination, n) for n in sizes.steps),
        *(functools.partial(enumeration, n) for n in sizes.points),
        *(functools.partial(importance_weighted, first, hidden, k) for k in sizes.particles),
        functools.partial(vae, first, hidden, jnp.bfloat16),
        *(functools.partial(vae, n, hidden, d) for n in rest for d in (jnp.float32, jnp.bfloat16)),
    ]


def peak() -> str:
    """The most memory that the device has had in use, where it says so."""
    stats = jax.devices()[0].memory_stats() or {}
    used = stats.get("peak_bytes_in_use")
    return "" if used is None else f"The device had {used / 2**30:.2f} GiB in use at most. "


def report(lines: list[str], notes: list[str], options: Any) -> str:
    """The page."""
    device = jax.devices()[0]
    return "\n".join(
        [
            "# What the language costs on an accelerator",
            "",
            origin("gpu.py", options),
            f"Device: {device.device_kind} ({device.platform}).",
            "",
            f"Value and gradient; medians of {options.repetitions} repetitions, contenders "
            "interleaved in random order. Ratios are medians of",
            "those within a repetition, in brackets their quartiles. FLOPs and temporary memory "
            "are those of the compiled program, by XLA's count.",
            "",
            HEADER,
            *lines,
            "",
            *notes,
            "",
        ]
    )


def main(arguments: list[str]) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--repetitions", type=int, default=51)
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no task after these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    options.command = arguments
    sizes = SMALL if options.small else FULL
    began, lines, notes = time.monotonic(), [], []
    print(HEADER)
    todo = tasks(sizes)
    while todo and time.monotonic() - began < 60 * options.minutes:
        task = todo.pop(0)()
        lines += rows(task.name, measure(task, options.repetitions, 1, options.seed))
        print("\n".join(lines[-len(task.contenders) :]), flush=True)
        gc.collect()
    if todo:
        notes.append(f"{len(todo)} tasks did not begin within {options.minutes:g} minutes.")
    if time.monotonic() - began < 60 * options.minutes:
        notes += loops(sizes, max(3, options.repetitions // 10))
    notes.append(peak())
    print("\n".join(notes))
    options.out.write_text(report(lines, notes, options))


if __name__ == "__main__":
    main(sys.argv[1:])
