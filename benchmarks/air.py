"""Attend, infer, repeat: objectives times gradient estimators of "is there something more?".

Scenes of zero to two of scikit-learn's 8x8 digits on a canvas of 24x24, at most three looks, the
published priors and noise: Figure 7 and Table 2 of "Probabilistic Programming with Programmable
Variational Inference" (PLDI 2024), whose scenes are of MNIST, on 50x50. Every cell trains the same
programs from the same weights with the same optimiser for the same number of steps.

    python benchmarks/air.py            # prints, and writes air.md
    python benchmarks/air.py --fast     # a smoke run: writes nothing
    python benchmarks/air.py --only "ELBO, measure-valued" --steps 500

The floors are the share of the most frequent count and a threshold on total brightness, which is
supervised: it is fitted to the true counts. The negative control trains on scenes with their pixels
in one fixed random order, where there is no place to attend to.
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

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax

import ppgen
from ppgen.inference import elbo, iwelbo, reweighted_wake_sleep, vimco
from ppgen.models.air import AIR, air_guide, air_model
from ppgen.models.air.marks import by_brightness
from ppgen.models.parts.data import Scenes, load_scenes

CHUNK = 100

# --- the grid -------------------------------------------------------------------------------------


def model(params, image):
    return air_model(params["air"], image)


def guide(choose: Callable[[Any, Any], dict]) -> Callable:
    """The guide, with the estimators that `choose` gives for an image."""
    return lambda params, image: ppgen.with_estimators(air_guide, choose(params, image))(
        params["air"], image
    )


def everywhere(estimator: ppgen.AbstractEstimator) -> Callable:
    return guide(lambda params, image: {"z_pres_*": estimator})


def baselines(params, image):
    """A network of the image gives one for each look; it starts at the scale of a bound."""
    values = 100 * params["baseline"](image.ravel())
    return {f"z_pres_{t}": ppgen.ScoreFunction(baseline=b) for t, b in enumerate(values)}


def watching(params, image):
    """Enumerated, by a guide whose every look depends on z_pres: the general case, for its cost."""
    air = params["air"]
    return ppgen.with_estimators(
        lambda air, image: air_guide(air, image, conditional=True), {"z_pres_*": ENUMERATE}
    )(air, image)


ENUMERATE, PHANTOMS = ppgen.Enumerate(), ppgen.MeasureValued()
REINFORCE = everywhere(ppgen.ScoreFunction(baseline=0.0))
HYBRID = guide(lambda params, image: {"z_pres_0": ENUMERATE, "z_pres_*": PHANTOMS})


class Cell(NamedTuple):
    """An objective with estimators, and what was published for it: a bound in nats, accuracy.

    `times` as many steps are taken as of the others.
    """

    objective: Callable[[Any, Any], Any]
    published: tuple[str, str] = ("–", "–")
    draws: int = 1
    learned: bool = False
    scrambled: bool = False
    times: int = 1


CELLS = {
    "ELBO, measure-valued": Cell(elbo(model, everywhere(PHANTOMS)), ("635", ".984")),
    "ELBO, enumerated": Cell(elbo(model, everywhere(ENUMERATE)), ("634", ".984")),
    "ELBO, score function": Cell(elbo(model, REINFORCE), ("460", ".275")),
    "ELBO, score function, learned baselines": Cell(elbo(model, guide(baselines)), learned=True),
    "ELBO, score function, leave-one-out of 2": Cell(
        elbo(model, everywhere(ppgen.ScoreFunction(baseline=ppgen.LeaveOneOut()))), draws=2
    ),
    "ELBO, first enumerated, rest measure-valued": Cell(elbo(model, HYBRID)),
    "IWELBO 2, score function": Cell(iwelbo(model, REINFORCE, particles=2), ("569", ".479")),
    "IWELBO 2, measure-valued": Cell(
        iwelbo(model, everywhere(PHANTOMS), particles=2), ("638.5", ".984")
    ),
    "IWELBO 2, VIMCO": Cell(vimco(model, REINFORCE, particles=2)),
    "RWS, K = 10": Cell(reweighted_wake_sleep(model, REINFORCE, particles=10), ("–", ".666")),
    "control: scrambled pixels, ELBO, measure-valued": Cell(
        elbo(model, everywhere(PHANTOMS)), scrambled=True
    ),
    "IWELBO 2, enumerated": Cell(iwelbo(model, everywhere(ENUMERATE), particles=2)),
    "ELBO, score function, 3 times the steps": Cell(elbo(model, REINFORCE), times=3),
    "ELBO, measure-valued, 3 times the steps": Cell(elbo(model, everywhere(PHANTOMS)), times=3),
}

COSTS = {
    "score function": CELLS["ELBO, score function"],
    "measure-valued": CELLS["ELBO, measure-valued"],
    "first enumerated, rest measure-valued": CELLS["ELBO, first enumerated, rest measure-valued"],
    "enumerated": CELLS["ELBO, enumerated"],
    "enumerated, looks depend on z_pres": Cell(elbo(model, watching)),
}

# --- training and evaluation ----------------------------------------------------------------------


def fresh(options: argparse.Namespace) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(options.seed))
    air = AIR(hidden=options.hidden, key=keys[0])
    baseline = eqx.nn.MLP(air.canvas**2, len(air.present), 64, 1, jax.nn.gelu, key=keys[1])
    return {"air": air, "baseline": baseline}


def steps_of(cell: Cell, options: argparse.Namespace, count: int) -> tuple[Callable, Any]:
    """A compiled function that takes `count` steps of Adam, and the state that it begins with."""
    varying, fixed = eqx.partition(fresh(options), eqx.is_inexact_array)
    optimizer = optax.adam(options.rate)

    def total(varying, images):
        # The sum, so that a baseline is of the scale of one image's cost at any batch size.
        params = eqx.combine(varying, fixed)
        return jnp.sum(jax.vmap(cell.objective, in_axes=(None, 0))(params, images))

    bound = ppgen.expectation(total, draws=cell.draws)
    error = ppgen.baseline_loss(total, draws=cell.draws) if cell.learned else None

    def step(state, key, images):
        varying, moments = state
        pick, key = jax.random.split(key)
        batch = images[jax.random.randint(pick, (options.batch,), 0, len(images))]
        gradient = jax.tree.map(jnp.negative, jax.grad(bound, argnums=1)(key, varying, batch))
        if error is not None:
            by_baseline = jax.grad(error, argnums=1)(key, varying, batch)
            gradient = gradient | {"baseline": by_baseline["baseline"]}
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(varying, updates), moments), None

    @jax.jit
    def run(state, key, images):
        keys = jax.random.split(key, count)
        return jax.lax.scan(lambda s, k: step(s, k, images), state, keys)[0]

    return run, (varying, optimizer.init(varying))


def train(cell: Cell, images: Any, options: argparse.Namespace) -> tuple[Any, float, float]:
    """Parameters, seconds of CPU to the end of the first chunk less that of another, s a step."""
    jax.clear_caches()
    began = time.process_time()
    run, state = steps_of(cell, options, CHUNK)
    key, first, elapsed = jax.random.key(options.seed + 1), 0.0, []
    for i in range(-(-options.steps * cell.times // CHUNK)):
        start = time.perf_counter()
        state = jax.block_until_ready(run(state, jax.random.fold_in(key, i), images))
        elapsed.append(time.perf_counter() - start)
        if i == 0:
            first, began = time.process_time() - began, time.process_time()
        elif i == 1:
            first -= time.process_time() - began
    fixed = eqx.partition(fresh(options), eqx.is_inexact_array)[1]
    return eqx.combine(state[0], fixed), first, statistics.median(elapsed[1:] or elapsed) / CHUNK


def evaluation(params: Any, images: Any) -> Callable[[Any, Any, np.ndarray], list[str]]:
    """Of parameters, scenes and their counts: ELBO, IWELBO of 10 and accuracy of the counts."""

    def count(key, params, image):
        return ppgen.seed(air_guide)(key, params["air"], image)

    bounds = elbo(model, everywhere(ENUMERATE)), iwelbo(model, REINFORCE, particles=10)
    fixed = eqx.partition(params, eqx.is_array)[1]

    def compiled(f: Callable) -> Callable:
        def over(params, images):
            params = eqx.combine(params, fixed)
            keys = jax.random.split(jax.random.key(2), len(images))
            return jax.lax.map(lambda a: f(a[0], params, a[1]), (keys, images), batch_size=100)

        return jax.jit(over).lower(eqx.filter(params, eqx.is_array), images).compile()

    *log_evidence, number = [compiled(f) for f in (*map(ppgen.expectation, bounds), count)]

    def evaluate(params, images, counts):
        arrays = eqx.filter(params, eqx.is_array)
        values = [np.asarray(f(arrays, images)) for f in log_evidence]
        shown = [f"{v.mean():.1f} ± {v.std() / len(v) ** 0.5:.1f}" for v in values]
        return [*shown, f"{(np.asarray(number(arrays, images)) == counts).mean():.3f}"]

    return evaluate


def floors(train: Scenes, held_out: Scenes) -> list[str]:
    """Accuracies without a model: the most frequent count, thresholds on the brightness."""
    most = np.bincount(train.counts).argmax()
    guess = by_brightness(train, held_out.images)
    return [
        f"{(held_out.counts == most).mean():.3f}",
        f"{(held_out.counts == guess).mean():.3f}",
    ]


def costs(images: Any, options: argparse.Namespace, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds a step, wall and CPU: medians of interleaved rounds."""
    count = 5
    runs = {name: steps_of(cell, options, count) for name, cell in COSTS.items()}
    for run, state in runs.values():
        jax.block_until_ready(run(state, jax.random.key(0), images))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for i in range(rounds):
        for name, (run, state) in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(run(state, jax.random.key(i), images))
            spent = time.perf_counter() - wall, time.process_time() - cpu
            found[name].append((1e3 * spent[0] / count, 1e3 * spent[1] / count))
    return {
        name: (statistics.median(a for a, _ in row), statistics.median(b for _, b in row))
        for name, row in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of cells")
    parser.add_argument("--fast", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    sizes, rounds = {}, 41
    if options.fast:
        options.steps, options.batch, options.hidden, options.out = CHUNK, 4, 16, Path(os.devnull)
        sizes, rounds = {"train": 200, "held_out": 100}, 3
        options.only = options.only or list(CELLS)[:2]
    seen, unseen = load_scenes(**sizes, seed=options.seed)
    order = np.random.RandomState(options.seed).permutation(seen.images[0].size)
    plain = [jnp.asarray(s.images) for s in (seen, unseen)]
    scrambled = [x.reshape(len(x), -1)[:, order].reshape(x.shape) for x in plain]

    lines: list[str] = []

    def add(line: str) -> None:
        print(line, flush=True)
        lines.append(line)
        options.out.write_text("\n".join(lines) + "\n")

    most, bright = floors(seen, unseen)
    add("# Attend, infer, repeat")
    add("")
    add(
        f"`python benchmarks/air.py`, {datetime.date.today()}, seed {options.seed}, "
        f"{os.cpu_count()} CPU cores ({platform.machine()}, shared), Python "
        f"{sys.version.split()[0]}, jax {jax.__version__}, numpyro {numpyro.__version__}."
    )
    add("")
    add(
        f"{options.steps} steps of Adam ({options.rate:g}) on batches of {options.batch} of "
        f"{len(plain[0]):,} scenes; bounds in nats and counts on {len(plain[1]):,} scenes of "
        f"digits that none of the former contains. Floors of the count: {most} for the most "
        f"frequent one, {bright} for thresholds on total brightness, fitted to the true counts. "
        "Published: "
        "genjax.vi, 41 epochs of MNIST scenes on 50x50, so that its nats are of other data."
    )
    if not options.only:
        add("")
        add("Cost of a step of the ELBO, interleaved, medians; published: a ratio of 3.6.")
        add("")
        add("| estimator of z_pres | wall ms | CPU ms | ratio to measure-valued, wall | CPU |")
        add("| --- | --- | --- | --- | --- |")
        found = costs(plain[0], options, rounds)
        unit = found["measure-valued"]
        for name, (wall, cpu) in found.items():
            add(f"| {name} | {wall:.1f} | {cpu:.1f} | {wall / unit[0]:.2f} | {cpu / unit[1]:.2f} |")
    add("")
    add(
        "| objective, estimator of z_pres | ELBO | IWELBO 10 | count accuracy | s a step "
        "| first call, CPU s | published bound | published accuracy |"
    )
    add("| --- | --- | --- | --- | --- | --- | --- | --- |")
    evaluate = evaluation(fresh(options), plain[1])
    for name in options.only or CELLS:
        cell = CELLS[name]
        fit, test = scrambled if cell.scrambled else plain
        params, first, each = train(cell, fit, options)
        row = [*evaluate(params, test, unseen.counts), f"{each:.4f}", f"{first:.1f}"]
        add(f"| {name} | " + " | ".join([*row, *cell.published]) + " |")
    add("")
    add(
        "Of one seed, on a shared machine: the seconds a step vary with its load, which is why the "
        "cost has a table of its own, interleaved. `looks depend on z_pres` is the same guide, "
        "written so that every network is evaluated for each value of the flips before it."
    )


if __name__ == "__main__":
    main()
