"""Attend, infer, repeat: scenes, the spatial transformer, the programs, and their gradients."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ppgen
from ppgen.inference import elbo, fit
from ppgen.models.air import AIR, NEVER, PRESENT, air_guide, air_model
from ppgen.models.air.marks import by_brightness, scrambled
from ppgen.models.parts.data import DataError, draw_scenes, load_digits, load_scenes
from ppgen.models.parts.networks import attend, paint
from ppgen.models.parts.recipe import Dataset

# --- scenes ---------------------------------------------------------------------------------------


def test_scenes_have_the_statistics_they_say():
    seen, unseen = load_scenes(train=6000, held_out=600, seed=3)
    images, counts, corners = seen
    assert images.shape == (6000, 24, 24) and images.dtype == np.float32
    assert unseen.images.shape == (600, 24, 24)
    assert images.min() == 0 and images.max() == 1
    # Uniform counts: six standard errors of a third.
    assert np.abs(np.bincount(counts) / 6000 - 1 / 3).max() < 6 * np.sqrt(2 / 9 / 6000)
    # Ink: the digits' mean of 4.884165 sixteenths on 64 pixels each.
    ink = images.sum((1, 2), dtype=np.float64)
    assert ink[counts == 0].max() == 0
    for count in (1, 2):
        expected = count * 64 * 4.884165 / 16
        assert abs(ink[counts == count].mean() - expected) < 0.03 * expected
    # Whole digits on the canvas, everywhere on it, and none on another.
    there = np.arange(2) < counts[:, None]
    assert (corners[~there] == -1).all()
    assert corners[there].min() == 0 and corners[there].max() == 16
    np.testing.assert_allclose(corners[there].mean(0), 8, atol=0.5)
    two = corners[counts == 2]
    assert (np.abs(two[:, 0] - two[:, 1]).max(1) >= 8).all()


def test_a_scene_is_its_digits_at_their_corners():
    digits = np.random.RandomState(0).uniform(size=(5, 3, 3)).astype(np.float32)
    images, counts, corners = draw_scenes(digits, 40, canvas=9, most=3, seed=1)
    for image, count, places in zip(images, counts, corners, strict=True):
        rest = image.copy()
        for row, column in places[:count]:
            box = rest[row : row + 3, column : column + 3]
            assert any(np.array_equal(box, digit) for digit in digits)
            box[:] = 0
        assert not rest.any()


def test_scenes_are_reproducible_and_held_out_digits_occur_in_no_other():
    first, again, other = (load_scenes(train=50, held_out=50, seed=s) for s in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a.images, b.images) and not np.array_equal(a.images, c.images)
    train = {digit.tobytes() for digit in load_digits().train.astype(np.float32) / 16}
    for part, inside in zip(first, (True, False), strict=True):
        for image, (row, column) in zip(part.images, part.corners[:, 0], strict=True):
            if row >= 0:
                digit = image[row : row + 8, column : column + 8].copy()
                assert (digit.tobytes() in train) == inside


def test_a_canvas_without_room_is_refused():
    with pytest.raises(DataError, match="no room for 2 digits of 8 pixels on a canvas of 9"):
        draw_scenes(np.ones((1, 8, 8), np.float32), 10, canvas=9)
    with pytest.raises(DataError, match="no room"):
        draw_scenes(np.ones((1, 8, 8), np.float32), 10, canvas=7, most=1)


def test_scenes_are_data_of_a_recipe():
    first, other = (load_scenes(train=6, held_out=2, seed=s) for s in (0, 1))
    assert isinstance(first, Dataset) and first.facts()["canvas"] == 24
    assert first.facts() == load_scenes(train=6, held_out=2).facts() != other.facts()


def test_brightness_tells_counts_and_scrambling_keeps_brightness():
    scenes = load_scenes(train=300, held_out=100)
    found = by_brightness(scenes.train, scenes.held_out.images)
    assert (found == scenes.held_out.counts).mean() > 0.95
    other = scrambled(scenes, 0)
    for a, b in zip(scenes, other, strict=True):
        np.testing.assert_allclose(a.images.sum((1, 2)), b.images.sum((1, 2)), rtol=1e-5)
        assert np.array_equal(a.counts, b.counts) and not np.array_equal(a.images, b.images)
    # One order for all scenes: the mean scene has the same pixels, elsewhere.
    assert np.array_equal(
        np.sort(scenes.train.images.mean(0), None), np.sort(other.train.images.mean(0), None)
    )


# --- the spatial transformer ----------------------------------------------------------------------


def at(row, column, canvas=24, side=8):
    """The place of a box of `side` pixels with that upper left corner."""
    zoom = canvas / side
    centre = (2 * np.array([column, row]) + side) / canvas - 1
    return jnp.array([zoom, *(-zoom * centre)])


def test_looking_where_something_was_painted_gives_it_back():
    glimpse = jax.random.uniform(jax.random.key(0), (8, 8))
    for row, column in [(0, 0), (3, 11), (16, 16), (5, 0)]:
        place = at(row, column)
        canvas = paint(glimpse, place, 24)
        # On whole pixels, at the zoom of the canvas by the glimpse, nothing is interpolated.
        box = np.zeros((24, 24))
        box[row : row + 8, column : column + 8] = glimpse
        np.testing.assert_allclose(canvas, box, atol=1e-5)
        np.testing.assert_allclose(attend(canvas, place, 8), glimpse, atol=1e-5)


def test_between_pixels_the_inverse_is_close_for_smooth_images():
    grid = (jnp.arange(8) - 3.5) / 2
    glimpse = jnp.exp(-(grid[:, None] ** 2) / 2 - grid**2 / 2)
    place = jnp.array([2.6, 0.37, -0.81])
    back = attend(paint(glimpse, place, 24), place, 8)
    np.testing.assert_allclose(back, glimpse, atol=0.12)
    moved = attend(paint(glimpse, place, 24), place + jnp.array([0.0, 0.5, 0.0]), 8)
    assert jnp.abs(moved - glimpse).max() > 0.3


def test_what_is_beyond_the_edge_is_zero():
    place = at(-4, 20)
    canvas = paint(jnp.ones((8, 8)), place, 24)
    assert float(canvas.sum()) == pytest.approx(16, abs=1e-3)
    assert float(attend(jnp.ones((24, 24)), place, 8).sum()) == pytest.approx(16, abs=1e-3)


# --- the programs ---------------------------------------------------------------------------------


def tiny(looks=2, **sizes):
    sizes = {"canvas": 6, "side": 3, "what": 2, "hidden": 4} | sizes
    present = sizes.pop("present", (0.4, 0.3, 0.2)[:looks])
    return AIR(present=present, key=jax.random.key(0), **sizes)


def scene(seed=0):
    digits = np.random.RandomState(7).uniform(size=(4, 2, 2)).astype(np.float32)
    return jnp.asarray(draw_scenes(digits, 8, canvas=6, seed=seed).images)


def test_shapes():
    air = tiny()
    trace = eqx.filter_jit(ppgen.seed(ppgen.simulate(air_model)))(jax.random.key(0), air)
    assert trace["image"].shape == (6, 6) and trace["z_where_0"].shape == (3,)
    assert trace["z_what_1"].shape == (2,) and trace["z_pres_1"].shape == ()
    count = eqx.filter_jit(ppgen.seed(air_guide))(jax.random.key(0), air, scene()[0])
    assert count.shape == () and 0 <= count <= 2


def test_model_is_the_formula():
    """Prior of each look that is taken, and a Gaussian around what is painted."""
    air, image = tiny(), scene()[0]
    where, what = jnp.array([2.1, 0.3, -0.5]), jnp.array([0.2, -1.0])
    choices = {"z_pres_0": 1, "z_where_0": where, "z_what_0": what}
    # What follows a no: any place or look has the same density, none.
    choices |= {"z_pres_1": 0, "z_where_1": 9 * where, "z_what_1": 9 * what}
    choices = {k: jnp.asarray(v) for k, v in choices.items()}
    got = eqx.filter_jit(ppgen.log_density(air_model))(choices, air, image)
    normal = jax.scipy.stats.norm.logpdf
    exact = jnp.log(0.4) + jnp.log(0.7) + normal(what).sum()
    exact += normal(where, jnp.array([3.0, 0, 0]), jnp.array([0.2, 1, 1])).sum()
    exact += normal(image, air.painted(what, where), air.noise).sum()
    np.testing.assert_allclose(got, exact, rtol=1e-5)


@pytest.mark.parametrize("program", [air_model, air_guide])
def test_present_after_absent_has_no_probability(program):
    air, image = tiny(3), scene()[0]
    keys = jax.random.split(jax.random.key(0), 2000)
    run = jax.vmap(lambda k: ppgen.seed(ppgen.simulate(program))(k, air, image).choices)
    drawn = jax.jit(run)(keys)
    present = np.stack([drawn[f"z_pres_{t}"] for t in range(3)], 1)
    assert (np.diff(present, axis=1) <= 0).all()
    assert set(present.sum(1)) == {0, 1, 2, 3}  # every count occurs
    one = jax.tree.map(lambda x: x[0], {k: v for k, v in drawn.items() if k != "image"})

    @jax.jit
    def log_density(flips):
        flags = {f"z_pres_{t}": flips[t] for t in range(3)}
        return ppgen.log_density(program)(one | flags, air, image)

    for flips, stopped in [((0, 1, 0), (0, 0, 0)), ((1, 0, 1), (1, 0, 0))]:
        ratio = log_density(jnp.array(flips)) - log_density(jnp.array(stopped))
        assert ratio < NEVER / 2 and np.exp(ratio) < 1e-20


def test_taking_away_what_is_absent_changes_nothing():
    """The guide whose looks depend on z_pres is the same distribution: the same bound and slope."""
    air, images = tiny(), scene()

    def conditional(air, image):
        return air_guide(air, image, conditional=True)

    def slope(guide):
        bound = elbo(air_model, ppgen.with_estimators(guide, {"z_pres_*": ppgen.Enumerate()}))
        value = eqx.filter_value_and_grad(
            lambda air: ppgen.expectation(bound)(jax.random.key(4), air, images[1])
        )
        return eqx.filter_jit(value)(air)

    (a, slope_a), (b, slope_b) = slope(air_guide), slope(conditional)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(slope_a), jax.tree.leaves(slope_b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)


# --- gradients ------------------------------------------------------------------------------------

DIRECTIONS = 3
KEYS = jax.random.split(jax.random.key(0), 3000)
ESTIMATORS = {
    "measure-valued": ppgen.MeasureValued(),
    "score function": ppgen.ScoreFunction(baseline=0.0),
}


def directional(guide, keys):
    """Derivatives of the bound along fixed directions in the weights, for every key."""
    air, images = tiny(noise=1.0), scene()[:2]
    bound = elbo(air_model, guide)
    varying, fixed = eqx.partition(air, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(varying)
    random = [jax.random.split(jax.random.key(9 + i), len(leaves)) for i in range(DIRECTIONS)]
    along = [
        tree.unflatten([jax.random.normal(k, x.shape) for k, x in zip(ks, leaves, strict=True)])
        for ks in random
    ]

    def total(varying):
        per_image = jax.vmap(bound, in_axes=(None, 0))
        return jnp.sum(per_image(eqx.combine(varying, fixed), images))

    def slopes(key):
        gradient = jax.grad(ppgen.expectation(total), argnums=1)(key, varying)
        products = [jax.tree.map(lambda a, b: jnp.sum(a * b), gradient, d) for d in along]
        return jnp.stack([sum(jax.tree.leaves(p)) for p in products])

    return np.asarray(jax.jit(lambda: jax.lax.map(slopes, keys, batch_size=500))(), np.float64)


@pytest.fixture(scope="module")
def enumerated():
    return directional(ppgen.with_estimators(air_guide, {"z_pres_*": ppgen.Enumerate()}), KEYS)


@pytest.mark.long
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_the_gradient_of_enumeration_in_mean(name, enumerated):
    """Error probability below 1e-5: five standard errors, of differences at the same noise."""
    got = directional(ppgen.with_estimators(air_guide, {"z_pres_*": ESTIMATORS[name]}), KEYS)
    difference = got - enumerated
    error = difference.std(0) / np.sqrt(len(KEYS))
    assert (np.abs(difference.mean(0)) < 5 * error).all()
    # There is something to agree about.
    assert np.linalg.norm(enumerated.mean(0)) > 5 * np.linalg.norm(error)


def test_a_short_fit_raises_the_bound():
    seen, _ = load_scenes(train=60, held_out=1)
    crowded = seen.images[seen.counts == 2]
    air = AIR(hidden=16, what=4, present=PRESENT[:2], key=jax.random.key(0))
    guide = ppgen.with_estimators(air_guide, {"z_pres_*": ppgen.MeasureValued()})
    per_image = jax.vmap(elbo(air_model, guide), in_axes=(None, 0))
    fitted = fit(
        lambda air, images: jnp.mean(per_image(air, images)),
        air,
        optax.adam(3e-3),
        key=jax.random.key(1),
        steps=100,
        data=crowded,
        maximize=True,
    )
    assert fitted.history[-5:].mean() > fitted.history[:5].mean() + 8
