"""Random grid neural processes: random grids against fixed ones, and against a DeepONet.

The nonlinear Poisson problem at the published sizes (width 96, 32 problems a step, 30 points,
4,000 steps), Burgers' equation and the lid-driven cavity with less training; no solution is seen in
training unless a row says so. Scored on problems solved by finite differences.

    python benchmarks/models_random_grid.py             # prints, and writes models_random_grid.md
    python benchmarks/models_random_grid.py --fast      # a smoke run: writes nothing
    python benchmarks/models_random_grid.py --seeds 0 1 2 --skip burgers cavity

NSE is ‖mean − u‖² / ‖u‖² of a problem. The trivial solutions, zero and the mean over other problems,
and the error of the reference itself are measured too.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppgen.models.networks import DeepONet
from ppgen.models.random_grid import (
    RGNP,
    AbstractProblem,
    Burgers,
    Cavity,
    Observations,
    Poisson,
    References,
    Scores,
    draw_references,
    fit_random_grid,
    normalized_squared_error,
    observe,
    outputs,
    score,
)

NOISE = 0.01
"""Standard deviation of the observations; solutions are of the order of one."""


class Mark(NamedTuple):
    """A row: what was measured, and what it has to be. No bound, no verdict."""

    mark: str
    measured: float
    bound: str
    passed: bool | None


class Size(NamedTuple):
    width: int = 96
    batch: int = 32
    points: int = 30
    few: int = 8
    steps: int = 4000
    references: int = 64


FAST = Size(width=48, batch=16, points=16, steps=500, references=16)


def parameters_of(network: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(eqx.filter(network, eqx.is_array_like)))


def rival(rgnp: RGNP, key: Any) -> DeepONet:
    """A DeepONet with as many parameters as the network of the solution, up to one of its widths."""
    problem = rgnp.problem
    (z,), (w,) = problem.parameters().event_shape, problem.conditions().event_shape

    def make(width: int) -> DeepONet:
        return DeepONet(
            context=z + w,
            query=len(problem.low),
            outputs=outputs(problem, rgnp.rank),
            width=width,
            frequencies=2,
            key=key,
        )

    aim = parameters_of(rgnp.forward)
    sizes = {n: parameters_of(eqx.filter_eval_shape(make, n)) for n in range(8, 200)}
    return make(min(sizes, key=lambda n: abs(sizes[n] - aim)))


class Run(NamedTuple):
    scores: Scores
    seconds: float
    parameters: int


def train(
    problem: AbstractProblem,
    references: References,
    size: Size,
    seed: int,
    *,
    grid: Any = None,
    deeponet: bool = False,
    observations: Observations | None = None,
) -> Run:
    """Trains from the same weights, but for those that differ in shape, with the same keys."""
    keys = jax.random.split(jax.random.key(seed), 4)

    def make(forward: Any = None) -> RGNP:
        return RGNP(
            problem,
            points=size.points,
            width=size.width,
            nodes=16 if len(problem.low) == 1 else 8,
            grid=grid,
            forward=forward,
            key=keys[0],
        )

    rgnp = make()
    rgnp = make(rival(rgnp, keys[1])) if deeponet else rgnp
    began = time.perf_counter()
    fitted = fit_random_grid(
        rgnp,
        key=keys[2],
        steps=size.steps,
        batch=size.batch,
        observations=observations,
        noise=NOISE,
    )
    seconds = time.perf_counter() - began
    scores = score(fitted.params, references, key=keys[3])
    run = Run(scores, seconds, parameters_of(rgnp.forward))
    what = ["deeponet"] * deeponet + ["kept grid"] * (grid is not None)
    what += ["observations"] * (observations is not None)
    print(
        f"seed {seed}, {type(problem).__name__}, {size.points} points, {size.steps} steps, "
        f"{', '.join(what) or 'random grids'}: median NSE_u {median(run):.3g}, "
        f"NSE_z {scores.nse_z.mean():.3g}, {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return run


def median(run: Run) -> float:
    return float(np.median(run.scores.nse_u))


def trivial(problem: AbstractProblem, references: References, key: Any) -> float:
    """Median NSE_u of the mean over other problems. Zero has 1 for every problem."""
    mean = draw_references(problem, 4 * len(references.z), key=key).u.mean(0).ravel()
    u = jnp.asarray(references.u.reshape(len(references.z), -1))
    return float(np.median(normalized_squared_error(jnp.asarray(mean), u)))


def floor(problem: AbstractProblem, references: References, key: Any) -> float:
    """Median NSE_u of the reference itself, against one of four times the resolution."""
    count = min(8, len(references.z))
    finer = draw_references(problem, len(references.z), key=key, refine=4).u[:count]
    ours = references.u[:count].reshape(count, -1)
    errors = normalized_squared_error(jnp.asarray(ours), jnp.asarray(finer.reshape(count, -1)))
    return float(np.median(errors))


def below(name: str, measured: float, bound: float, text: str | None = None) -> Mark:
    return Mark(name, measured, text or f"< {bound:.3g}", bool(measured < bound))


def report(name: str, measured: float) -> Mark:
    return Mark(name, measured, "reported", None)


def common_rows(
    name: str, problem: AbstractProblem, size: Size, seed: int
) -> tuple[References, Run, float, list[Mark]]:
    """The references, a run on random grids, what is trivial, and what is only reported."""
    keys = jax.random.split(jax.random.key(1000 + seed), 2)
    references = draw_references(problem, size.references, key=keys[0])
    mean_solution = trivial(problem, references, keys[1])
    run = train(problem, references, size, seed)
    scores = run.scores
    return (
        references,
        run,
        mean_solution,
        [
            report(f"{name}: mean NSE_u", float(scores.nse_u.mean())),
            report(f"{name}: median NSE_u of the mean solution", mean_solution),
            report(f"{name}: median NSE_u of the reference", floor(problem, references, keys[0])),
            report(f"{name}: 2σ coverage of u (.954)", float(scores.coverage_u.mean())),
            report(f"{name}: 2σ coverage of z (.954)", float(scores.coverage_z.mean())),
            report(f"{name}: seconds of training", run.seconds),
        ],
    )


def poisson(fast: bool, seed: int) -> list[Mark]:
    size, problem = FAST if fast else Size(), Poisson()
    references, run, mean_solution, reported = common_rows("Poisson", problem, size, seed)
    rows = [
        below(
            f"Poisson, {size.points} points: median NSE_u",
            median(run),
            mean_solution if fast else 5e-3,
            "< the mean solution's" if fast else None,
        ),
        below(
            f"Poisson, {size.points} points: mean NSE_z",
            float(run.scores.nse_z.mean()),
            1.0 if fast else 0.5,
        ),
    ]
    few = size._replace(points=size.few)
    iid = jax.random.uniform(jax.random.key(seed), (size.few, 1), minval=-1.0, maxval=1.0)
    random = median(train(problem, references, few, seed))
    fixed = median(train(problem, references, few, seed, grid=np.asarray(iid).tolist()))
    least = 2 if fast else 20
    rows += [
        report(f"Poisson, {size.few} points: median NSE_u, random grids", random),
        report(f"Poisson, {size.few} points: median NSE_u, one random grid, kept", fixed),
        Mark(f"Poisson, {size.few} points: kept / random", fixed / random, f">= {least}",
             fixed / random >= least),
    ]  # fmt: skip
    short = few._replace(steps=size.steps if fast else size.steps // 4)
    without = random if fast else median(train(problem, references, short, seed))
    keys = jax.random.split(jax.random.key(2000 + seed))
    others = draw_references(problem, 200, key=keys[0])
    seen = observe(others, 10, noise=NOISE, key=keys[1])
    with_data = median(train(problem, references, short, seed, observations=seen))
    rows += [
        report(f"Poisson, {size.few} points, {short.steps} steps: median NSE_u", without),
        below(
            "... with 200 solutions seen at 10 points off the grid, noise 0.01",
            with_data,
            without,
            "< the former",
        ),
    ]
    if not fast:
        even = np.linspace(-1, 1, size.few + 2)[1:-1, None].tolist()
        spaced = median(train(problem, references, few, seed, grid=even))
        rival_run = train(problem, references, size, seed, deeponet=True)
        rows += [
            report(f"Poisson, {size.few} points: median NSE_u, even grid, kept", spaced),
            below(
                f"Poisson: median NSE_u / DeepONet's ({run.parameters:,} parameters"
                f" to {rival_run.parameters:,})",
                median(run) / median(rival_run),
                1.0,
            ),
            report("Poisson: median NSE_u of the DeepONet", median(rival_run)),
        ]
    return rows + reported


def other(name: str, problem: AbstractProblem, size: Size, seed: int) -> list[Mark]:
    _, run, mean_solution, reported = common_rows(name, problem, size, seed)
    sizes = f"{size.points} points, batch {size.batch}, {size.steps} steps"
    return [
        below(
            f"{name}, {sizes}: median NSE_u",
            median(run),
            mean_solution / 2,
            "< half the mean solution's",
        ),
        below(f"{name}: mean NSE_z", float(run.scores.nse_z.mean()), 1.0),
        *reported,
    ]


def marks(fast: bool = False, seed: int = 0, skip: tuple[str, ...] = ()) -> list[Mark]:
    """All rows, of one seed. The fast ones are of Poisson alone, with easier bounds."""
    rows = poisson(fast, seed)
    if not fast and "burgers" not in skip:
        size = Size(batch=8, points=225, steps=2000, references=32)
        rows += other("Burgers", Burgers(), size, seed)
    if not fast and "cavity" not in skip:
        size = Size(batch=4, points=512, steps=1000, references=32)
        rows += other("Cavity", Cavity(), size, seed)
    return rows


def line(rows: list[Mark]) -> str:
    """One mark over the seeds: the mean and, of several, the range."""
    values = [row.measured for row in rows]
    shown = f"{statistics.mean(values):.3g}"
    if len(values) > 1:
        shown += f" ({min(values):.3g} to {max(values):.3g})"
    verdicts = [row.passed for row in rows if row.passed is not None]
    passed = f"{sum(verdicts)} of {len(verdicts)}" if verdicts else "–"
    return f"| {rows[0].mark} | {shown} | {rows[0].bound} | {passed} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--skip", nargs="*", choices=["burgers", "cavity"], default=[])
    parser.add_argument("--fast", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    by_seed = []
    for seed in options.seeds:
        by_seed.append(marks(options.fast, seed, tuple(options.skip)))
        print("\n".join(f"seed {seed} {row}" for row in by_seed[-1]), flush=True)
    lines = [
        "# Random grid neural processes",
        "",
        f"`python benchmarks/models_random_grid.py`, {datetime.date.today()}, "
        f"seeds {', '.join(map(str, options.seeds))}, {os.cpu_count()} CPU cores "
        f"({platform.machine()}, shared), Python {sys.version.split()[0]}, jax {jax.__version__}.",
        "",
        "Mean over the seeds and range; `pass` counts seeds. NSE is ‖mean − u‖² / ‖u‖² of a problem; "
        "that of u = 0 is 1, and that of the prior mean of z is 1 on average.",
        "",
        "| mark | measured | bound | pass |",
        "| --- | --- | --- | --- |",
        *(line(list(rows)) for rows in zip(*by_seed, strict=True)),
    ]
    print("\n".join(lines))
    if not options.fast:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
