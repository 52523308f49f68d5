"""Generative flow networks: forward-looking flows against detailed and trajectory balance.

`python benchmarks/models.py --only gflownet` runs it: subsets of 12 of 16 items whose energies add
up. Every figure is a total variation from the true law, exactly.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx

from ppgen import inference
from ppgen.models import gflownet as room
from ppgen.models.gflownet.recipe import GFlowNetRecipe
from ppgen.models.parts.marks import Mark, above, below, report, say
from ppgen.models.parts.runs import fit_recipe

ABOUT = (
    "Total variations are from the true law of all objects, by dynamic programming: their floor is "
    "0. `cut` walks end after 1 to 12 steps, so that one in twelve is whole; of `unfinished` ones "
    "the last step is never seen. The control learns the flow of terminal states too, instead of "
    "having it from their energy."
)


FULL = ({"task": "subset", "size": 12, "items": 16}, 500, 3000)
FAST = ({"task": "subset", "size": 6, "items": 8, "hidden": 32}, 300, 600)
"""The task; steps of short fits, and of long ones."""


@dataclasses.dataclass(frozen=True)
class WithoutBoundary(GFlowNetRecipe):
    """The control: a network takes part in the flow of terminal states."""

    def stage(self, name, training):  # noqa: D102
        stage, task = super().stage(name, training), self.load()
        policy = room.gflownet_policy(task, "fl")

        def objective(net):
            energy = lambda s: task.energy(s) - net.log_flow(task.dag.features(s))  # noqa: E731
            behaviour = inference.epsilon_uniform(self.epsilon)
            loss = inference.balance(
                task.dag, policy, energy, over="transition", behaviour=behaviour
            )
            return loss(net)

        return dataclasses.replace(stage, objective=objective)


def marks(fast: bool, seed: int) -> list[Mark]:
    """Fits with whole, cut and unfinished walks, and without the boundary."""
    sizes, short, long = FAST if fast else FULL
    options: dict[str, Any] = sizes
    size, task = options["size"], GFlowNetRecipe(**options).load()

    def distance(objective: Any, steps: int, kind: Any = GFlowNetRecipe, **other: Any) -> float:
        recipe = kind(**options, objective=objective, **other)
        run = fit_recipe(recipe, seed=seed, steps=steps)
        policy = room.gflownet_policy(task, objective)
        found = float(eqx.filter_jit(room.total_variation)(task, policy, run.model))
        say(f"seed {seed}, {kind.__name__} {objective}, {steps} steps, {other}: {found:.4f}")
        return found

    uniform = room.total_variation(task, inference.Policy(), None)
    whole = {name: distance(name, short) for name in ("db", "tb", "fl")}
    bounds = (0.1, 1.0, 0.8) if fast else (0.03, 0.6, 0.6)
    cut = {name: distance(name, short, cut=size) for name in ("db", "fl")}
    unfinished = {name: distance(name, long, cut=size - 1) for name in ("db", "fl")}
    return [
        report("uniform walks", uniform),
        *(report(f"{name}, whole walks, {short} steps", x) for name, x in whole.items()),
        below(f"fl, whole walks, {long} steps", distance("fl", long), bounds[0]),
        *(report(f"{name}, cut walks, {short} steps", x) for name, x in cut.items()),
        below("fl / db, cut walks", cut["fl"] / cut["db"], bounds[1]),
        *(report(f"{name}, unfinished walks, {long} steps", x) for name, x in unfinished.items()),
        below(
            "fl / db, unfinished walks", unfinished["fl"] / unfinished["db"], 0.8 if fast else 0.6
        ),
        above("control: fl without the boundary", distance("fl", long, WithoutBoundary), 0.15),
    ]
