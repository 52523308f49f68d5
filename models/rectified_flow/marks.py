"""Rectified flow: two modes to two modes, round by round; and digits in one step.

The four modes are normals of variance .1, at (0, ±2) and at (3, ±2). The best transport moves each
point by (3, 0), at a cost of 9; independent pairs cost 9 + 2 (4 + .1) + 2 (.1) = 17.4. A round
fits a flow to pairs, and draws the next pairs from it, from fresh points.

- floor: the cost of the best transport of the same points, and a flow of 400 steps;
- baseline: the first round;
- negative control: a second round of the first one's pairs, shuffled.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from ppgen.inference import Chain, Fields, draw_pairs, fit, heun, path_variation, per_batch
from ppgen.models.parts.marks import Mark, above, below, report
from ppgen.models.parts.runs import fit_recipe
from ppgen.models.rectified_flow.model import Velocity, flow_objective
from ppgen.models.rectified_flow.recipe import RectifiedFlowRecipe

BEST = 9.0
ABOUT = (
    "Rounds of 2-D modes: 4,000 pairs, 50 steps of Heun's method to draw them, and a perceptron of "
    "64 units. Costs are of 4,000 fresh points; S is the variation of the path, RMSE the distance "
    "of one Euler step from the flow's own end. Digits: `ppgen fit rectified_flow --distil`; told "
    "apart by the nearest neighbour, half for images of one law."
)


def law(x: float) -> Any:
    """Two modes, one above the other."""
    means = jnp.array([[x, -2.0], [x, 2.0]])
    modes = dist.Normal(means, jnp.sqrt(0.1)).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(jnp.full(2, 0.5)), modes)


def round_of(pairs: Any, key: Any, steps: int, start: Velocity) -> tuple[Velocity, Any]:
    """A flow that is fitted to pairs, and pairs of it."""
    keys, optimizer = jax.random.split(key), optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    objective, (x0s, x1s) = per_batch(lambda v, pair: flow_objective()(v, *pair)), pairs
    data = np.asarray(x1s), np.asarray(x0s)
    options: dict[str, Any] = {"steps": steps, "batch_size": 256}
    flow: Any = fit(objective, start, optimizer, key=keys[0], data=data, **options).params
    return flow, draw_pairs(chain(flow), keys[1], 4000)


def chain(flow: Velocity, steps: int = 50) -> Chain:
    """The flow from the first two modes."""
    fields = heun(lambda x, t: Fields(flow(x, t)))
    return Chain(law(0.0), fields, jnp.linspace(0.0, 1.0, steps + 1))


def looks(flow: Velocity, pairs: Any) -> tuple[float, float, float, float]:
    """Cost of the pairs and its standard error, variation, and error of one step."""
    x0s, x1s = pairs
    cost = np.sum(np.square(x1s - x0s), 1)
    variation = path_variation(
        lambda x, t: Fields(flow(x, t)), x0s[:1000], jnp.linspace(0.0, 1.0, 101)
    )
    once = x0s + jax.vmap(lambda x: flow(x, 0.0))(x0s)
    error = np.sqrt(np.mean(np.sum(np.square(once - x1s), 1)))
    return float(cost.mean()), float(cost.std() / len(cost) ** 0.5), float(variation), float(error)


def marks(fast: bool, seed: int) -> list[Mark]:
    """Three rounds of the modes, and (unless `fast`) a fit of digits."""
    keys = jax.random.split(jax.random.key(seed), 8)
    steps = 1500 if fast else 2000
    pairs = law(0.0).sample(keys[0], (4000,)), law(3.0).sample(keys[1], (4000,))
    independent = float(jnp.mean(jnp.sum((pairs[1] - pairs[0]) ** 2, 1)))
    flow, found, shuffled = Velocity(2, 64, depth=2, key=keys[2]), [], None
    for k in range(3):
        flow, pairs = round_of(pairs, keys[3 + k], steps, flow)
        found.append(looks(flow, pairs))
        if k == 0:
            apart = pairs[0], jax.random.permutation(keys[6], pairs[1])
            shuffled = looks(*round_of(apart, keys[7], steps, flow))
    assert shuffled is not None
    (c1, e1, s1, r1), (c2, e2, s2, r2), (c3, e3, s3, _) = found
    rows = [
        report("cost of the best transport", BEST),
        report("cost of independent pairs", independent),
        report("cost, round 1", c1),
        below("cost, round 2: at most round 1's + 2 standard errors", c2, c1 + 2 * (e1 + e2)),
        below("cost, round 3: at most round 2's + 2 standard errors", c3, c2 + 2 * (e2 + e3)),
        report("S, round 1", s1),
        below("S, round 2 < .05 of round 1's", s2, 0.05 * s1),
        report("S, round 3", s3),
        report("RMSE of one step, round 1", r1),
        below("RMSE of one step, round 2 < .1 of round 1's", r2, 0.1 * r1),
        above("control: S after shuffled pairs ≥ .8 of round 1's", shuffled[2], 0.8 * s1),
    ]
    return rows if fast else rows + digits(seed)


def digits(seed: int) -> list[Mark]:
    """How well digits in one step are told from held-out ones."""
    run = fit_recipe(RectifiedFlowRecipe(distil=True), seed=seed)
    found = {k: row["told apart from images"] for k, row in run.figures().estimates.items()}
    rows = [report(f"digits told apart: {name}", each.mean) for name, each in found.items()]
    name = "digits told apart, one step: reflowed − first flow, < −2 standard errors"
    one, other = found["reflow1, 1 step"], found["flow, 1 step"]
    error = np.hypot(one.standard_error, other.standard_error)
    return [*rows, below(name, one.mean - other.mean, -2 * error)]
