"""Whether a procedural scene is what a caption asks for: exact, with no detector in between."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

ANY = -1
"""An attribute or a relation that a caption does not state; an entity that a scene has not."""
RELATIONS = ("left of", "right of", "above", "below")
_AXES, _SIGNS = (1, 1, 0, 0), (-1, 1, -1, 1)  # of rows and columns, for each relation


class Scene(NamedTuple):
    """Entities of a scene, in any order; those with the shape −1 are absent.

    Attributes:
        shapes: Numbers of shapes.
        colours: Numbers of colours.
        textures: Numbers of textures.
        places: Row and column of the centre: rows grow downwards.
    """

    shapes: Int[np.ndarray | Array, " entities"]
    colours: Int[np.ndarray | Array, " entities"]
    textures: Int[np.ndarray | Array, " entities"]
    places: Float[np.ndarray | Array, "entities 2"]


class Caption(NamedTuple):
    """What a scene shall have: groups of like entities, "two red squares left of a circle".

    Attributes:
        counts: How many entities are in each group; zero for groups that are absent.
        shapes: Their shape.
        colours: Their colour, or −1 if it is not stated.
        textures: Their texture, or −1.
        relation: Where the first group is, seen from the second: 0 for left, 1 for right, 2 for
            above, 3 for below, and −1 if it is not stated.
    """

    counts: Int[np.ndarray | Array, " groups"]
    shapes: Int[np.ndarray | Array, " groups"]
    colours: Int[np.ndarray | Array, " groups"]
    textures: Int[np.ndarray | Array, " groups"]
    relation: int | Int[np.ndarray | Array, ""]


def compositional_score(scene: Scene, caption: Caption) -> dict[str, float]:
    """How much of a caption a scene has, by category.

    Scenes and captions are trees of arrays, so they are draws and prompts of `head_to_head`, with
    `lambda scene, caption: compositional_score(scene, caption)["all"]` as its score.

    Args:
        scene: The entities.
        caption: What was asked for. No entity may fit two of its groups.

    Returns:
        Numbers from 0 to 1, and 1 where nothing is asked: `entities`, the share of groups of whose
        shape there is an entity; `attributes`, the share of those groups which state some that have
        an entity with all of them; `counts`, the share of groups that have as many entities as
        stated; `relations`, whether every entity of the first group is where it should be, seen
        from every entity of the second one; and `all`, 1 where these four are 1 and the scene has
        no other entities, else 0.

    Raises:
        ValueError: Two groups of the caption may be of the same entities, or it states a relation
            of one group.

    References:
        Huang, Sun, Xie, Li, Liu. T2I-CompBench: a comprehensive benchmark for open-world
        compositional text-to-image generation. NeurIPS 2023. The categories are its own; its
        scores are of detectors.

    Examples:
        "A square of colour 2 left of a circle"; the colours of the scene are swapped:

        >>> import numpy as np
        >>> from ppgen.inference import Caption, Scene, compositional_score
        >>> caption = Caption(*map(np.array, ([1, 1], [0, 1], [2, -1], [-1, -1], 0)))
        >>> places = np.array([[5.0, 2.0], [5.0, 9.0]])
        >>> scene = Scene(np.array([0, 1]), np.array([0, 2]), np.zeros(2, int), places)
        >>> compositional_score(scene, caption)
        {'entities': 1.0, 'attributes': 0.0, 'counts': 0.5, 'relations': 0.0, 'all': 0.0}
    """
    shapes, colours, textures, places = (np.asarray(x) for x in scene)
    counts, asked, hue, grain = (np.asarray(x) for x in caption[:4])
    _check(counts, asked, hue, grain, int(caption.relation))
    groups = np.flatnonzero(counts > 0)
    there = shapes != ANY
    of_shape = there & (shapes == asked[:, None])
    right_hue = (hue[:, None] == ANY) | (colours == hue[:, None])
    right_grain = (grain[:, None] == ANY) | (textures == grain[:, None])
    fits = of_shape & right_hue & right_grain
    stated = [g for g in groups if hue[g] != ANY or grain[g] != ANY]
    found = {
        "entities": _share([of_shape[g].any() for g in groups]),
        "attributes": _share([fits[g].any() for g in stated]),
        "counts": _share([fits[g].sum() == counts[g] for g in groups]),
        "relations": _related(fits, places, int(caption.relation)),
    }
    whole = all(value == 1 for value in found.values()) and there.sum() == counts[groups].sum()
    return found | {"all": float(whole)}


def _share(hits: list) -> float:
    return float(np.mean(hits)) if hits else 1.0


def _related(fits: np.ndarray, places: np.ndarray, relation: int) -> float:
    if relation == ANY:
        return 1.0
    axis, sign = _AXES[relation], _SIGNS[relation]
    one, other = (places[fits[group], axis] for group in (0, 1))
    if not len(one) or not len(other):
        return 0.0
    return float(np.all(sign * (one[:, None] - other) > 0))


def _check(
    counts: np.ndarray, shapes: np.ndarray, hue: np.ndarray, grain: np.ndarray, relation: int
) -> None:
    def may_agree(x: np.ndarray, i: int, j: int) -> bool:
        return bool(x[i] == x[j]) or ANY in (x[i], x[j])

    groups = np.flatnonzero(counts > 0).tolist()
    for i in groups:
        for j in groups:
            same = i < j and shapes[i] == shapes[j]
            if same and may_agree(hue, i, j) and may_agree(grain, i, j):
                raise ValueError(f"groups {i} and {j} of the caption may be of the same entities")
    if not ANY <= relation < len(RELATIONS):
        raise ValueError(f"there is no relation {relation}; there are {len(RELATIONS)}, from 0")
    if relation != ANY and not {0, 1} <= set(groups):
        raise ValueError("a relation is one of the first two groups, and one of them is absent")
