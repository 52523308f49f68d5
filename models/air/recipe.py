"""`ppgen fit air`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

import numpy as np

import ppgen
from ppgen import inference
from ppgen.models import air
from ppgen.models.parts import data as datasets
from ppgen.models.parts.bounds import Bounds, Count
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import Recipe, Stage, image_picture
from ppgen.models.parts.training import Training, at_least, with_known_rate


@dataclasses.dataclass(frozen=True)
class AIRRecipe(Recipe):
    """Attend, infer, repeat: learn to count, find and read digits in scenes, without labels."""

    objective: Literal["elbo", "iwelbo", "vimco"] = "elbo"
    """The bound to maximise; vimco is iwelbo with another gradient, of score functions."""
    estimator: Literal["enumerate", "measure-valued", "score"] = "enumerate"
    """The gradient estimator of "is there something more?". vimco needs score."""
    particles: Count = 2
    """Draws of all latent variables for each scene, in iwelbo and vimco."""
    what: Count = 10
    """Dimensions of the looks of a thing."""
    looks: Annotated[int, Bounds(1, 3)] = 3
    """Most things to look for in a scene, from 1 to 3."""
    hidden: Count = 128
    """Width of the hidden layers."""
    scenes: Annotated[int, Bounds(2)] = 20_000
    """Scenes to train on."""
    held_out: Annotated[int, Bounds(2)] = 2_000
    """Scenes to hold out; no digit of theirs is in the former."""

    training: ClassVar[Training] = Training(
        steps=2000, batch_size=64, learning_rate=1e-3, chunk=20, checkpoint_every=500
    )
    evaluation_particles: ClassVar[int] = 10
    tiny: ClassVar = {
        "hidden": 4,
        "what": 2,
        "batch_size": 4,
        "scenes": 40,
        "held_out": 10,
        "estimator": "score",
        "looks": 1,
    }

    def check(self):
        if self.objective == "vimco":
            at_least(self, 2, "particles")
            if self.estimator != "score":
                raise CommandError("--objective vimco needs --estimator score")

    def load(self):
        return datasets.load_scenes(train=self.scenes, held_out=self.held_out)

    def model(self, facts, keys):
        return air.AIR(
            canvas=facts["canvas"],
            what=self.what,
            hidden=self.hidden,
            present=air.PRESENT[: self.looks],
            key=keys[""],
        )

    def stage(self, name, training):
        import optax

        estimators = {
            "enumerate": ppgen.Enumerate(),
            "measure-valued": ppgen.MeasureValued(),
            "score": ppgen.ScoreFunction(baseline=0.0),
        }
        guide = ppgen.with_estimators(air.air_guide, {"z_pres_*": estimators[self.estimator]})
        options = {} if self.objective == "elbo" else {"particles": self.particles}
        return Stage(
            getattr(inference, self.objective)(air.air_model, guide, **options),
            with_known_rate(optax.adam, training.learning_rate),
            rows=lambda scenes, model: scenes.train.images,
            maximize=True,
            label="ELBO" if self.objective == "elbo" else "IWELBO",
            unit="nats per scene",
        )

    def figures(self, run, rows, particles, key):
        import jax

        from ppgen.models.parts.figures import Figures, bounds
        from ppgen.models.parts.runs import each_of

        model, train, images = run.model, run.data.train, rows.images
        # Baseline without digits: normal around the mean scene, with the noise of the model.
        noise = (images - train.images.mean(0)) / model.noise
        floor = -0.5 * (noise**2 + np.log(2 * np.pi * model.noise**2)).sum((1, 2))
        programs = air.air_model, air.air_guide
        reached = bounds(*programs, model, images, particles, key, batch_size=100)
        found = each_of(lambda x: air.air_guide(model, x), images, key=jax.random.split(key, 3)[2])
        most = np.bincount(train.counts).argmax()
        right = {"most frequent count": most, "counts by the guide": found}
        nats, share = "nats per scene", "share right"
        return Figures(
            title=f"{len(images)} scenes, {images[0].size} pixels",
            units={nats: 2, share: 3},
            rows={k: {nats: x} for k, x in ({"mean scene": floor} | reached).items()}
            | {k: {share: (x == rows.counts) * 1.0} for k, x in right.items()},
        )

    def sample(self, run, key):
        import numpyro

        def scene():
            # Nineteen of 20 scenes of the prior are empty.
            flips = [1, ppgen.draw(numpyro.distributions.Bernoulli(0.5)), 0]
            present = {f"z_pres_{t}": flip for t, flip in enumerate(flips[: self.looks])}
            return numpyro.handlers.condition(air.air_model, present)(run.model)

        title = "Scenes of the model, given that there are one or two things"
        return image_picture(title, scene, [run.model.canvas] * 2)

    def pictures(self, run):
        def rows(scene):
            return {"held out": scene.images, "rebuilt": air.reconstruct(run.model, scene.images)}

        title = "Held-out scenes and what the guide found in them"
        return {"reconstructions": image_picture(title, rows, [run.model.canvas] * 2)}
