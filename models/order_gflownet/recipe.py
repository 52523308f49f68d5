"""`ppgen fit order_gflownet`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from ppgen import inference
from ppgen.models import order_gflownet as room
from ppgen.models.parts.bounds import Bounds, Count, Share
from ppgen.models.parts.recipe import Recipe, Stage, point_picture
from ppgen.models.parts.training import Training


@dataclasses.dataclass(frozen=True)
class OrderGFlowNetRecipe(Recipe):
    """Train a flow network to find the best trade-offs of two scores on a grid.

    It is never told how to weigh them. The figures are exact.
    """

    side: Annotated[int, Bounds(2, 32)] = 16
    """Values of each of two coordinates."""
    hidden: Count = 128
    """Width of the perceptron."""
    depth: Count = 2
    """Its hidden layers."""
    walks: Annotated[int, Bounds(2)] = 128
    """Walks that are compared with each other."""
    epsilon: Share = 0.1
    """Share of the actions of these walks that are uniform."""

    training: ClassVar[Training] = Training(
        steps=2000, batch_size=1, learning_rate=3e-3, chunk=50, checkpoint_every=1000
    )
    tiny: ClassVar = {"side": 3, "hidden": 8, "walks": 4}

    def load(self):
        return room.OrderTask(inference.Hypergrid(self.side, 2))

    def model(self, facts, keys):
        dag = inference.Hypergrid(facts["side"], 2)
        return room.OrderNetwork(dag, self.hidden, self.depth, key=keys[""])

    def stage(self, name, training):
        import optax

        task = self.load()
        loss = inference.order_loss(
            task.dag,
            room.order_policy(task.dag),
            task.scores,
            batch=self.walks,
            behaviour=inference.epsilon_uniform(self.epsilon),
        )
        return Stage(
            loss,
            training.optimizer(optax.adam),
            rows=lambda data, model: None,
            each=False,
            label="cross-entropy of a batch",
            unit="nats",
        )

    def figures(self, run, rows, particles, key):
        from ppgen.models.parts.figures import Figures

        task, found = self.load(), {}
        learnt = room.order_policy(task.dag)
        for label, policy in {"uniform walks": inference.Policy(), "orders": learnt}.items():
            law = inference.terminal_law(task.dag, policy)(run.model)
            scores = room.front_scores(task, law)._asdict()
            found[label] = {k: inference.Estimate(float(x), 0.0) for k, x in scores.items()}
        return Figures("all objects, exactly", {"mass": 4, "coverage": 4}, found, {"": {}})

    def sample(self, run, key):
        task = self.load()
        draw = inference.walk(task.dag, room.order_policy(task.dag))
        program = lambda: task.scores(draw(run.model).end)  # noqa: E731
        return point_picture(
            "Scores of what is made", program, labels=("Branin, negated", "Currin")
        )

    def pictures(self, run):
        return {"front": room.front_picture("The best trade-offs", self.load(), run.model)}
