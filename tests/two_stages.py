"""Two numbers: a model in one file, which the tests give by its path, or as another package's."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppgen.models.parts.recipe import AbstractRecipe, Report, Stage
from ppgen.models.parts.training import Training


@dataclasses.dataclass(frozen=True)
class TwoStages(AbstractRecipe):
    """First the mean of numbers, and then that of their distances from it."""

    scale: float = 1.0
    """Of the numbers."""

    training: ClassVar[Training] = Training(
        steps=4, batch_size=5, learning_rate=0.1, chunk=2, checkpoint_every=2
    )
    evaluation_particles: ClassVar[int] = 1
    stages: ClassVar[tuple[str, ...]] = ("mean", "distance")

    def check(self):
        pass

    def load(self):
        import numpy as np

        return self.scale * np.arange(20, dtype=np.float32)

    def facts(self, data):
        return {"rows": len(data)}

    def params(self, stage, facts, key):
        import jax.numpy as jnp

        return {stage: jnp.zeros(())}

    def stage(self, name, training, params, data, fitted):
        import jax.numpy as jnp
        import numpy as np
        import optax

        assert list(fitted) == ["mean", "distance"][: self.stages.index(name)]
        if name == "distance":
            data = np.abs(data - np.asarray(fitted["mean"]["mean"]))
        return Stage(
            lambda params, rows: jnp.mean((params[name] - rows) ** 2),
            params,
            optax.sgd(training.learning_rate),
            data,
        )

    def evaluate(self, data, fitted, *, particles, split, key):
        from ppgen.inference import Estimate

        values = [Estimate(float(fitted[name][name]), 0.0) for name in self.stages]
        return Report("held out: 20 numbers", [("units", 6)], [("both", values[1:])], {})

    def sample(self, path, facts, fitted, *, count, key):
        path.write_text(f"{count} of {facts['rows']}")

    def pictures(self, folder, data, fitted, key):
        pass
