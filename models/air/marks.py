"""Attend, infer, repeat: what estimators of "is there something more?" are worth, in scenes.

`python benchmarks/models.py --only air` runs it, on what `ppgen fit air` does: scenes of zero to
two digits that no label tells of. `benchmarks/air.py` compares more estimators, and what they cost.

- floors: the mean scene, and the most frequent count;
- baseline: thresholds on total brightness, which are fitted to the true counts;
- negative control: scenes with their pixels in one fixed random order, in which there is no place
  to look at.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ppgen.models.air.recipe import AIRRecipe
from ppgen.models.parts.data import Scenes, SplitScenes, load_scenes
from ppgen.models.parts.marks import Mark, above, below, report, say
from ppgen.models.parts.runs import fit_recipe

ABOUT = (
    "Bounds in nats per scene, of ten particles, and the share of the scenes whose digits are "
    "counted right, on scenes of digits that were not trained on. Scenes are others for each seed."
)

NATS, SHARE = "nats per scene", "share right"


class Size(NamedTuple):
    """Of networks, data and training, with the bounds that they are for."""

    recipe: dict[str, Any]
    training: dict[str, Any]
    nats: float
    share: float


FULL = Size({}, {}, nats=125.0, share=0.97)
FAST = Size(
    {"hidden": 64, "scenes": 2000, "held_out": 200, "looks": 2},
    {"steps": 300, "batch_size": 32, "learning_rate": 2e-3},
    nats=75.0,
    share=0.5,
)


def marks(fast: bool = False, seed: int = 0) -> list[Mark]:
    """All rows, of one seed. The fast ones leave out the score function."""
    size, began = FAST if fast else FULL, time.process_time()
    recipe = AIRRecipe(**size.recipe)
    data = load_scenes(train=recipe.scenes, held_out=recipe.held_out, seed=seed)
    unseen = data.held_out

    def reached(what: str, data: SplitScenes = data, **options: Any) -> dict[str, Any]:
        run = fit_recipe(AIRRecipe(**size.recipe, **options), data=data, seed=seed, **size.training)
        found = {k: row for k, row in run.figures().estimates.items()}
        nats, share = found["IWELBO-10"][NATS].mean, found["counts by the guide"][SHARE].mean
        say(f"{what}, seed {seed}: {nats:.1f} {NATS}, {share:.3f} {SHARE}")
        return found

    def bound(found: dict[str, Any]) -> float:
        return found["IWELBO-10"][NATS].mean

    def right(found: dict[str, Any]) -> float:
        return found["counts by the guide"][SHARE].mean

    enumerated = reached("enumerated")
    control = reached("scrambled", scrambled(data, seed))
    bright = by_brightness(data.train, unseen.images) == unseen.counts
    rows = [
        report(f"mean scene: {NATS}", enumerated["mean scene"][NATS].mean),
        report(f"most frequent count: {SHARE}", enumerated["most frequent count"][SHARE].mean),
        report(f"thresholds on brightness, of true counts: {SHARE}", bright.mean()),
        above(f"enumerated: {NATS}", bound(enumerated), size.nats),
        above(f"enumerated: {SHARE}", right(enumerated), size.share),
        report(f"control, scrambled pixels: {NATS}", bound(control)),
        below(f"control, scrambled pixels: {SHARE}", right(control), 0.5),
    ]
    if not fast:
        phantoms = reached("measure-valued", estimator="measure-valued")
        score = reached("score function", estimator="score")
        rows += [
            above(f"measure-valued: {NATS}", bound(phantoms), 120.0),
            above(f"measure-valued: {SHARE}", right(phantoms), 0.95),
            report(f"score function: {NATS}", bound(score)),
            report(f"score function: {SHARE}", right(score)),
            above(f"enumerated − score function: {NATS}", bound(enumerated) - bound(score), 5.0),
        ]
    return [*rows, report("seconds of CPU in all", time.process_time() - began)]


def scrambled(data: SplitScenes, seed: int) -> SplitScenes:
    """Scenes with their pixels in one random order."""
    order = np.random.RandomState(seed).permutation(data.train.images[0].size)
    return SplitScenes(
        *(
            part._replace(
                images=part.images.reshape(len(part.images), -1)[:, order].reshape(
                    part.images.shape
                )
            )
            for part in data
        )
    )


def by_brightness(train: Scenes, images: Float[ndarray, "n canvas canvas"]) -> Int[ndarray, " n"]:
    """Counts by thresholds on the total brightness, fitted to the true counts of others."""
    bright, target = train.images.sum((1, 2)), images.sum((1, 2))
    candidates = np.quantile(bright, np.linspace(0, 1, 501))
    found = np.zeros(len(images), int)
    for k in range(train.counts.max()):
        right = [((bright > cut) == (train.counts > k)).mean() for cut in candidates]
        found += target > candidates[np.argmax(right)]
    return found
