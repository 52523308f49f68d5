"""`ppgen fit gflownet`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from ppgen import inference
from ppgen.models import gflownet
from ppgen.models.parts.bounds import Bounds, Count, Number, Positive, Share
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import Recipe, Stage
from ppgen.models.parts.training import Training


@dataclasses.dataclass(frozen=True)
class GFlowNetRecipe(Recipe):
    """Train a generative flow network to make objects in proportion to their rewards.

    The figures are exact: the law of what is made is found by dynamic programming over all states.
    """

    task: Literal["grid", "subset", "bits"] = "grid"
    """Points of a hypergrid with a mode near each corner; subsets whose items have energies of
    their own; sequences of bits near to some modes."""
    objective: Literal["tb", "db", "subtb", "fl"] = "tb"
    """Trajectory, detailed or sub-trajectory balance; or detailed balance of forward-looking flows,
    which know the energies of unfinished objects."""
    side: Annotated[int, Bounds(1, 64)] = 8
    """Values of a coordinate of the grid."""
    dimensions: Annotated[int, Bounds(1, 6)] = 2
    """Coordinates of the grid."""
    size: Annotated[int, Bounds(1, 16)] = 12
    """Items of a subset."""
    items: Annotated[int, Bounds(1, 16)] = 16
    """Items to choose from."""
    length: Annotated[int, Bounds(1, 14)] = 10
    """Bits of a sequence."""
    hidden: Count = 128
    """Width of the perceptron."""
    depth: Count = 2
    """Its hidden layers."""
    walks: Count = 16
    """Walks in a step."""
    epsilon: Share = 0.1
    """Share of the actions of these walks that are uniform."""
    decay: Positive = 0.9
    """Weight of a further step in sub-trajectory balance."""
    cut: Number = 0
    """Walks are cut after one to so many steps, at random; 0 for whole walks."""

    training: ClassVar[Training] = Training(
        steps=3000, batch_size=1, learning_rate=1e-2, chunk=50, checkpoint_every=1000
    )
    tiny: ClassVar = {"side": 3, "hidden": 8, "walks": 2}

    def check(self):
        if self.task == "subset" and self.size > self.items:
            raise CommandError(f"--size must be at most --items {self.items}, not {self.size}")
        if self.task == "grid" and self.side**self.dimensions > 5000:
            raise CommandError("--side to the power of --dimensions must be at most 5000")

    def load(self):
        if self.task == "grid":
            return gflownet.grid_task(self.side, self.dimensions)
        if self.task == "subset":
            return gflownet.subset_task(self.size, self.items)
        return gflownet.bits_task(self.length)

    def model(self, facts, keys):
        layers = {"hidden": self.hidden, "depth": self.depth, "key": keys[""]}
        return gflownet.FlowNetwork(facts["features"], facts["actions"], **layers)

    def stage(self, name, training):
        import optax

        options = {"epsilon": self.epsilon, "decay": self.decay, "cut": self.cut}
        return Stage(
            gflownet.gflownet_loss(self.load(), self.objective, **options),
            training.optimizer(optax.adam),
            rows=lambda data, model: None,
            each=False,
            draws=self.walks,
            label="squared imbalance",
            unit="nats²",
        )

    def figures(self, run, rows, particles, key):
        from ppgen.models.parts.figures import Figures

        learnt = gflownet.gflownet_policy(self.load(), self.objective)
        found = {}
        for label, policy in {"uniform walks": inference.Policy(), self.objective: learnt}.items():
            distance = gflownet.total_variation(self.load(), policy, run.model)
            found[label] = {"total variation": inference.Estimate(float(distance), 0.0)}
        return Figures("all objects, exactly", {"total variation": 4}, found, {"": {}})

    def sample(self, run, key):
        task, title = self.load(), f"What is made: {self.task}"
        policy = gflownet.gflownet_policy(task, self.objective)
        return gflownet.object_picture(title, task, policy, run.model)

    def pictures(self, run):
        task, title = self.load(), f"The law of what is made: {self.task}, {self.objective}"
        policy = gflownet.gflownet_policy(task, self.objective)
        return {"law": gflownet.law_picture(title, task, policy, run.model)}
