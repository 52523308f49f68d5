"""Labels of data, models that are told them, and fits of rows of any pytree."""

from __future__ import annotations

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cli_runs import SHORT, TINY, assert_one_line, cache, here

import ppgen
from ppgen.inference import EarlyStopping, elbo, fit, iwelbo, per_batch, per_datum
from ppgen.models import load_run
from ppgen.models.cli import main
from ppgen.models.parts.data import (
    DataError,
    Images,
    Labelled,
    labelled,
    load_digits,
    load_images,
    split,
    within_labels,
)
from ppgen.models.parts.metrics.baselines import pixel_histograms
from ppgen.models.parts.runs import fit_recipe
from ppgen.models.vae import VAE, image_objective, vae_guide, vae_model
from ppgen.models.vae.recipe import VAERecipe

KEY = jax.random.key(0)


def test_digits_have_their_labels():
    """As many of each as in scikit-learn's file, and each image that of its own."""
    digits = load_digits()
    labels = np.concatenate(digits.labels)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    images = np.concatenate([digits.train, digits.held_out])
    from sklearn.datasets import load_digits as load

    pixels, told = load(return_X_y=True)
    by_image = {tuple(x): label for x, label in zip(pixels, told, strict=True)}
    assert all(by_image[tuple(x)] == y for x, y in zip(images, labels, strict=True))


def test_labels_follow_their_images_into_the_split():
    images = np.arange(20).reshape(20, 1, 1)
    data = split(images, levels=20, held_out=5, labels=np.arange(20))
    for rows, labels in zip((data.train, data.held_out), data.labels, strict=True):
        np.testing.assert_array_equal(rows[:, 0], labels)


IMAGES = np.random.RandomState(0).randint(0, 9, (12, 4, 3)).astype(np.uint8)


def test_a_file_has_labels_beside_its_images(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=np.arange(12) % 3)
    assert load_images(tmp_path / "a.npz").labels is None
    data = labelled(load_images(tmp_path / "a.npz", labels=True))
    assert data.classes == 3 and data.facts()["classes"] == 3
    other = Images(data.images.train, data.images.held_out, (4, 3), 9, data.images.labels[::-1])
    assert labelled(other).facts()["labels"] != data.facts()["labels"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(11), r"labels must have shape \(12,\), not \(11,\)"),
        (np.arange(12) - 1, "labels must be whole numbers from 0 on"),
        (np.arange(12) / 2, "labels must be whole numbers from 0 on"),
        (np.array(list("abcdefghijkl")), "labels must be whole numbers from 0 on"),
        (np.arange(12) * 10**6, "labels must be below 10000"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, labels, message):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=labels)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "a.npz", labels=True)


def test_files_without_labels_say_where_they_would_be(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, other=IMAGES)
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(DataError, match="needs an array 'labels'; it has: images, other"):
        load_images(tmp_path / "a.npz", labels=True)
    with pytest.raises(DataError, match="only an .npz has an array 'labels'"):
        load_images(tmp_path / "a.npy", labels=True)
    with pytest.raises(DataError, match="no labels to be told"):
        labelled(load_images(tmp_path / "a.npy"))


# --- the conditional VAE --------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_conditional_vae_is_the_formulas(network):
    vae = VAE(
        pixels=16, levels=5, dimensions=2, hidden=8, network=network, shape=(4, 4), classes=3,
        key=KEY,
    )  # fmt: skip
    x, z, told = jnp.arange(16.0) % 5, jnp.array([0.3, -1.1]), jnp.array([0.0, 1.0, 0.0])
    outputs = vae.decoder(jnp.concatenate([z, told]))
    log = jax.scipy.stats.norm.logpdf(z).sum() + vae.likelihood(outputs).log_prob(x)
    found = ppgen.log_density(vae_model)({"z": z}, vae, x, 1)
    np.testing.assert_allclose(found, log, rtol=1e-5)
    mean, log_variance = jnp.split(vae.encoder(jnp.concatenate([x / 2 - 1, told])), 2)
    log = jax.scipy.stats.norm.logpdf(z, mean, jnp.exp(0.5 * log_variance)).sum()
    found = ppgen.log_density(vae_guide)({"z": z}, vae, x, 1)
    np.testing.assert_allclose(found, log, rtol=1e-5)
    assert found != ppgen.log_density(vae_guide)({"z": z}, vae, x, 2)
    with pytest.raises(ValueError, match="one of 3 labels"):
        ppgen.seed(vae_model)(KEY, vae)


def two_kinds():
    """Images that are all light or all dark, which is what the label says; 16 pixels."""
    labels = np.arange(64) % 2
    ink = np.random.RandomState(0).randint(0, 2, (64, 16)) + 3 * labels[:, None]
    return labelled(split(ink.reshape(64, 4, 4), levels=5, held_out=16, labels=labels))


def test_what_is_told_is_used():
    """Samples of a label are of its kind, and the bound beats one that is told nothing."""
    data = two_kinds()
    options = {"steps": 150, "batch_size": 16, "learning_rate": 0.02}
    recipe = VAERecipe(hidden=8, dimensions=2, condition="label")
    run = fit_recipe(recipe, data=data, **options)
    means = [run.sample(KEY, 20, label).mean() for label in (0, 1)]
    assert means[0] < 1.2 and means[1] > 2.8, means
    both = run.sample(KEY, 20).mean(1)
    assert both[::2].max() < both[1::2].min()
    # The floor is told the label too: about one bit a pixel, in place of two.
    floor = run.figures(particles=2).estimates["per-pixel histograms"]["nats per image"].mean
    assert -16 * np.log(2) - 3 < floor < -16 * np.log(2) + 1
    wrong = jax.tree.map(np.asarray, data.held_out)._replace(label=1 - data.held_out.label)
    objective = image_objective(elbo(vae_model, vae_guide))
    right = per_datum(objective, run.model, data.held_out, key=KEY).mean()
    assert per_datum(objective, run.model, wrong, key=KEY).mean() < right - 5


def test_a_floor_within_labels_is_that_of_each():
    data = two_kinds()
    likelihood = VAE(pixels=16, levels=5, hidden=2, key=KEY).likelihood
    found = pixel_histograms(likelihood, data.train, data.held_out)
    for label in (0, 1):
        rows, train = (part.x[part.label == label] for part in (data.held_out, data.train))
        mine = found[data.held_out.label == label]
        np.testing.assert_allclose(mine, pixel_histograms(likelihood, train, rows))
    plain = within_labels(lambda train, rows: rows.sum(1), data.train.x, data.held_out.x)
    np.testing.assert_allclose(plain, data.held_out.x.sum(1))


@pytest.mark.long
def test_the_command_takes_a_condition_and_samples_of_a_label(here, capsys):
    assert main(["fit", "vae", *TINY["vae"], *SHORT, "--condition", "label", "--out", "run"]) == 0
    assert json.loads((here / "run" / "config.json").read_text())["facts"]["classes"] == 10
    assert main(["evaluate", "run", "--particles", "2"]) == 0
    for name in ("a.npz", "a.png"):
        assert main(["sample", "run", "--label", "3", "--num", "6", "--out", name]) == 0
    [samples] = np.load(here / "a.npz").values()
    run = load_run("run")
    np.testing.assert_allclose(samples, run.sample(jax.random.key(0), 6, label=3), atol=1e-4)
    assert run.sample(KEY, 12).shape == (12, 64)
    capsys.readouterr()
    assert main(["sample", "run", "--label", "10", "--out", "b.npz"]) == 2
    assert_one_line(capsys, "--label must be from 0 to 9, not 10")


def test_a_label_is_for_a_model_that_is_told_one(here, capsys):
    assert main(["fit", "vae", *TINY["vae"], *SHORT, "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["sample", "run", "--label", "3"]) == 2
    assert_one_line(capsys, "--condition label")
    assert not (here / "samples.png").exists()


# --- any pytree is a row --------------------------------------------------------------------------


class Row(NamedTuple):
    x: object
    rest: object


def rows(number):
    x = np.random.RandomState(0).randn(number).astype(np.float32)
    return {
        "dict": {"x": x, "rest": {"n": np.arange(number)}},
        "named tuple": Row(x, (np.arange(number), None)),
        "tuple": (x, np.arange(number)),
        "list": [x, np.arange(number)],
    }


@pytest.mark.parametrize("kind", rows(1))
def test_rows_may_be_any_pytree(kind):
    data = rows(12)[kind]

    def loss(mean, datum):
        x, _, *_ = jax.tree.leaves(datum if kind != "dict" else (datum["x"], datum["rest"]))
        return (x - mean) ** 2

    each = per_datum(loss, jnp.float32(0.5), data, key=KEY, batch_size=5)
    x = rows(12)["tuple"][0]
    np.testing.assert_allclose(each, (x - 0.5) ** 2, rtol=1e-5)
    stop = EarlyStopping(jax.tree.map(lambda part: part[:4], data), every=5, patience=50)
    fitted = fit(
        per_batch(loss), 0.0, optax.sgd(0.3), key=KEY, steps=40, data=data, early_stopping=stop
    )
    # The rows that are held out say when; the mean of all is where the fit goes.
    assert np.isfinite(fitted.params) and fitted.history[-1] <= fitted.history[0]
    fitted = fit(per_batch(loss), 0.0, optax.sgd(0.3), key=KEY, steps=40, data=data, batch_size=12)
    np.testing.assert_allclose(fitted.params, x.mean(), atol=1e-4)


def test_bounds_take_labelled_rows():
    data = two_kinds()
    vae = VAE(pixels=16, levels=5, dimensions=2, hidden=4, classes=2, key=KEY)
    bound = per_batch(image_objective(iwelbo(vae_model, vae_guide, particles=3)))
    value = ppgen.expectation(bound)(KEY, vae, Labelled(*map(jnp.asarray, data.train)))
    assert np.isfinite(value)
