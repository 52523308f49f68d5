"""`ppgen fit air`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ppgen.models.parts.bounds import Bounds, Count
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import AbstractRecipe, Report, Split, Stage
from ppgen.models.parts.training import Training, at_least

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from ppgen.models.air.model import AIR
    from ppgen.models.parts.data import Scenes

EVALUATED_TOGETHER = 100
"""Scenes whose bounds are computed at the same time."""


@dataclasses.dataclass(frozen=True)
class AIRRecipe(AbstractRecipe):
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
    tiny: ClassVar[Mapping[str, Any]] = {
        "hidden": 4,
        "what": 2,
        "batch_size": 4,
        "scenes": 40,
        "held_out": 10,
        "estimator": "score",
        "looks": 1,
    }

    def check(self) -> None:
        """Refuse options that do not go together."""
        if self.objective == "vimco":
            at_least(self, 2, "particles")
            if self.estimator != "score":
                raise CommandError("--objective vimco needs --estimator score")

    def load(self) -> tuple[Scenes, Scenes]:
        """Scenes of scikit-learn's digits."""
        from ppgen.models.parts.data import load_scenes

        return load_scenes(train=self.scenes, held_out=self.held_out)

    def facts(self, data: tuple[Scenes, Scenes]) -> dict[str, Any]:
        """The size of a scene."""
        from ppgen.models.parts.data.kinds import fingerprint

        return {"canvas": data[0].images.shape[1], "sha256": fingerprint(data)}

    def params(self, stage: str, facts: dict[str, Any], key: Key[Array, ""]) -> AIR:
        """Fresh weights."""
        from ppgen.models.air.model import AIR, PRESENT

        return AIR(
            canvas=facts["canvas"],
            what=self.what,
            hidden=self.hidden,
            present=PRESENT[: self.looks],
            key=key,
        )

    def stage(
        self,
        name: str,
        training: Training,
        params: AIR,
        data: tuple[Scenes, Scenes],
        fitted: Mapping[str, Any],
    ) -> Stage:
        """The mean of the bound over a batch, by Adam."""
        import jax
        import optax

        from ppgen.inference import elbo, iwelbo, vimco
        from ppgen.models.air.model import air_model

        guide = _guide(self.estimator)
        if self.objective == "elbo":
            bound = elbo(air_model, guide)
        else:
            build = iwelbo if self.objective == "iwelbo" else vimco
            bound = build(air_model, guide, particles=self.particles)
        each = jax.vmap(bound, in_axes=(None, 0))
        return Stage(
            objective=lambda air, images: jax.numpy.mean(each(air, images)),
            params=params,
            optimizer=optax.adam(training.learning_rate),
            data=data[0].images,
            maximize=True,
            label="IWELBO" if self.objective == "vimco" else self.objective.upper(),
            unit="nats per scene",
        )

    def evaluate(
        self,
        data: tuple[Scenes, Scenes],
        fitted: Mapping[str, AIR],
        *,
        particles: int,
        split: Split,
        key: Key[Array, ""],
    ) -> Report:
        """Two bounds and how many counts are right; floors of both kinds."""
        import jax
        import numpy as np

        import ppgen
        from ppgen.inference import elbo, iwelbo, mean_over_data, per_datum
        from ppgen.models.air.model import air_guide, air_model

        air, train = fitted[""], data[0]
        seen = data[1] if split == "held-out" else train
        keys = jax.random.split(key, 3)
        most = np.bincount(train.counts).argmax()

        def of_each(objective: Callable[..., Any], which: int) -> np.ndarray:
            return per_datum(
                objective, air, seen.images, key=keys[which], batch_size=EVALUATED_TOGETHER
            )

        def count(air: AIR, image: jax.Array) -> jax.Array:
            found = jax.lax.stop_gradient(air_guide(air, image))
            return found.astype(image.dtype)

        # Normal around the mean scene, with the model's own noise: what knows no digits says.
        noise = (seen.images - train.images.mean(0)) / air.noise
        floor = -0.5 * (noise**2 + np.log(2 * np.pi * air.noise**2)).sum((1, 2))
        bounds = {
            "mean scene": floor,
            "ELBO": of_each(elbo(air_model, air_guide), 0),
            f"IWELBO-{particles}": of_each(iwelbo(air_model, air_guide, particles=particles), 1),
        }
        counts = jax.lax.map(
            lambda pair: ppgen.seed(count)(pair[0], air, pair[1]),
            (jax.random.split(keys[2], len(seen.images)), jax.numpy.asarray(seen.images)),
            batch_size=EVALUATED_TOGETHER,
        )
        right = {
            "most frequent count": seen.counts == most,
            "counts by the guide": np.asarray(counts) == seen.counts,
        }
        rows = [(label, (mean_over_data(x), None)) for label, x in bounds.items()]
        rows += [(label, (None, mean_over_data(x * 1.0))) for label, x in right.items()]
        where = "held out" if split == "held-out" else "trained on"
        references = [(f"held-out {k}", float(x.mean())) for k, x in bounds.items()]
        return Report(
            title=f"{where}: {len(seen.images)} scenes, {seen.images[0].size} pixels",
            columns=(("nats per scene", 2), ("share right", 3)),
            rows=rows,
            references={"": references},
        )

    def sample(
        self,
        path: Path,
        facts: dict[str, Any],
        fitted: Mapping[str, AIR],
        *,
        count: int,
        key: Key[Array, ""],
    ) -> None:
        """Draws scenes of one and of two things: of the prior's own, nineteen of 20 are empty."""
        import equinox as eqx
        import jax
        import numpy as np
        import numpyro

        import ppgen
        from ppgen.models.air.model import air_model
        from ppgen.models.parts.pictures import draw_samples

        air = fitted[""]

        def scene(air: AIR, more: jax.Array) -> jax.Array:
            flips = [1, more, 0][: len(air.present)]
            present = {f"z_pres_{t}": flip for t, flip in enumerate(flips)}
            conditioned: Any = numpyro.handlers.condition(air_model, present)
            return conditioned(air)

        draw = eqx.filter_jit(jax.vmap(ppgen.seed(scene), in_axes=(0, None, 0)))
        more = jax.numpy.arange(count) % 2
        scenes = np.asarray(draw(jax.random.split(key, count), air, more))
        draw_samples(
            path,
            np.clip(scenes, 0, 1),
            top=1,
            title="Scenes of the model, given that there are one (two) things",
        )

    def pictures(
        self,
        folder: Path,
        data: tuple[Scenes, Scenes],
        fitted: Mapping[str, AIR],
        key: Key[Array, ""],
    ) -> None:
        """Held-out scenes above what was found in them, painted again."""
        import equinox as eqx
        import jax
        import numpy as np
        import numpyro

        import ppgen
        from ppgen.models.air.model import air_guide, air_model
        from ppgen.models.parts.pictures import draw_reconstructions

        air, images = fitted[""], data[1].images[:12]

        def rebuild(air: AIR, image: jax.Array) -> jax.Array:
            found: Any = ppgen.simulate(air_guide)(air, image).choices
            conditioned: Any = numpyro.handlers.condition(air_model, found)
            return conditioned(air)

        draw = eqx.filter_jit(jax.vmap(ppgen.seed(rebuild), in_axes=(0, None, 0)))
        rebuilt = np.asarray(draw(jax.random.split(key, len(images)), air, images))
        draw_reconstructions(
            folder / "reconstructions.png",
            [("held out", images), ("rebuilt", np.clip(rebuilt, 0, 1))],
            top=1,
            title="Held-out scenes and what the guide found in them",
        )


def _guide(estimator: str) -> Callable[..., Any]:
    """The guide, with an estimator for "is there something more?"."""
    import ppgen
    from ppgen.models.air.model import air_guide

    estimators = {
        "enumerate": ppgen.Enumerate(),
        "measure-valued": ppgen.MeasureValued(),
        "score": ppgen.ScoreFunction(baseline=0.0),
    }
    return ppgen.with_estimators(air_guide, {"z_pres_*": estimators[estimator]})
