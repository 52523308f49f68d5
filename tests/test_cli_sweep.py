"""Sweeps over options from a file, of the command line."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from cli_runs import assert_one_line, cache, here  # noqa: F401

from ppgen.models import load_run
from ppgen.models.cli import _drive, main

WORD = str(Path(__file__).parent / "two_stages.py")
GRID = """
scale = [1.0, 2.0, 3.0]
learning-rate = [0.1, 0.2]
steps = 2
"""


@pytest.fixture
def grid(here):  # noqa: F811
    (here / "grid.toml").write_text(GRID)
    return here / "grid.toml"


def record(folder):
    return json.loads((folder / "sweep.json").read_text())


def figure(run):
    return run["figures"]["both"]["units"]["mean"]


@pytest.mark.long
def test_each_combination_is_a_run_and_a_row_of_the_table(here, grid, capsys):  # noqa: F811
    arguments = ["fit", WORD, "--batch-size", "4", "--learning-rate", "9.0", "--sweep", str(grid)]
    assert main([*arguments, "--out", "runs/grid"]) == 0
    out = capsys.readouterr().out
    folder = here / "runs" / "grid"
    runs = record(folder)["runs"]
    assert [run["changed"] for run in runs] == [
        {"scale": scale, "learning_rate": rate}
        for scale, rate in itertools.product([1.0, 2.0, 3.0], [0.1, 0.2])
    ]
    table = out[out.index("6 runs; both ± standard error") :].splitlines()
    assert table[1].split() == ["scale", "learning_rate", "units"]
    for run, row in zip(runs, table[3:9], strict=True):
        # What the file says wins over what is typed; the rest is as it is typed.
        options = json.loads((folder / run["name"] / "config.json").read_text())["options"]
        assert options == run["options"] and options["batch_size"] == 4 and options["steps"] == 2
        assert options.items() >= run["changed"].items()
        figures = json.loads((folder / run["name"] / "figures.json").read_text())["figures"]
        assert figures == run["figures"]
        cells = row.split()
        assert cells[:3] == [*map(str, run["changed"].values()), f"{figure(run):.2f}"]
    # A member is a run like any other.
    last = folder / runs[-1]["name"]
    assert last.name == "6-scale=3.0-learning_rate=0.2"
    assert load_run(last).recipe.scale == 3.0
    words = ["--steps", "2", "--batch-size", "4", "--learning-rate", "0.2", "--scale", "3.0"]
    assert main(["fit", WORD, *words, "--out", "alone"]) == 0
    alone = json.loads((here / "alone" / "figures.json").read_text())["figures"]
    assert alone == runs[-1]["figures"]
    capsys.readouterr()
    assert main(["list"]) == 0
    assert capsys.readouterr().out.count("runs/grid/") == 6


@pytest.mark.long
def test_a_killed_sweep_goes_on(here, grid, capsys):  # noqa: F811
    assert main(["fit", WORD, "--sweep", str(grid), "--out", "grid"]) == 0
    whole = record(here / "grid")
    first, second, third, *_ = (here / "grid" / run["name"] for run in whole["runs"])
    grid.unlink()  # it is not needed any more
    before = (first / "figures.json").stat().st_mtime_ns
    (second / "figures.json").unlink()
    shutil.rmtree(third)
    bare = [{x: run[x] for x in ("name", "changed", "options")} for run in whole["runs"]]
    (here / "grid" / "sweep.json").write_text(json.dumps(whole | {"runs": bare}))
    capsys.readouterr()
    assert main(["resume", "grid"]) == 0
    assert capsys.readouterr().out.count("fitting ") == 4  # two stages of both
    assert record(here / "grid") == whole
    assert (first / "figures.json").stat().st_mtime_ns == before
    (here / "grid" / "sweep.json").write_text(json.dumps(whole | {"runs": [{"name": "a"}]}))
    assert main(["resume", "grid"]) == 2
    assert_one_line(capsys, "sweep.json is damaged")


def test_each_combination_of_several_seeds_has_a_mean_and_a_spread(here, capsys):  # noqa: F811
    (here / "sweep.json").write_text('{"scale": [1.0, 2.0]}')
    words = ["--sweep", "sweep.json", "--seeds", "3", "5", "--out", "all"]
    assert main(["fit", WORD, *words]) == 0
    out = capsys.readouterr().out
    assert "2 runs; both ± standard deviation over the seeds" in out
    for run in record(here / "all")["runs"]:
        each = run["figures"]["both"]["units"]["each"]
        assert figure(run) == pytest.approx(statistics.mean(each))
        for seed, value in zip((3, 5), each, strict=True):
            place = here / "all" / run["name"] / f"seed-{seed}"
            found = json.loads((place / "figures.json").read_text())["figures"]
            assert found["both"]["units"]["mean"] == value
    whole = record(here / "all")
    shutil.rmtree(here / "all" / whole["runs"][1]["name"] / "seed-5")
    assert main(["resume", "all"]) == 0
    assert record(here / "all") == whole


def test_a_fit_that_fails_does_not_end_the_others(here, capsys):  # noqa: F811
    (here / "rates.toml").write_text("learning_rate = [1e30, 0.1]\nsteps = 20")
    assert main(["fit", WORD, "--sweep", "rates.toml", "--out", "all"]) == 0
    out = capsys.readouterr().out
    assert "failed: the objective is" in out
    assert [line.split() for line in out.splitlines() if line.startswith("1e+30")][0][1] == "failed"
    high, low = record(here / "all")["runs"]
    assert "at step" in high["failed"] and np.isfinite(figure(low))
    (here / "rates.toml").write_text("learning_rate = [1e30, 1e31]\nsteps = 20")
    assert main(["fit", WORD, "--sweep", "rates.toml", "--out", "none"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]  # after the bars
    assert last.startswith("ppgen: no fit of none succeeded; the objective is inf at step 1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("scales = [1.0]", "no option 'scales' of the recipe or the training; did you mean"),
        ("out = ['a', 'b']", "has no option 'out'"),
        ("steps = [1, 0]", "--steps must be at least 1, not 0"),
        ("steps = ['many']", "--steps"),
        ("steps = []", "steps must be a value or a list of values"),
        ("[steps]\na = 1", "steps must be a value or a list of values"),
        ("batch_size = [5, 500]", "--batch-size 500 exceeds the 20 rows"),
        ("steps = [1", "is not valid TOML"),
        ("", "names no options"),
    ],
)
def test_what_is_wrong_with_any_of_them_is_found_first(here, capsys, content, message):  # noqa: F811
    (here / "wrong.toml").write_text(content)
    assert main(["fit", WORD, "--sweep", "wrong.toml", "--out", "all"]) == 2
    assert_one_line(capsys, message)
    assert not (here / "all").exists()


def test_a_folder_of_a_sweep_is_no_run(here, capsys):  # noqa: F811
    (here / "one.toml").write_text("scale = 2.0")
    assert main(["fit", WORD, "--sweep", "one.toml", "--out", "all"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "all"]) == 2
    assert_one_line(capsys, "all holds the runs of a sweep: 1")
    assert main(["fit", WORD, "--out", "all"]) == 2
    assert_one_line(capsys, "holds another run")
    assert main(["fit", WORD, "--sweep", "nothing.toml"]) == 2
    assert_one_line(capsys, "nothing.toml: No such file")


@pytest.mark.parametrize("words", [[], ["--seeds", "7", "8"]])
def test_no_run_is_prepared_twice(here, monkeypatch, words):  # noqa: F811
    prepared = []
    real = _drive.prepared_first

    def counted(options, workers):
        prepared.append(options.training.seed)
        return real(options, workers)

    monkeypatch.setattr(_drive, "prepared_first", counted)
    assert main(["fit", WORD, *words]) == 0
    assert prepared == ([7, 8] if words else [0])
