"""Random grid neural processes: random grids against kept ones, and against a DeepONet.

`python benchmarks/models.py --only random_grid` runs it: the nonlinear Poisson problem, Burgers'
equation and the lid-driven cavity. No solution is seen in training unless a row says so. Scored on
problems solved by finite differences.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppgen.models import random_grid as room
from ppgen.models.parts.marks import Mark, above, below, report, say
from ppgen.models.parts.networks import DeepONet
from ppgen.models.parts.runs import fit_recipe, fresh
from ppgen.models.random_grid.recipe import RandomGridRecipe

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
    """Sizes of networks and training; `few` points are for comparisons of grids."""

    width: int = 96
    batch: int = 32
    points: int = 30
    few: int = 8
    steps: int = 4000
    references: int = 64


PAIRS = 4
"""Fits with and without observed solutions that are compared, for each seed."""

FAST = Size(width=32, batch=16, points=16, steps=1000, references=16)
SIZES = {
    "burgers": {"width": 64, "batch": 16, "points": 32, "steps": 6000, "references": 32},
    "cavity": {"width": 64, "batch": 8, "points": 64, "steps": 5000, "references": 32},
}
"""Sizes for equations other than the Poisson problem, where they differ."""


def parameters_of(network: Any) -> int:
    """The number of parameters, of arrays or of their shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(network) if hasattr(x, "shape"))


def rival(rgnp: room.RGNP, key: Any) -> DeepONet:
    """A DeepONet of about as many parameters as the network of the solution."""

    def make(width: int) -> DeepONet:
        return room.deep_operator(rgnp.problem, rank=rgnp.rank, width=width, key=key)

    def size(width: int) -> int:
        return parameters_of(eqx.filter_eval_shape(make, width))

    widths, aim = range(8, 400), parameters_of(rgnp.forward)
    found = make(widths[bisect.bisect_left(widths, aim, key=size)])
    assert abs(parameters_of(found) / aim - 1) < 0.05, (parameters_of(found), aim)
    return found


class Trained(NamedTuple):
    """The result of training; the error is the median NSE_u."""

    scores: room.Scores
    error: float
    seconds: float
    parameters: int


def train(
    equation: Any,
    references: room.References,
    size: Size,
    seed: int,
    *,
    even: bool = False,
    deeponet: bool = False,
    seen: tuple[Any, ...] = (),
    **options: Any,
) -> Trained:
    """Fits the recipe from the same initial weights, except for those that differ in shape."""
    recipe = RandomGridRecipe(equation=equation, points=size.points, width=size.width, **options)
    training: dict[str, Any] = {"seed": seed, "steps": size.steps, "batch_size": size.batch}
    model = fresh(recipe, dataclasses.replace(recipe.training, **training), {})
    if deeponet:
        model = eqx.tree_at(lambda r: r.forward, model, rival(model, jax.random.key(seed)))
    if even:
        networks = model.forward, model.backward
        grid = np.linspace(-1, 1, size.points + 2)[1:-1, None].tolist()
        model = room.RGNP(model.problem, grid=grid, key=jax.random.key(seed))
        model = eqx.tree_at(lambda r: (r.forward, r.backward), model, networks)
    began = time.process_time()
    run = fit_recipe(recipe, data=room.Problems(references, *seen), model=model, **training)
    seconds = time.process_time() - began
    scores = room.score(run.model, references, key=jax.random.key(4000 + seed))
    error = float(np.median(scores.nse_u))
    what = ["even grid"] * even + ["deeponet"] * deeponet + [f"{k} {v}" for k, v in options.items()]
    say(
        f"seed {seed}, {', '.join([equation, *what])}, {size.points} points, {size.steps} steps: "
        f"median NSE_u {error:.3g}, NSE_z {scores.nse_z.mean():.3g}, {seconds:.0f} s"
    )
    return Trained(scores, error, seconds, parameters_of(run.model.forward))


def drawn(equation: Any, number: int, key: int) -> room.References:
    problem = RandomGridRecipe(equation=equation).problem()
    return room.draw_references(problem, number, key=jax.random.key(key))


def floor(equation: Any, references: room.References) -> float:
    """Median NSE_u of the reference itself, against one of four times the resolution."""
    solve = RandomGridRecipe(equation=equation).problem().solve
    pairs = list(zip(references.z, references.w, strict=True))[:8]
    finer = np.stack([solve(*pair, refine=4)[1] for pair in pairs]).reshape(len(pairs), -1)
    ours = jnp.asarray(references.u[: len(pairs)].reshape(finer.shape))
    return float(np.median(room.normalized_squared_error(ours, jnp.asarray(finer, ours.dtype))))


@functools.cache
def random_grids(equation: str, size: Size, seed: int) -> tuple[room.References, Trained]:
    """The run with which others are compared, and the references on which all are scored."""
    references = drawn(equation, size.references, 1000 + seed)
    return references, train(equation, references, size, seed)


def solves(equation: str, size: Size, seed: int) -> list[Mark]:
    """Random grids on one equation: errors forward and inverse, with floor and baseline."""
    size = size._replace(**SIZES.get(equation, {}))
    references, run = random_grids(equation, size, seed)
    scores, name = run.scores, equation.capitalize()
    others = drawn(equation, 4 * len(references.z), 3000 + seed)
    mean_solution = float(np.median(room.mean_solution_error(references, others)))
    most = {Size(): (5e-3, 0.5), FAST: (0.2, 1.0)}.get(size, (mean_solution / 2, 1.0))
    sizes = f"{size.points} points, batch {size.batch}, {size.steps} steps"
    return [
        below(f"{name}, {sizes}: median NSE_u", run.error, most[0]),
        below(f"{name}: mean NSE_z", scores.nse_z.mean(), most[1]),
        report(f"{name}: median NSE_z", np.median(scores.nse_z)),
        *[
            report(f"{name}: mean squared error of z{i} / its prior variance", error)
            for i, error in enumerate(scores.error_z.mean(0), 1)
        ],
        report(f"{name}: mean NSE_u", scores.nse_u.mean()),
        report(f"{name}: median NSE_u of the mean solution", mean_solution),
        report(f"{name}: median NSE_u of the reference", floor(equation, references)),
        report(f"{name}: 2σ coverage of u (.954)", scores.coverage_u.mean()),
        report(f"{name}: 2σ coverage of z (.954)", scores.coverage_z.mean()),
        report(f"{name}: seconds of CPU in training", run.seconds),
    ]


def grids(size: Size, seed: int) -> list[Mark]:
    """The negative control."""
    few = size._replace(points=size.few)
    references, run = random_grids("poisson", few, seed)
    name = f"Poisson, {size.few} points"
    kept = train("poisson", references, few, seed, grid="kept").error
    rows = [
        report(f"{name}: median NSE_u, random grids", run.error),
        report(f"{name}: median NSE_u, one random grid, kept", kept),
        above(f"{name}: kept / random", kept / run.error, 2 if size == FAST else 20),
    ]
    if size != FAST:
        spaced = train("poisson", references, few, seed, even=True).error
        rows += [
            report(f"{name}: median NSE_u, an even grid, kept", spaced),
            report(f"{name}: even / random", spaced / run.error),
        ]
    return rows


def data(size: Size, seed: int) -> list[Mark]:
    """Observations off the grid, in the first quarter of the training.

    Beside random grids the ratio of the errors of one pair of fits, with and without observations,
    varies between pairs by a factor of 1.35 (one standard deviation), about as much as it differs
    from one. So several pairs are compared, problem by problem, and the standard error is that
    between pairs. The two fits of a pair have the same initial weights.
    """
    few = size._replace(points=size.few, steps=size.steps // 4, references=4 * size.references)
    references = drawn("poisson", few.references, 1000 + seed)
    others = drawn("poisson", 1000, 2000 + seed)
    seen = others, room.observe(others, 30, noise=NOISE, key=jax.random.key(5000 + seed))
    observed = {"observed": len(others.z), "noise": NOISE, "seen": seen}
    rows = []
    for grid, what, count in (("random", "random grids", PAIRS), ("kept", "one grid, kept", 1)):
        seeds = [seed + 1000 * i for i in range(count)]
        alone = [train("poisson", references, few, s, grid=grid) for s in seeds]
        both = [train("poisson", references, few, s, grid=grid, **observed) for s in seeds]
        name = f"Poisson, {size.few} points, {few.steps} steps, {what}"
        with_data = f"{name}, and 1,000 solutions seen at 30 points, noise {NOISE}"
        for title, runs in ((name, alone), (with_data, both)):
            rows += [
                report(f"{title}: median NSE_u", np.mean([run.error for run in runs])),
                report(f"{title}: mean NSE_u", np.mean([run.scores.nse_u for run in runs])),
            ]
        ratio, error = ratio_of_errors(both, alone)
        title = f"{name}: NSE_u with solutions seen / without, geometric mean"
        rows.append(below(title, ratio, 1.0))
        if count > 1:
            rows.append(report(f"{name}: standard error of its logarithm, {count} pairs", error))
    return rows


def ratio_of_errors(ours: Sequence[Trained], theirs: Sequence[Trained]) -> tuple[float, float]:
    """Ratio of NSE_u, a geometric mean over pairs of fits and problems.

    Returns:
        The ratio, and the standard error of its logarithm between pairs: NaN for one pair.
    """
    pairs = zip(ours, theirs, strict=True)
    logs = [np.mean(np.log(a.scores.nse_u / b.scores.nse_u)) for a, b in pairs]
    error = np.std(logs, ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    return math.exp(np.mean(logs)), float(error)


def deeponet(size: Size, seed: int) -> list[Mark]:
    references, ours = random_grids("poisson", size, seed)
    theirs = train("poisson", references, size, seed, deeponet=True)
    return [
        report(f"Poisson: median NSE_u of {ours.parameters:,} parameters, GICNet", ours.error),
        report(f"Poisson: that of {theirs.parameters:,} parameters, DeepONet", theirs.error),
        report("Poisson: seconds of CPU in training, DeepONet", theirs.seconds),
        below("Poisson: GICNet / DeepONet", ours.error / theirs.error, 1.0),
    ]


PARTS: dict[str, Callable[[Size, int], list[Mark]]] = {
    "poisson": functools.partial(solves, "poisson"),
    **{part.__name__: part for part in (grids, data, deeponet)},
    "burgers": functools.partial(solves, "burgers"),
    "cavity": functools.partial(solves, "cavity"),
}


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
