"""Order-preserving flow networks: the front of Branin and Currin, against weighed scores.

`python benchmarks/models.py --only order_gflownet` runs it, on a grid of 16 by 16 points. Figures
are exact.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppgen import inference
from ppgen.models import order_gflownet as room
from ppgen.models.order_gflownet.recipe import OrderGFlowNetRecipe
from ppgen.models.parts.marks import Mark, above, below, report, say
from ppgen.models.parts.runs import fit_recipe

ABOUT = (
    "`mass` is the probability of the front, `coverage` one less the total variation from the "
    "uniform law on it; of both the best is 1. Baselines are told weights of the scores, and have "
    "rewards exp(β w·scores): the mean over 11 weights, of policies with as many walks and steps. "
    "The control has scores that are shuffled among the points."
)


@dataclasses.dataclass(frozen=True)
class Shuffled(OrderGFlowNetRecipe):
    """The control: orders of scores that are other points'."""

    def stage(self, name, training):  # noqa: D102
        stage, task = super().stage(name, training), self.load()
        of_points = task.all_scores()
        half = len(of_points)
        shuffled = of_points[np.random.RandomState(0).permutation(half)]
        loss = inference.order_loss(
            task.dag,
            room.order_policy(task.dag),
            lambda s: shuffled[task.dag.index(s) - half],
            batch=self.walks,
            behaviour=inference.epsilon_uniform(self.epsilon),
        )
        return dataclasses.replace(stage, objective=loss)


def marks(fast: bool, seed: int) -> list[Mark]:
    """A fit, baselines that weigh the scores, and the control."""
    recipe, steps = OrderGFlowNetRecipe(), 2000
    betas = (4.0, 16.0, 64.0)
    if fast:
        recipe, steps, betas = OrderGFlowNetRecipe(side=8, hidden=64, walks=64), 600, (16.0,)
    task, kinds = recipe.load(), (recipe, Shuffled(**dataclasses.asdict(recipe)))
    found = []
    for kind in kinds:
        run = fit_recipe(kind, seed=seed, steps=steps)
        law = inference.terminal_law(task.dag, room.order_policy(task.dag))(run.model)
        found.append(room.front_scores(task, law))
        say(f"seed {seed}, {type(kind).__name__}: {found[-1]}")
    (mass, coverage), (shuffled, _) = found
    weighed = {beta: baseline(task, recipe, beta, seed, steps) for beta in betas}
    return [
        report("points of the front", jnp.sum(task.front())),
        above("mass", mass, 0.8 if fast else 0.95),
        above("coverage", coverage, 0.6 if fast else 0.9),
        *(report(f"mass, weighed, β = {beta:g}", x.mass) for beta, x in weighed.items()),
        *(report(f"coverage, weighed, β = {beta:g}", x.coverage) for beta, x in weighed.items()),
        above("mass, more than the best β", mass - max(x.mass for x in weighed.values()), 0.2),
        below("control: mass with shuffled scores", shuffled, 0.3),
    ]


def baseline(
    task: room.OrderTask, recipe: OrderGFlowNetRecipe, beta: float, seed: int, steps: int
) -> room.FrontScores:
    """The scores of a policy that is told weights, of the mean of its laws over weights."""
    import optax

    key = jax.random.key(seed)
    layers = (task.dag, recipe.hidden, recipe.depth)
    net = room.OrderNetwork(*layers, told=2, key=key)
    loss = room.weighed_loss(task, beta, recipe.epsilon)
    optimizer = dataclasses.replace(recipe.training, steps=steps).optimizer(optax.adam)
    fitted = inference.fit(
        loss, net, optimizer, key=key, steps=steps, draws=recipe.walks, progress=False
    )
    law = inference.terminal_law(task.dag, room.weighed_policy(task.dag))
    first = jnp.linspace(0.0, 1.0, 11)
    weights = jnp.stack([first, 1 - first], -1)
    each = eqx.filter_vmap(law, in_axes=(None, 0))(fitted.params, weights)
    scores = room.front_scores(task, jnp.mean(each, 0))
    say(f"seed {seed}, β = {beta}: {scores}")
    return scores
