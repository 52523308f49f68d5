"""`ppgen fit outcome_gflownet`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from ppgen import inference
from ppgen.models import outcome_gflownet as room
from ppgen.models.parts.bounds import Bounds, Count
from ppgen.models.parts.recipe import Recipe, Stage, image_picture
from ppgen.models.parts.training import Training


@dataclasses.dataclass(frozen=True)
class OutcomeGFlowNetRecipe(Recipe):
    """Pre-train a policy that reaches any outcome of a grid, and adapt it to a reward.

    Pre-training sees no reward. The sum over outcomes needs no training; in a second stage a
    network learns to take its place.
    """

    side: Annotated[int, Bounds(2, 16)] = 8
    """Values of each of two coordinates."""
    failure: Annotated[float, Bounds(0, 1, inside=True)] = 1e-3
    """Reward of an end that is not the outcome that was asked for."""
    hidden: Count = 128
    """Width of the perceptrons."""
    depth: Count = 2
    """Their hidden layers."""
    walks: Count = 16
    """Walks of each kind in a step."""

    training: ClassVar[Training] = Training(
        steps=3000, batch_size=1, learning_rate=1e-2, chunk=50, checkpoint_every=1000
    )
    stages: ClassVar[tuple[str, ...]] = ("outcomes", "amortiser")
    tiny: ClassVar = {"side": 2, "hidden": 8, "walks": 2}

    def load(self):
        return room.OutcomeTask(inference.Hypergrid(self.side, 2))

    def model(self, facts, keys):
        dag, layers = inference.Hypergrid(facts["side"], 2), (self.hidden, self.depth)
        return room.OutcomeStages(
            room.OutcomeFlows(dag, *layers, key=keys["outcomes"]),
            room.Amortiser(dag, *layers, key=keys["amortiser"]),
        )

    def stage(self, name, training):
        import optax

        task, first = self.load(), name == "outcomes"
        of_flows = room.outcome_loss(task.dag, failure=self.failure)
        return Stage(
            (lambda model: of_flows(model.flows)) if first else room.amortiser_loss(task),
            training.optimizer(optax.adam),
            rows=lambda data, model: None,
            part=lambda model: model.flows if first else model.amortiser,
            each=False,
            draws=self.walks,
            label="squared imbalance" if first else "squared error",
            unit="nats²",
        )

    def figures(self, run, rows, particles, key):
        from ppgen.models.parts.figures import Figures

        task, found = self.load(), {}
        for label, policy, params in (
            ("uniform walks", inference.Policy(), None),
            ("sum over outcomes", room.adapted(task), run.model.flows),
            ("amortised", room.amortised(task), run.model.amortiser),
        ):
            distance = float(room.total_variation(task, policy, params))
            found[label] = {"total variation": inference.Estimate(distance, 0.0)}
        reached = inference.Estimate(float(room.success(task, run.model.flows)), 0.0)
        found["told an outcome"] = {"success": reached}
        units, levels = {"total variation": 4, "success": 4}, dict.fromkeys(self.stages, {})
        return Figures("all objects, exactly", units, found, levels)

    def sample(self, run, key):
        task = self.load()
        draw = inference.walk(task.dag, room.adapted(task))
        shape = (2, self.side)
        return image_picture(
            "Coordinates of points, for the reward",
            lambda: task.dag.features(draw(run.model.flows).end).reshape(shape),
            shape,
        )
