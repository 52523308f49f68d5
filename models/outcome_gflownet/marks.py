"""Outcome-conditioned flow networks: success, and the law after adaptation to a reward.

`python benchmarks/models.py --only outcome_gflownet` runs it, on a grid of 8 by 8 points. Figures
are exact.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax

from ppgen import inference
from ppgen.models import outcome_gflownet as room
from ppgen.models.outcome_gflownet.recipe import OutcomeGFlowNetRecipe
from ppgen.models.parts.marks import Mark, above, below, report, say
from ppgen.models.parts.runs import fit_recipe

ABOUT = (
    "Total variations are from the law of the rewards, which pre-training did not see; their floor "
    "is 0. The baseline is trained for the reward from scratch, by detailed balance, for as many "
    "steps. The control is pre-trained on walks that reach their outcome only. That adaptation of "
    "an exact policy is exact, whatever the reward, is a test and not a mark."
)


@dataclasses.dataclass(frozen=True)
class WithoutContrast(OutcomeGFlowNetRecipe):
    """The control."""

    def stage(self, name, training):  # noqa: D102
        stage = super().stage(name, training)
        loss = room.outcome_loss(self.load().dag, failure=self.failure, contrast=False)
        return dataclasses.replace(stage, objective=lambda model: loss(model.flows))


def marks(fast: bool, seed: int) -> list[Mark]:
    """A fit in two stages, the control, and a policy from scratch."""
    options = {"side": 4, "hidden": 64} if fast else {}
    steps = 1000 if fast else OutcomeGFlowNetRecipe.training.steps
    recipe = OutcomeGFlowNetRecipe(**options)
    run, task = fit_recipe(recipe, seed=seed, steps=steps), recipe.load()
    rows = run.figures().estimates
    found = {k: x["total variation"].mean for k, x in rows.items() if "total variation" in x}
    say(f"seed {seed}: {found}, success {rows['told an outcome']['success'].mean:.3f}")
    control = fit_recipe(WithoutContrast(**options), seed=seed, steps=steps, stages=["outcomes"])
    of_control = room.total_variation(task, room.adapted(task), control.model.flows)
    return [
        report("uniform walks", found["uniform walks"]),
        report("from scratch", scratch(task, recipe, seed, steps)),
        above("success", rows["told an outcome"]["success"].mean, 0.9),
        below("sum over outcomes", found["sum over outcomes"], 0.12),
        report("amortised", found["amortised"]),
        below("amortised, from the sum", between(task, run.model), 0.02),
        above("control: without contrast", of_control, 0.12),
    ]


def between(task: room.OutcomeTask, model: room.OutcomeStages) -> float:
    """The total variation between the laws by the sum and by the network in its place."""
    by_sum = inference.terminal_law(task.dag, room.adapted(task))(model.flows)
    law = inference.terminal_law(task.dag, room.amortised(task))(model.amortiser)
    return float(0.5 * abs(law - by_sum).sum())


def scratch(task: room.OutcomeTask, recipe: OutcomeGFlowNetRecipe, seed: int, steps: int) -> float:
    """The total variation of a policy that is trained for the reward alone."""
    import optax

    dag, rewards = task.dag, task.log_rewards()
    layers = (dag.side * 2, dag.actions + 1, recipe.hidden, recipe.depth, jax.nn.leaky_relu)
    policy = inference.Policy(
        lambda net, s: net(dag.features(s))[:-1], log_flow=lambda net, s: net(dag.features(s))[-1]
    )
    loss = inference.balance(
        dag,
        policy,
        lambda s: -rewards[dag.index(s) - len(rewards)],
        over="transition",
        behaviour=inference.epsilon_uniform(0.1),
    )
    key = jax.random.key(seed)
    optimizer = dataclasses.replace(recipe.training, steps=steps).optimizer(optax.adam)
    net = eqx.nn.MLP(*layers, key=key)
    fitted = inference.fit(
        loss, net, optimizer, key=key, steps=steps, draws=recipe.walks, progress=False
    )
    return float(room.total_variation(task, policy, fitted.params))
