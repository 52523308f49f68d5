"""Logs, pictures in between, and several seeds, of the command line."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from cli_runs import SHORT, TINY, assert_one_line, cache, here, images

from ppgen.models import load_run
from ppgen.models.cli import main

TWO_STAGES = Path(__file__).parent / "two_stages.py"


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_has_the_logs_and_pictures_that_were_asked_for(here, images, capsys):
    logs = ["--log", "csv", "tensorboard", "--pictures-every", "4"]
    arguments = ["fit", "vae", *TINY["vae"], *SHORT, "--steps", "8", "--data", str(images), *logs]
    assert main([*arguments, "--out", "run"]) == 0
    rows = table(here / "run" / "metrics.csv")
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]
    lines = [json.loads(x) for x in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    objectives = [float(row["objective"]) for row in rows]
    np.testing.assert_allclose(objectives, [line["objective"] for line in lines])
    rates = [float(row["learning_rate"]) for row in rows]
    schedule = load_run("run").training.rate()
    np.testing.assert_allclose(rates, [schedule(i) for i in (1, 3, 5, 7)], rtol=1e-4)
    assert all(float(row["gradient_norm"]) > 0 for row in rows)
    pictures = sorted((here / "run" / "pictures").iterdir())
    assert [path.name for path in pictures] == ["samples-000004.png", "samples-000008.png"]
    assert matplotlib.image.imread(pictures[0]).std() > 0.05
    [events] = (here / "run" / "tensorboard").iterdir()
    data = events.read_bytes()
    assert data.count(b"gradient_norm") == 4 and data.count(b"\x89PNG") == 2

    # A run that goes on has the same logs as before.
    shutil.rmtree(here / "run" / "checkpoints" / "8")
    (here / "run" / "figures.json").unlink()
    assert main(["resume", "run"]) == 0
    again = table(here / "run" / "metrics.csv")
    assert [row["step"] for row in again] == ["2", "4", "6", "8"]
    np.testing.assert_allclose([float(row["objective"]) for row in again], objectives)
    assert len(list((here / "run" / "tensorboard").iterdir())) == 2


def test_each_stage_has_logs_and_a_rate_that_is_not_known_is_not_there(here):
    assert main(["fit", str(TWO_STAGES), "--log", "csv", "--out", "run"]) == 0
    for stage in ("mean", "distance"):
        rows = table(here / "run" / stage / "metrics.csv")
        assert [row["step"] for row in rows] == ["2", "4"] and "learning_rate" not in rows[0]


def test_a_missing_package_is_one_line_and_leaves_nothing(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["fit", str(TWO_STAGES), "--log", "wandb", "--out", "run"]) == 2
    assert_one_line(capsys, "pip install 'ppgen[wandb]'")
    assert not (here / "run").exists()


# --- several seeds --------------------------------------------------------------------------------


@pytest.mark.long
def test_several_seeds_are_runs_with_a_mean_and_a_spread(here, capsys):
    word = str(TWO_STAGES)
    assert main(["fit", word, "--seeds", "0", "1", "2", "--out", "runs/all"]) == 0
    out = capsys.readouterr().out
    assert "3 seeds: mean ± standard deviation" in out
    values = []
    for seed in range(3):
        place = here / "runs" / "all" / f"seed-{seed}"
        assert json.loads((place / "config.json").read_text())["options"]["seed"] == seed
        figures = json.loads((place / "figures.json").read_text())["figures"]
        values.append(figures["both"]["units"]["mean"])
    assert main(["fit", word, "--seed", "1", "--out", "alone"]) == 0
    alone = json.loads((here / "alone" / "figures.json").read_text())
    assert alone["figures"]["both"]["units"]["mean"] == values[1]
    seeds = json.loads((here / "runs" / "all" / "seeds.json").read_text())
    both = seeds["figures"]["both"]["units"]
    assert both["each"] == values
    np.testing.assert_allclose(both["mean"], statistics.mean(values))
    np.testing.assert_allclose(both["standard_deviation"], statistics.stdev(values))
    capsys.readouterr()
    assert main(["list"]) == 0
    assert capsys.readouterr().out.count("runs/all/seed-") == 3

    # Killed in the second one: what is finished is left, what was begun goes on.
    before = (here / "runs" / "all" / "seed-0" / "figures.json").stat().st_mtime_ns
    shutil.rmtree(here / "runs" / "all" / "seed-2")
    (here / "runs" / "all" / "seed-1" / "figures.json").unlink()
    assert main(["resume", "runs/all"]) == 0
    out = capsys.readouterr().out
    assert "seed 1\n" in out and "seed 2\n" in out and "seed 0\n" not in out
    assert json.loads((here / "runs" / "all" / "seeds.json").read_text()) == seeds
    assert (here / "runs" / "all" / "seed-0" / "figures.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1", "1"], "--seeds 1 1 has one seed twice"),
        (["--seeds", "-1"], "--seed must be from 0"),
        (["--seeds", "one"], "--seeds"),
        (["--log", "print"], "--log"),
        (["--pictures-every", "0"], "--pictures-every must be at least 1"),
    ],
)
def test_what_is_not_one_is_one_line(here, capsys, arguments, message):
    assert main(["fit", str(TWO_STAGES), *arguments]) == 2
    assert_one_line(capsys, message)
    assert not (here / "runs").exists()


def test_a_folder_of_seeds_is_no_run(here, capsys):
    assert main(["fit", str(TWO_STAGES), "--seeds", "4", "--out", "all"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "all"]) == 2
    assert_one_line(capsys, "a run for each of several seeds: all/seed-4")
    assert main(["fit", str(TWO_STAGES), "--out", "all"]) == 2
    assert_one_line(capsys, "holds another run")
