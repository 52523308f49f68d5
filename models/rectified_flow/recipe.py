"""`ppgen fit rectified_flow`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

import ppgen
from ppgen import inference
from ppgen.models import rectified_flow as room
from ppgen.models.parts import data as datasets
from ppgen.models.parts.bounds import Count, Number
from ppgen.models.parts.options import ImageSource
from ppgen.models.parts.recipe import Recipe, Stage, image_picture
from ppgen.models.parts.training import Training

STEPS = (1, 2, 4, 16)
"""Euler steps of the samples in figures and pictures."""


@dataclasses.dataclass(frozen=True)
class RectifiedFlowRecipe(Recipe):
    """Train a rectified flow on images, and reflow it to sample in few steps."""

    reflow: Number = 1
    """How often to fit a flow to the pairs of noise and images that the one before makes."""
    distil: bool = False
    """Whether to distil the last flow to one step, at the end."""
    pairs: Count = 10_000
    """Pairs to draw for each of these."""
    pair_steps: Count = 50
    """Steps of Heun's method to draw them; of sampling, Euler's."""
    hidden: Count = 256
    """Width of the hidden layers."""
    data: ImageSource = None

    training: ClassVar[Training] = Training(
        steps=4000, batch_size=128, learning_rate=1e-3, chunk=50, checkpoint_every=1000
    )
    settings: ClassVar = {"mnist5k": {"hidden": 1024, "steps": 10_000}}
    tiny: ClassVar = {"hidden": 8, "pairs": 32, "pair_steps": 2, "batch_size": 16}

    @property
    def stages(self) -> tuple[str, ...]:  # pyright: ignore  (of these options)
        reflowed = (f"reflow{k}" for k in range(1, self.reflow + 1))
        return ("flow", *reflowed, *(("distil",) if self.distil else ()))

    def load(self):
        return datasets.images_or_digits(self.data)

    def model(self, facts, keys):
        size = int(np.prod(facts["shape"]))
        return room.RectifiedFlow(size, self.hidden, len(self.stages), key=keys["flow"])

    def stage(self, name, training):
        import equinox as eqx
        import jax
        import optax

        number = self.stages.index(name)
        objective = room.flow_objective(distil=name == "distil")

        def begin(model):
            before = model.flows[max(number - 1, 0)]
            return eqx.tree_at(lambda m: m.flows[number], model, before)

        def rows(data, model):
            if number == 0:
                return (datasets.centred(data.train, data.levels),)
            chain = self.chain(model, number - 1, data.pixels, self.pair_steps, inference.heun)
            key = jax.random.fold_in(jax.random.key(training.seed), number)
            x0s, x1s = inference.draw_pairs(chain, key, self.pairs, batch_size=1000)
            return np.asarray(x1s), np.asarray(x0s)

        return Stage(
            lambda model, row: objective(model.flows[number], *row),
            training.optimizer(optax.adam),
            rows=rows,
            part=lambda model: model.flows[number],
            begin=begin,
            label="squared error",
            unit="per image",
        )

    def chain(self, model, number, size, steps, stepper=None):
        stepper = stepper or inference.euler_maruyama
        return room.flow_chain(model.flows[number], size, steps, stepper)

    def figures(self, run, rows, particles, key):
        import jax
        import jax.numpy as jnp

        from ppgen.inference import draw_pairs, path_variation
        from ppgen.models.parts.figures import Figures
        from ppgen.models.parts.metrics import told_apart

        apart, bent = "told apart from images", "squared deviation from a line"
        data, x0s = run.data, rows
        images, train = (datasets.centred(x, data.levels) for x in (rows, data.train))
        flat = jax.random.permutation(key, train, axis=0, independent=True)[: len(images)]
        found = {"training images": train[: len(images)], "independent pixels": flat}
        table: dict = {k: {apart: told_apart(x, images)} for k, x in found.items()}
        for number, name in enumerate(self.stages):
            for steps in STEPS if name != "distil" else (1,):
                chain = self.chain(run.model, number, data.pixels, steps)
                x0s, x1s = draw_pairs(chain, jax.random.fold_in(key, number), len(images))
                row = f"{name}, {steps} step{'s' if steps > 1 else ''}"
                table[row] = {apart: told_apart(x1s, images)}

            def curvature(x0, flow=run.model.flows[number]):
                times = jnp.linspace(0.0, 1.0, self.pair_steps + 1)
                fields = lambda x, t: inference.Fields(flow(x, t))  # noqa: E731
                return path_variation(fields, x0[None], times)

            table[f"{name}, 1 step"][bent] = np.asarray(jax.jit(jax.vmap(curvature))(x0s))
        title = f"{len(images)} images, {data.pixels} pixels"
        # The loss of a flow is no figure of its samples: its history has no levels.
        levels = {name: {} for name in self.stages}
        return Figures(title, {apart: 3, bent: 2}, table, levels)

    def sample(self, run, key):
        steps = 1 if self.distil else self.pair_steps
        size = int(np.prod(run.facts["shape"]))
        chain = self.chain(run.model, -1, size, steps)
        title = f"Samples of the last flow, {steps} evaluation{'s' if steps > 1 else ''}"
        return image_picture(title, chain, run.facts["shape"], bottom=-1)

    def pictures(self, run):
        """Paths of the last flow; what each flow makes of one noise, in few steps and in many."""
        size, shape = int(np.prod(run.facts["shape"])), run.facts["shape"]

        def ends(_):
            x0 = ppgen.draw(room.flow_chain(run.model.flows[0], size, 1).initial, name="noise")
            return {
                f"{name}, {steps}": ppgen.assess(self.chain(run.model, k, size, steps))(
                    {"x0": x0}
                ).value
                for k, name in enumerate(self.stages)
                for steps in STEPS
            }

        def paths(_):
            points = self.chain(run.model, -1, size, 8).path()
            return {f"t = {k / 8:.2f}": points[k] for k in range(0, 9, 2)}

        titles = {
            "quality": ("One noise, by flow and number of evaluations", ends),
            "paths": ("Paths of the last flow", paths),
        }
        return {k: image_picture(t, f, shape, bottom=-1) for k, (t, f) in titles.items()}
