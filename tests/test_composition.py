"""The score of captioned scenes: what it sees and what it does not depend on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppgen.inference import Caption, Scene, compositional_score, head_to_head

ANY = -1
RED, BLUE = 0, 1
SQUARE, CIRCLE = 0, 1
# "Two red squares left of a circle", with room for a third group.
CAPTION = Caption(
    np.array([2, 1, 0]),
    np.array([SQUARE, CIRCLE, SQUARE]),
    np.array([RED, ANY, ANY]),
    np.array([ANY, ANY, ANY]),
    0,
)


def scene(*entities):
    """Of (shape, colour, texture, row, column), and one that is absent."""
    table = np.array([*entities, (ANY, RED, 0, 0, 0)], float)
    shapes, colours, textures = table[:, :3].astype(int).T
    return Scene(shapes, colours, textures, table[:, 3:])


FIRST, SECOND, ROUND = (SQUARE, RED, 0, 1, 2), (SQUARE, RED, 1, 5, 1), (CIRCLE, BLUE, 0, 3, 9)
ONE = {"entities": 1.0, "attributes": 1.0, "counts": 1.0, "relations": 1.0, "all": 1.0}


@pytest.mark.parametrize(
    ("entities", "changed"),
    [
        ((FIRST, SECOND, ROUND), {}),
        # Squares of another colour are not those of the caption.
        (
            ((SQUARE, BLUE, 0, 1, 2), (SQUARE, BLUE, 1, 5, 1), ROUND),
            {"attributes": 0.0, "counts": 0.5, "relations": 0.0},
        ),
        # One too few, one too many, and one that nobody asked for.
        ((FIRST, ROUND), {"counts": 0.5}),
        ((FIRST, SECOND, (SQUARE, RED, 0, 8, 0), ROUND), {"counts": 0.5}),
        ((FIRST, SECOND, ROUND, (SQUARE, BLUE, 0, 9, 9)), {"all": 0.0}),
        ((FIRST, SECOND, ROUND, (2, BLUE, 0, 9, 9)), {"all": 0.0}),
        # One of the squares on the other side, or beneath.
        ((FIRST, (SQUARE, RED, 1, 5, 10), ROUND), {"relations": 0.0}),
        ((FIRST, (SQUARE, RED, 1, 5, 9), ROUND), {"relations": 0.0}),
        # No circle, or nothing.
        ((FIRST, SECOND), {"entities": 0.5, "counts": 0.5, "relations": 0.0}),
        ((), {"entities": 0.0, "attributes": 0.0, "counts": 0.0, "relations": 0.0}),
    ],
)
def test_by_category(entities, changed):
    expected = ONE | changed | ({"all": 0.0} if changed else {})
    for shift in range(len(entities) + 1):
        found = scene(*entities)
        mixed = Scene(*(np.roll(x, shift, axis=0) for x in found))
        assert compositional_score(mixed, CAPTION) == expected


@pytest.mark.parametrize("relation", range(4))
def test_relations_are_those_of_a_picture(relation):
    """Rows grow downwards; the mirrored scene is of the opposite relation."""
    caption = CAPTION._replace(counts=np.array([1, 1, 0]), relation=relation)
    row, column = [(5, 1), (5, 9), (1, 5), (9, 5)][relation]
    for opposite in (False, True):
        place = (10 - row, 10 - column) if opposite else (row, column)
        found = compositional_score(
            scene((SQUARE, RED, 0, *place), (CIRCLE, RED, 0, 5, 5)), caption
        )
        assert found["relations"] == float(not opposite) == found["all"]


def test_textures_bind_with_colours():
    """A red square and a striped square are no striped red square."""
    caption = Caption(*map(np.array, ([1], [SQUARE], [RED], [1], ANY)))
    apart = scene((SQUARE, RED, 0, 0, 0), (SQUARE, BLUE, 1, 0, 0))
    assert compositional_score(apart, caption)["attributes"] == 0.0
    assert compositional_score(scene((SQUARE, RED, 1, 0, 0)), caption) == ONE


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"counts": np.array([2, 1, 1])}, "groups 0 and 2 of the caption may be of the same"),
        ({"relation": 4}, "there is no relation 4"),
        ({"counts": np.array([2, 0, 0])}, "one of the first two groups"),
    ],
)
def test_captions_that_mean_nothing(changed, message):
    with pytest.raises(ValueError, match=message):
        compositional_score(scene(FIRST), CAPTION._replace(**changed))


def test_systems_of_captioned_scenes():
    """One that binds colours, and one that knows which colours there are but not whose."""
    rng = np.random.default_rng(0)
    number = 40
    hues = np.argsort(rng.random((number, 4)), axis=1)[:, :2]
    captions = Caption(
        np.ones((number, 2), int),
        np.tile([SQUARE, CIRCLE], (number, 1)),
        hues,
        np.full((number, 2), ANY),
        rng.integers(0, 4, number),
    )
    offsets = jnp.array([[0.0, -3.0], [0.0, 3.0], [-3.0, 0.0], [3.0, 0.0]])

    def truth(caption):
        places = jnp.stack([offsets[caption.relation], jnp.zeros(2)])
        return Scene(caption.shapes, caption.colours, jnp.zeros(2, int), places)

    def unbound(caption):
        made = truth(caption)
        return made._replace(colours=made.colours[::-1])

    found = {}
    for what in ("all", "entities", "attributes"):
        found[what] = head_to_head(
            {"truth": truth, "unbound": unbound},
            captions,
            lambda scene, caption, what=what: compositional_score(scene, caption)[what],
            truth=truth,
            key=jax.random.key(0),
            per_prompt=1,
            chance=1.0 if what == "entities" else 0.3,
        )
    assert found["all"].difference("truth", "unbound") == (1.0, 1.0, 1.0)
    assert found["entities"].difference("truth", "unbound") == (0.0, 0.0, 0.0)
    assert found["attributes"].difference("truth", "unbound").estimate == 1.0
    # Of another caption the truth is hardly right: these are many.
    assert found["all"].swapped.mean < 0.1
