"""The command line: what it writes, and that bad input costs one line and nothing else."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from cli_runs import SHORT, TINY, assert_one_line, cache, here, images, run

from ppgen.models import load_run
from ppgen.models.cli import main
from ppgen.models.cli._options import fit_options
from ppgen.models.cli._rooms import installed
from ppgen.models.cli._run_folder import make_run_folder

FIT = ["fit", "vae", *TINY["vae"], *SHORT]


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_run_leaves_everything_it_says(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "figures.json",
        "checkpoints",
        "samples.png",
        "reconstructions.png",
        "loss.png",
    }
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["facts"]["shape"]) == ("vae", [4, 3])
    *_, last = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert last["step"] == 4 and math.isfinite(last["objective"])
    figures = json.loads((run / "figures.json").read_text())["figures"]
    assert set(figures) == {"per-pixel histograms", "ELBO", "IWELBO-500"}
    unit = "nats per image"
    assert figures["IWELBO-500"][unit]["mean"] > figures["ELBO"][unit]["mean"]
    for name in ("samples", "reconstructions", "loss"):
        picture = matplotlib.image.imread(run / f"{name}.png")
        assert picture.shape[0] > 100 and picture[..., :3].std() > 0.05


def test_default_folders_are_numbered(here):
    assert make_run_folder(None, "vae") == Path("runs/vae-001")
    assert make_run_folder(None, "vae") == Path("runs/vae-002")
    (here / "runs" / "vae-003").write_text("precious")
    assert make_run_folder(None, "vae") == Path("runs/vae-004")
    assert (here / "runs" / "vae-003").read_text() == "precious"


def test_sample_draws_what_is_asked_and_the_seed_decides(here, run, capsys):
    for out, seed in (("a.png", "1"), ("b.png", "1"), ("c.png", "2")):
        assert main(["sample", "--run", str(run), "--out", out, "--num", "5", "--seed", seed]) == 0
    assert "wrote a.png" in capsys.readouterr().out
    assert main(["sample", "--run", str(run), "--out", "a.pdf", "--num", "4"]) == 0
    assert (here / "a.pdf").read_bytes().startswith(b"%PDF")
    a, b, c = (matplotlib.image.imread(here / name) for name in ("a.png", "b.png", "c.png"))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_run_in_python_is_that_of_the_command(here, run, capsys):
    loaded = load_run(run)
    assert loaded.recipe.objective == "iwelbo" and loaded.training.steps == 4
    assert main(["evaluate", str(run), "--particles", "3"]) == 0
    assert capsys.readouterr().out == loaded.figures(particles=3).table() + "\n"
    assert main(["sample", str(run), "--out", "a.npz", "--num", "5", "--seed", "3"]) == 0
    with np.load(here / "a.npz") as file:
        assert list(file) == ["samples"]
        np.testing.assert_array_equal(file["samples"], loaded.sample(jax.random.key(3), 5))
    assert loaded.sample(jax.random.key(3), 5).shape == (5, 12)
    assert json.loads((run / "figures.json").read_text())["figures"] == loaded.figures().record()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs one more word: fit, resume"),
        (["train"], "there is no command 'train'; there are: fit, resume"),
        (["fit"], f"needs one more word: {', '.join(TINY)}"),
        (["fit", "gan"], f"there is no model 'gan'; there are: {', '.join(TINY)}"),
        (["fit", "vae", "--stepz", "3"], "Unrecognized options: --stepz, 3; did you mean --steps?"),
        (["fit", "vae", "--steps", "many"], "Error parsing --steps"),
        (["fit", "vae", "--steps", "0"], "--steps must be at least 1, not 0"),
        (["fit", "air", "--looks", "4"], "--looks must be from 1 to 3, not 4"),
        (["fit", "marginalization", "--penalty", "-1"], "--penalty must be at least 0, not -1"),
        (["fit", "random_grid", "--nodes", "1"], "--nodes must be at least 2, not 1"),
        (["fit", "random_grid", "--tolerance", "inf"], "--tolerance must be positive, not inf"),
        (["fit", "vae", "--learning-rate", "nan"], "--learning-rate must be positive"),
        (["fit", "vae", "--weight-decay", "-1"], "--weight-decay must be at least 0"),
        (["fit", "vae", "--seed", "-1"], "--seed must be from 0"),
        (["fit", "vae", "--objective", "map"], "invalid choice 'map'"),
        (["fit", "vae", "--batch-size", "9999"], "exceeds the 1500 rows of training data"),
        (["fit", "vae", "--ema", "1"], "--ema must be between 0 and 1"),
        (["fit", "vae", "--early-stopping", "0"], "--early-stopping must be at least 1"),
        (["fit", "vae", "--devices", "64"], "--devices 64: there are"),
        (["fit", "vae", "--process-id", "1"], "go together: give all three"),
        (["fit", "vae", "--config", "missing.json"], "missing.json: No such file"),
        (["fit", "air", "--objective", "vimco"], "--objective vimco needs --estimator score"),
        (["fit", "diffuse_vae", "--guidance", "1"], "--guidance needs a --dropout above 0"),
        (["fit", "diffuse_vae", "--moves", "1001"], "--moves must be at most --levels 1000"),
        (
            ["fit", "marginalization", "--network", "transformer", "--hidden", "6"],
            "--hidden must be a multiple of 4 heads, not 6",
        ),
        (["fit", "diffuse_vae", "--eta", "2"], "--eta must be from 0 to 1"),
        (["fit", "vae", "--data", "missing.npz"], "missing.npz: no such file"),
        (["sample"], "--run"),
        (["sample", "--run", "missing"], "missing is not the folder of a run"),
        (["resume", "missing"], "missing is not the folder of a run"),
        (["evaluate", "."], ". is not the folder of a run"),
        (["evaluate", ".", "--particles", "0"], "--particles must be at least 1"),
        (["sample", "--run", ".", "--num", "0"], "--num must be at least 1"),
        (["sample", "--run", ".", "--out", "a.jpg"], "must end in .png, .pdf, .svg or .npz"),
        (["sample", "--run", ".", "--out", "no/a.png"], "there is no folder no"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(here, capsys, arguments, message):
    assert main(arguments) == 2
    assert_one_line(capsys, message)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((9, 4, 3), np.nan), "108 pixels are NaN or infinite"),
        (np.ones((9, 12)), "must have shape (n, height, width), not (9, 12)"),
        (np.full((9, 4, 3), 0.5), "whole numbers from 0 to 255"),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(here, capsys, array, message):
    np.save(here / "bad.npy", array)
    assert main(["fit", "vae", "--data", "bad.npy", "--out", "new"]) == 2
    assert_one_line(capsys, message)
    assert not (here / "new").exists()


def test_a_folder_of_another_run_is_left_alone(run, images, capsys):
    before = contents(run)
    assert main([*FIT, "--data", str(images), "--out", str(run)]) == 2
    assert_one_line(capsys, "holds another run (`ppgen resume")
    assert contents(run) == before


def test_a_folder_with_anything_else_is_left_alone(here, images, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("precious")
    for out, message in (("mine", "is not empty"), ("mine/notes.txt", "is a file")):
        assert main([*FIT, "--data", str(images), "--out", out]) == 2
        assert_one_line(capsys, message)
    assert (here / "mine" / "notes.txt").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_one_line(here, images, capsys):
    (here / "file").write_text("precious")
    for out in ("file/run", "/proc/run"):
        assert main([*FIT, "--data", str(images), "--out", out]) == 2
        assert_one_line(capsys, out.split("/")[1])
    (here / "runs").write_text("precious")
    assert main([*FIT, "--data", str(images)]) == 2
    assert_one_line(capsys, "runs")


def test_an_empty_folder_is_taken(here):
    (here / "empty").mkdir()
    assert make_run_folder(Path("empty"), "vae") == Path("empty")


def test_a_picture_is_never_overwritten(here, run, capsys):
    (here / "a.png").write_text("precious")
    assert main(["sample", "--run", str(run), "--out", "a.png"]) == 2
    assert_one_line(capsys, "a.png exists")
    assert (here / "a.png").read_text() == "precious"


def damaged(run, folder, change):
    """A copy of the configuration of a run, changed, without checkpoints."""
    folder.mkdir()
    (folder / "config.json").write_text(change((run / "config.json").read_text()))
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text, "has no checkpoint yet (`ppgen resume"),
        (lambda text: text[:-5], "is not valid JSON"),
        (lambda text: "[]", "does not hold an object"),
        (lambda text: "{}", "is damaged"),
        (lambda text: text.replace('"vae"', '"gan"'), "is a run of 'gan'"),
        (lambda text: text.replace('"logistic"', '"cauchy"'), "invalid choice 'cauchy'"),
        (
            lambda text: text.replace('"dimensions": 2', '"dimensions": "two"'),
            "Error parsing --dimensions",
        ),
        (
            lambda text: text.replace('"dimensions": 2', '"dimensions": -2'),
            "--dimensions must be at least 1",
        ),
        (lambda text: text.replace('"dimensions"', '"dimension"'), "did you mean 'dimensions'?"),
        (lambda text: text.replace('"levels": 5', '"level": 5'), "is damaged"),
    ],
)
def test_a_damaged_run_is_one_line(here, run, capsys, change, message):
    folder = damaged(run, here / "run", change)
    for command in (["sample", folder, "--out", "a.png"], ["evaluate", folder]):
        assert main(command) == 2
        assert_one_line(capsys, message)
    assert not (here / "a.png").exists()


def test_a_checkpoint_of_another_size_is_one_line(here, run, capsys):
    folder = damaged(run, here / "run", lambda text: text.replace('"hidden": 8', '"hidden": 9'))
    shutil.copytree(run / "checkpoints", here / "run" / "checkpoints")
    for command in (["sample", folder, "--out", "a.png"], ["evaluate", folder], ["resume", folder]):
        assert main(command) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("ppgen: ") and "is of another fit" in error


def test_other_data_are_one_line(here, run, capsys):
    np.savez(here / "other.npz", images=np.random.RandomState(1).randint(0, 5, (48, 4, 3)))
    config = json.loads((run / "config.json").read_text())
    config["options"]["data"] = "other.npz"
    folder = damaged(run, here / "run", lambda text: json.dumps(config))
    assert main(["resume", folder]) == 2
    assert_one_line(capsys, "the data are not those that")


# --- options from files ---------------------------------------------------------------------------


def read_options(arguments, monkeypatch):
    """What `ppgen fit` is asked to do, without doing it."""
    found = []
    monkeypatch.setattr("ppgen.models.cli._commands.fit", lambda *given: found.append(given))
    assert main(arguments) == 0
    return found[0][1]


def test_a_file_gives_options_and_the_command_line_wins(here, monkeypatch):
    (here / "a.json").write_text('{"steps": 7, "batch-size": 5, "ema": 0.5, "objective": "iwelbo"}')
    (here / "a.toml").write_text('steps = 7\nbatch_size = 5\nema = 0.5\nobjective = "iwelbo"\n')
    for name in ("a.json", "a.toml"):
        arguments = ["fit", "vae", "--config", name, "--steps", "3"]
        options = read_options(arguments, monkeypatch)
        assert (options.training.steps, options.training.batch_size) == (3, 5)
        assert (options.training.ema, options.recipe.objective) == (0.5, "iwelbo")
        assert options.recipe.dimensions == 16


def test_the_configuration_of_a_run_repeats_it(here, run, monkeypatch):
    arguments = ["fit", "vae", "--config", str(run / "config.json")]
    options = read_options(arguments, monkeypatch)
    assert (options.training.steps, options.recipe.hidden) == (4, 8)
    assert options.recipe.data.name == "images.npz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stepz": 3}', "a.json: `ppgen fit vae` has no option 'stepz'; did you mean 'steps'?"),
        ('{"steps": "many"}', "a.json: Error parsing --steps"),
        ('{"steps": 0}', "a.json: --steps must be at least 1"),
        ('{"steps": true}', "a.json: Missing value for argument '--steps'"),
        ('{"config": "b.json"}', "has no option 'config'"),
        ("{", "a.json is not valid JSON"),
        ("[]", "does not hold options by name"),
        ('{"model": "air", "options": {}}', "is of the model 'air', not 'vae'"),
    ],
)
def test_a_bad_file_of_options_is_one_line(here, capsys, text, message):
    (here / "a.json").write_text(text)
    assert main(["fit", "vae", "--config", "a.json"]) == 2
    assert_one_line(capsys, message)


def test_options_have_names_of_their_own():
    for model, room in installed().items():
        groups = [field.default for field in fit_options(room).__dataclass_fields__.values()]
        names = [name for group in groups for name in group.__dataclass_fields__]
        assert len(names) == len(set(names)), model


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fit", "-h"], ["fit", "vae", "--help"], ["resume", "-h"]]
)
def test_help_is_no_error(capsys, arguments):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "usage: ppgen" in out and not err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()
