"""Two numbers: a model in one file, which the tests give by its path, or as another package's."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppgen.models.parts.recipe import Picture, Recipe, Stage
from ppgen.models.parts.training import Training


@dataclasses.dataclass(frozen=True)
class Numbers:
    train: object
    held_out: object

    def facts(self):
        return {"rows": len(self.train)}


@dataclasses.dataclass(frozen=True)
class TwoStages(Recipe):
    """First the mean of numbers, and then that of their distances from it."""

    scale: float = 1.0
    """Of the numbers."""

    training: ClassVar[Training] = Training(
        steps=4, batch_size=5, learning_rate=0.1, chunk=2, checkpoint_every=2
    )
    stages: ClassVar[tuple[str, ...]] = ("mean", "distance")

    def load(self):
        import numpy as np

        numbers = self.scale * np.arange(20, dtype=np.float32)
        return Numbers(numbers, numbers[:2])

    def model(self, facts, keys):
        import jax.numpy as jnp

        assert list(keys) == ["mean", "distance"]
        return {"mean": jnp.zeros(()), "distance": jnp.zeros(())}

    def stage(self, name, training):
        import jax.numpy as jnp
        import optax

        def objective(model, row):
            goal = row if name == "mean" else jnp.abs(row - model["mean"])
            return (model[name] - goal) ** 2

        return Stage(objective, optax.sgd(training.learning_rate), part=lambda model: model[name])

    def figures(self, run, rows, particles, key):
        from ppgen.inference import Estimate
        from ppgen.models.parts.figures import Figures

        both = {"both": {"units": Estimate(float(run.model["distance"]), 0.0)}}
        return Figures("20 numbers", {"units": 6}, both)

    def sample(self, run, key):
        def draw(path, samples, title):
            path.write_text(f"{len(samples)} of {run.facts['rows']}")

        return Picture("the mean", lambda: run.model["mean"], draw)
