"""The command line: what it writes, and that bad input costs one line and nothing else."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from ppgen.models.cli import main
from ppgen.models.cli._run_folder import make_run_folder

TINY = ["--steps", "4", "--hidden", "8", "--latent", "2", "--batch-size", "16"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of 48 small images of five grey levels."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=np.random.RandomState(0).randint(0, 5, (48, 4, 3)))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main(["fit", "vae", *TINY, "--data", str(images), "--out", str(folder)]) == 0
    return folder


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def assert_one_line(capsys, pattern):
    error = capsys.readouterr().err
    assert error.startswith("ppgen: ") and error.count("\n") == 1, error
    assert pattern in error
    assert "Traceback" not in error


def test_a_run_leaves_everything_it_says(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "checkpoint",
        "samples.png",
        "reconstructions.png",
        "loss.png",
    }
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["shape"], config["levels"]) == ("vae", [4, 3], 5)
    *steps, last = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert steps[-1]["step"] == last["step"] == 4 and math.isfinite(steps[-1]["elbo"])
    figures = last["held_out"]
    assert set(figures) == {"baseline", "ELBO", "IWELBO-500"}
    assert figures["IWELBO-500"]["mean"] > figures["ELBO"]["mean"]
    for name in ("samples", "reconstructions", "loss"):
        picture = matplotlib.image.imread(run / f"{name}.png")
        assert picture.shape[0] > 100 and picture[..., :3].std() > 0.05


def test_a_run_prints_its_figures(here, images, capsys):
    assert main(["fit", "vae", *TINY, "--data", str(images), "--objective", "iwelbo"]) == 0
    out, err = capsys.readouterr()
    assert "nats per image" in out and "bits per dimension" in out and "±" in out
    for name in ("per-pixel histograms", "ELBO", "IWELBO-500"):
        assert name in out
    assert "iwelbo" in err and "nats" in err  # the progress bar
    assert (here / "runs" / "vae-001" / "checkpoint").is_dir()


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
    a, b, c = (matplotlib.image.imread(here / name) for name in ("a.png", "b.png", "c.png"))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs one more word: fit, sample"),
        (["train"], "there is no command 'train'; there are: fit, sample"),
        (["fit"], "needs one more word: vae"),
        (["fit", "gan"], "there is no model 'gan'; there are: vae"),
        (["fit", "vae", "--step", "3"], "Unrecognized options: --step"),
        (["fit", "vae", "--steps", "many"], "Error parsing --steps"),
        (["fit", "vae", "--steps", "0"], "--steps must be at least 1, not 0"),
        (["fit", "vae", "--learning-rate", "nan"], "--learning-rate must be positive"),
        (["fit", "vae", "--weight-decay", "-1"], "--weight-decay must not be negative"),
        (["fit", "vae", "--seed", "-1"], "--seed must be from 0"),
        (["fit", "vae", "--objective", "map"], "invalid choice 'map'"),
        (["fit", "vae", "--batch-size", "9999"], "exceeds the 1500 training images"),
        (["fit", "vae", "--data", "missing.npz"], "missing.npz: no such file"),
        (["sample"], "--run"),
        (["sample", "--run", "missing"], "missing is not the folder of a run"),
        (["sample", "--run", ".", "--num", "0"], "--num must be at least 1"),
        (["sample", "--run", ".", "--out", "a.jpg"], "must end in .png"),
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
    assert main(["fit", "vae", *TINY, "--data", str(images), "--out", str(run)]) == 2
    assert_one_line(capsys, "holds another run")
    assert contents(run) == before


def test_a_folder_with_anything_else_is_left_alone(here, images, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("precious")
    for out, message in (("mine", "is not empty"), ("mine/notes.txt", "is a file")):
        assert main(["fit", "vae", *TINY, "--data", str(images), "--out", out]) == 2
        assert_one_line(capsys, message)
    assert (here / "mine" / "notes.txt").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_one_line(here, images, capsys):
    (here / "file").write_text("precious")
    for out in ("file/run", "/proc/run"):
        assert main(["fit", "vae", *TINY, "--data", str(images), "--out", out]) == 2
        assert_one_line(capsys, out.split("/")[1])
    (here / "runs").write_text("precious")
    assert main(["fit", "vae", *TINY, "--data", str(images)]) == 2
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
    """A copy of the configuration of a run, changed, without the checkpoint."""
    folder.mkdir()
    (folder / "config.json").write_text(change((run / "config.json").read_text()))
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text, "its run did not finish training"),
        (lambda text: text[:-5], "is not valid JSON"),
        (lambda text: "[]", "does not describe a run"),
        (lambda text: "{}", "is damaged"),
        (lambda text: text.replace('"vae"', '"gan"'), "is a run of 'gan'"),
        (lambda text: text.replace('"logistic"', '"cauchy"'), "is damaged"),
        (lambda text: text.replace('"latent": 2', '"latent": "2"'), "is damaged"),
        (lambda text: text.replace('"latent": 2', '"latent": -2'), "is damaged"),
    ],
)
def test_a_damaged_run_is_one_line(here, run, capsys, change, message):
    folder = damaged(run, here / "run", change)
    assert main(["sample", "--run", folder, "--out", "a.png"]) == 2
    assert_one_line(capsys, message)
    assert not (here / "a.png").exists()


def test_a_checkpoint_of_another_size_is_one_line(here, run, capsys):
    folder = damaged(run, here / "run", lambda text: text.replace('"hidden": 8', '"hidden": 9'))
    (here / "run" / "checkpoint").symlink_to(run / "checkpoint")
    assert main(["sample", "--run", folder, "--out", "a.png"]) == 2
    assert_one_line(capsys, "is of another model")


def test_a_diverging_run_is_one_line_that_names_the_step(here, images, capsys):
    options = ["--learning-rate", "1e30", "--steps", "40", "--data", str(images), "--out", "run"]
    assert main(["fit", "vae", *options, "--hidden", "8", "--batch-size", "16"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("ppgen: ") and " at step " in error
    assert not (here / "run" / "checkpoint").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "-h"], ["fit", "vae", "--help"]])
def test_help_is_no_error(capsys, arguments):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "usage: ppgen" in out and not err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_an_interrupt_is_one_line_and_status_130(tmp_path, images):
    """Through a real process and a real signal, while it trains."""
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    arguments = ["fit", "vae", *TINY, "--steps", "1000000", "--data", str(images), "--out", "run"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from ppgen.models.cli import main; sys.exit(main())",
            *arguments,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "ppgen: interrupted"
    assert "Traceback" not in error
