"""Random grid neural processes: random grids against kept ones, and against a DeepONet.

`python benchmarks/models.py --only random_grid` runs it: the nonlinear Poisson problem, Burgers'
equation and the lid-driven cavity. No solution is seen in training unless a row says so. Scored on
problems solved by finite differences.
"""

from __future__ import annotations

import bisect
import functools
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppgen.models.parts.marks import Mark, above, below, report, say
from ppgen.models.parts.networks import DeepONet
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

ABOUT = (
    "NSE is the normalised squared error of a problem: that of u = 0 is 1, and so is that of the "
    "prior mean of z. Every row but those with `seen` in them is of training without any solution. "
    "`random grids` are drawn anew for each problem of each step. The published sizes are those of "
    "the Poisson problem (width 96, 30 points, 32 problems a step, 4,000 steps); Burgers' equation "
    "and the cavity have 32 and 64 points in place of 225 and 512, and many problems instead: of "
    "the same time, on a development seed, that made the error of the cavity a tenth."
)


class Size(NamedTuple):
    """Of networks and training; `few` points are for grids that are compared."""

    width: int = 96
    batch: int = 32
    points: int = 30
    few: int = 8
    steps: int = 4000
    references: int = 64


FAST = Size(width=32, batch=16, points=16, steps=1000, references=16)


def parameters_of(network: Any) -> int:
    """How many numbers it has: of arrays, or of their shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(network) if hasattr(x, "shape"))


def rival(rgnp: RGNP, key: Any) -> DeepONet:
    """A DeepONet of about as many parameters as the network of the solution."""
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
    widths = range(8, 400)
    place = bisect.bisect_left(
        widths, aim, key=lambda n: parameters_of(eqx.filter_eval_shape(make, n))
    )
    found = make(widths[place])
    assert abs(parameters_of(found) / aim - 1) < 0.05, (parameters_of(found), aim)
    return found


class Run(NamedTuple):
    """What training led to."""

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
    began = time.process_time()
    fitted = fit_random_grid(
        rgnp,
        key=keys[2],
        steps=size.steps,
        batch=size.batch,
        observations=observations,
        noise=NOISE,
    )
    seconds = time.process_time() - began
    scores = score(fitted.params, references, key=keys[3])
    run = Run(scores, seconds, parameters_of(rgnp.forward))
    what = ["deeponet"] * deeponet + ["kept grid"] * (grid is not None)
    what += ["observations"] * (observations is not None)
    say(
        f"seed {seed}, {type(problem).__name__}, {size.points} points, {size.steps} steps, "
        f"{', '.join(what) or 'random grids'}: median NSE_u {median(run):.3g}, "
        f"NSE_z {scores.nse_z.mean():.3g}, {seconds:.0f} s"
    )
    return run


def median(run: Run) -> float:
    return float(np.median(run.scores.nse_u))


def trivial(problem: AbstractProblem, references: References, key: Any) -> float:
    """Median NSE_u of the mean over other problems. Zero has 1 for every problem."""
    mean = draw_references(problem, 4 * len(references.z), key=key).u.mean(0).ravel()
    u = jnp.asarray(references.u.reshape(len(references.z), -1))
    return float(np.median(normalized_squared_error(jnp.asarray(mean), u)))


def floor(problem: AbstractProblem, references: References) -> float:
    """Median NSE_u of the reference itself, against one of four times the resolution."""
    count = min(8, len(references.z))
    z, w, ours = (part[:count] for part in (references.z, references.w, references.u))
    finer = [problem.solve(*pair, refine=4)[1].ravel() for pair in zip(z, w, strict=True)]
    errors = normalized_squared_error(
        jnp.asarray(ours.reshape(count, -1)), jnp.asarray(np.stack(finer), ours.dtype)
    )
    return float(np.median(errors))


@functools.cache
def random_grids(problem: AbstractProblem, size: Size, seed: int) -> tuple[References, Run]:
    """The run that others are compared with, and what all of them are scored on."""
    key = jax.random.key(1000 + seed)
    references = draw_references(problem, size.references, key=key)
    return references, train(problem, references, size, seed)


def equation(name: str, problem: AbstractProblem, size: Size, seed: int, most: float) -> list[Mark]:
    """Random grids on one equation: errors forward and inverse, and what they compare with."""
    references, run = random_grids(problem, size, seed)
    scores = run.scores
    sizes = f"{size.points} points, batch {size.batch}, {size.steps} steps"
    mean_solution = trivial(problem, references, jax.random.key(3000 + seed))
    return [
        below(f"{name}, {sizes}: median NSE_u", median(run), most or mean_solution / 2),
        below(f"{name}: mean NSE_z", float(scores.nse_z.mean()), 0.5 if most == 5e-3 else 1.0),
        report(f"{name}: median NSE_z", float(np.median(scores.nse_z))),
        *[
            report(f"{name}: mean squared error of z{i} / its prior variance", float(error))
            for i, error in enumerate(scores.error_z.mean(0), 1)
        ],
        report(f"{name}: mean NSE_u", float(scores.nse_u.mean())),
        report(f"{name}: median NSE_u of the mean solution", mean_solution),
        report(f"{name}: median NSE_u of the reference", floor(problem, references)),
        report(f"{name}: 2σ coverage of u (.954)", float(scores.coverage_u.mean())),
        report(f"{name}: 2σ coverage of z (.954)", float(scores.coverage_z.mean())),
        report(f"{name}: seconds of CPU in training", run.seconds),
    ]


def poisson(size: Size, seed: int) -> list[Mark]:
    return equation("Poisson", Poisson(), size, seed, 0.2 if size == FAST else 5e-3)


def burgers(size: Size, seed: int) -> list[Mark]:
    """Against half of what the mean solution has."""
    smaller = size._replace(width=64, batch=16, points=32, steps=6000, references=32)
    return equation("Burgers", Burgers(), smaller, seed, 0.0)


def cavity(size: Size, seed: int) -> list[Mark]:
    """Against half of what the mean solution has."""
    smaller = size._replace(width=64, batch=8, points=64, steps=5000, references=32)
    return equation("Cavity", Cavity(), smaller, seed, 0.0)


def kept(size: Size, seed: int) -> list[list[float]]:
    """Points that are drawn once."""
    key = jax.random.key(seed)
    return np.asarray(jax.random.uniform(key, (size.few, 1), minval=-1.0, maxval=1.0)).tolist()


def grids(size: Size, seed: int) -> list[Mark]:
    """The negative control."""
    few = size._replace(points=size.few)
    references, run = random_grids(Poisson(), few, seed)
    name, least = f"Poisson, {size.few} points: median NSE_u", 2 if size == FAST else 20
    random = median(run)
    drawn = median(train(Poisson(), references, few, seed, grid=kept(size, seed)))
    rows = [
        report(f"{name}, random grids", random),
        report(f"{name}, one random grid, kept", drawn),
        above(f"Poisson, {size.few} points: kept / random", drawn / random, least),
    ]
    if size != FAST:
        even = np.linspace(-1, 1, size.few + 2)[1:-1, None].tolist()
        spaced = median(train(Poisson(), references, few, seed, grid=even))
        rows += [
            report(f"{name}, an even grid, kept", spaced),
            report(f"Poisson, {size.few} points: even / random", spaced / random),
        ]
    return rows


def data(size: Size, seed: int) -> list[Mark]:
    """Observations off the grid, in the first quarter of the training."""
    few = size._replace(points=size.few, steps=size.steps // 4)
    references, run = random_grids(Poisson(), few, seed)
    keys = jax.random.split(jax.random.key(2000 + seed))
    others = draw_references(Poisson(), 1000, key=keys[0])
    seen = observe(others, 30, noise=NOISE, key=keys[1])
    rows = []
    for grid, what in ((None, "random grids"), (kept(size, seed), "one random grid, kept")):
        alone = run if grid is None else train(Poisson(), references, few, seed, grid=grid)
        runs = [alone, train(Poisson(), references, few, seed, grid=grid, observations=seen)]
        name = f"Poisson, {size.few} points, {few.steps} steps, {what}"
        with_data = f"{name}, and 1,000 solutions seen at 30 points, noise {NOISE}"
        rows += [
            report(f"{name}: median NSE_u", median(runs[0])),
            below(f"{with_data}: median NSE_u", *map(median, runs[::-1])),
            report(f"{name}: mean NSE_u", float(runs[0].scores.nse_u.mean())),
            report(f"{with_data}: mean NSE_u", float(runs[1].scores.nse_u.mean())),
        ]
    return rows


def deeponet(size: Size, seed: int) -> list[Mark]:
    references, ours = random_grids(Poisson(), size, seed)
    theirs = train(Poisson(), references, size, seed, deeponet=True)
    return [
        report(f"Poisson: median NSE_u of {ours.parameters:,} parameters, GICNet", median(ours)),
        report(f"Poisson: that of {theirs.parameters:,} parameters, DeepONet", median(theirs)),
        report("Poisson: seconds of CPU in training, DeepONet", theirs.seconds),
        below("Poisson: GICNet / DeepONet", median(ours) / median(theirs), 1.0),
    ]


PARTS = {f.__name__: f for f in (poisson, grids, data, deeponet, burgers, cavity)}


def marks(fast: bool = False, seed: int = 0, parts: Sequence[str] = tuple(PARTS)) -> list[Mark]:
    """All rows, of one seed.

    The fast ones are of the first two parts, at smaller sizes: on the Poisson problem, a median
    NSE_u below .2, a mean NSE_z below 1, and a kept grid twice as bad as random ones.
    """
    names, size = (("poisson", "grids"), FAST) if fast else (parts, Size())
    rows = []
    for name in names:
        start = time.process_time()
        rows += PARTS[name](size, seed)
        say(f"{name}, seed {seed}: {time.process_time() - start:.0f} s of CPU")
    return rows
