"""Attend, infer, repeat: what estimators of "is there something more?" are worth, in scenes.

`python benchmarks/models.py --only air` runs it, on what `ppgen fit air` does: scenes of zero to
two digits that no label tells of. `benchmarks/air.py` compares more estimators, and what they cost.

- floors: the mean scene, and the most frequent count;
- baseline: thresholds on total brightness, which are fitted to the true counts;
- negative control: scenes with their pixels in one fixed random order, in which there is no place
  to look at.
"""

from __future__ import annotations

import dataclasses
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

PARTICLES = 10
"""Number of particles of the bounds."""
NATS, SHARE = "nats per scene", "share right"


class Size(NamedTuple):
    """Sizes of networks, data and training, and the bounds of their marks."""

    recipe: dict[str, Any]
    training: dict[str, Any]
    nats: float
    share: float


FULL = Size({}, {}, nats=125.0, share=0.97)
FAST = Size(
    {"hidden": 64, "scenes": 2000, "held_out": 200, "looks": 2},
    {"steps": 300, "batch_size": 32, "learning_rate": 2e-3},
    nats=105.0,
    share=0.75,
)


def marks(fast: bool = False, seed: int = 0) -> list[Mark]:
    """All rows, of one seed. The fast ones are of one estimator."""
    size, began = FAST if fast else FULL, time.process_time()
    recipe = AIRRecipe(**size.recipe)
    scenes = load_scenes(train=recipe.scenes, held_out=recipe.held_out, seed=seed)

    def figures(data: SplitScenes = scenes, **options: Any) -> tuple[dict[str, Any], float, float]:
        """The figures of a fit, its bound, and the share of correct counts."""
        kind = dataclasses.replace(recipe, **options)
        run = fit_recipe(kind, data=data, seed=seed, **size.training)
        found = run.figures(PARTICLES).estimates
        nats, share = found[f"IWELBO-{PARTICLES}"][NATS], found["counts by the guide"][SHARE]
        say(f"seed {seed}, {kind.estimator}: {nats.mean:.1f} {NATS}, {share.mean:.3f} {SHARE}")
        return found, nats.mean, share.mean

    found, nats, share = figures()
    _, control_nats, control_share = figures(scrambled(scenes, seed))
    bright = by_brightness(scenes.train, scenes.held_out.images) == scenes.held_out.counts
    rows = [
        report(f"mean scene: {NATS}", found["mean scene"][NATS].mean),
        report(f"most frequent count: {SHARE}", found["most frequent count"][SHARE].mean),
        report(f"thresholds on brightness, of true counts: {SHARE}", bright.mean()),
        above(f"enumerated: {NATS}", nats, size.nats),
        above(f"enumerated: {SHARE}", share, size.share),
        report(f"control, scrambled pixels: {NATS}", control_nats),
        below(f"control, scrambled pixels: {SHARE}", control_share, 0.5),
    ]
    if not fast:
        _, phantom_nats, phantom_share = figures(estimator="measure-valued")
        _, score_nats, score_share = figures(estimator="score")
        rows += [
            above(f"measure-valued: {NATS}", phantom_nats, 120.0),
            above(f"measure-valued: {SHARE}", phantom_share, 0.95),
            report(f"score function: {NATS}", score_nats),
            report(f"score function: {SHARE}", score_share),
            above(f"enumerated − score function: {NATS}", nats - score_nats, 5.0),
        ]
    return [*rows, report("seconds of CPU in all", time.process_time() - began)]


def scrambled(scenes: SplitScenes, seed: int) -> SplitScenes:
    """Scenes with their pixels in one random order."""
    order = np.random.RandomState(seed).permutation(scenes.train.images[0].size)

    def part(x: Scenes) -> Scenes:
        flat = x.images.reshape(len(x.images), -1)[:, order]
        return x._replace(images=flat.reshape(x.images.shape))

    return SplitScenes(*map(part, scenes))


def by_brightness(train: Scenes, images: Float[ndarray, "n canvas canvas"]) -> Int[ndarray, " n"]:
    """Counts by thresholds on the total brightness, fitted to the true counts of others."""
    bright, target = train.images.sum((1, 2)), images.sum((1, 2))
    candidates = np.quantile(bright, np.linspace(0, 1, 501))
    found = np.zeros(len(images), int)
    for k in range(train.counts.max()):
        right = [((bright > cut) == (train.counts > k)).mean() for cut in candidates]
        found += target > candidates[np.argmax(right)]
    return found
