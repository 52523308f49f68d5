"""Models are found by being there: in a folder, by an entry point, by the path of a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runs import assert_one_line, here

from ppgen.models.cli import main

ROOT = Path(__file__).parent.parent
TWO_STAGES = Path(__file__).parent / "two_stages.py"
COMMANDS = """
import json, sys
from ppgen.models.cli import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""


def start(folder, *commands):
    """Several commands in a process that sees the package in `site`."""
    path = os.pathsep.join([str(ROOT), str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def install(folder):
    """What pip leaves of another package that has a room of its own and one in a module."""
    site = folder / "site"
    (site / "outside").mkdir(parents=True)
    (site / "outside" / "__init__.py").write_text('"""Another package\'s numbers."""\n')
    shutil.copy(TWO_STAGES, site / "outside" / "recipe.py")
    information = site / "outside-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[ppgen.models]\nnumbers = outside\nbare = outside.recipe\nlost = outside_is_gone\n"
    )


def by_path(folder):
    shutil.copy(TWO_STAGES, folder / "my_numbers.py")
    return "my_numbers.py", "my_numbers"


def by_entry_point(folder):
    install(folder)
    return "numbers", "numbers"


@pytest.mark.long
@pytest.mark.parametrize("place", [by_path, by_entry_point])
def test_a_model_from_outside_fits_is_killed_goes_on_and_is_used(here, place, capsys):
    word, name = place(here)
    options = ["--steps", "1500", "--chunk", "10", "--checkpoint-every", "20", "--scale", "2"]
    process = start(here, ["fit", word, *options])
    killed = here / "runs" / f"{name}-001"
    deadline = time.monotonic() + 120
    while not (killed / "mean" / "checkpoints" / "20").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (killed / "figures.json").exists()

    run = f"runs/{name}-001"
    process = start(
        here,
        ["list"],
        ["resume", run],
        ["fit", word, *options, "--out", "whole"],
        ["evaluate", run],
        ["sample", run, "--num", "3", "--out", "three.png"],
        ["list"],
    )
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert re.search(rf"{run}  {name}  mean \d+ of 1500 steps .* unfinished\n", out)
    assert (killed / "figures.json").read_text() == (here / "whole/figures.json").read_text()
    assert out.count("held out: 20 numbers") == 3
    assert (here / "three.png").read_text() == "3 of 20"
    assert f"{run}  {name}  mean 1500, distance 1500 of 1500 steps" in out
    assert out.endswith("finished\n")
    if place is by_entry_point:
        assert "  numbers         Another package's numbers.\n" in out
        assert "  bare            Two numbers" in out  # a module in place of a folder
        assert "  lost            cannot be read: there is no module 'outside_is_gone'\n" in out

    # What is not there any more is no damage.
    (here / "my_numbers.py").unlink(missing_ok=True)
    capsys.readouterr()
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert f"{run}  a run of" in out and "damaged" not in out
    assert "which is not there" in out or "'numbers', which is not installed" in out
    assert main(["resume", run]) == 2
    assert_one_line(capsys, "which is not")


RECIPE = """
import dataclasses
from typing import ClassVar
from ppgen.models.parts.recipe import Recipe
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "odd.py: no such file"),
        ("x = 1", "must define one recipe"),
        (RECIPE, "must define one recipe"),  # one that is imported is another's
        ("from two_stages import TwoStages", "it defines none"),
        ("import nothing_like_this", "odd.py cannot be imported: No module named"),
        ("def", "odd.py cannot be imported: invalid syntax"),
    ],
)
def test_a_file_without_one_recipe_is_one_line(here, capsys, text, message):
    if text is not None:
        shutil.copy(TWO_STAGES, here / "two_stages.py")  # a neighbour can be imported
        (here / "odd.py").write_text(text)
    assert main(["fit", "odd.py"]) == 2
    assert_one_line(capsys, message)
    assert not (here / "runs").exists()


def test_a_file_with_two_recipes_is_one_line(here, capsys):
    text = TWO_STAGES.read_text()
    (here / "two.py").write_text(text + text[text.index("@data") :].replace("TwoSt", "OtherSt"))
    assert main(["fit", "two.py"]) == 2
    assert_one_line(capsys, "it defines TwoStages, OtherStages")
    bare = text.replace("@dataclasses.dataclass(frozen=True)\n", "")
    (here / "bare.py").write_text(bare)
    assert main(["fit", "bare.py"]) == 2
    assert_one_line(capsys, "TwoStages must be a frozen dataclass")


def test_an_audit_lets_a_sound_objective_through_and_stops_another(here, capsys):
    assert main(["fit", str(TWO_STAGES), "--audit", "--out", "sound"]) == 0
    out = capsys.readouterr().out
    assert out.count("verdict  agrees") == 2 and "auditing (stage distance)" in out
    assert (here / "sound" / "figures.json").exists()

    halved = "gap = model[name] - goal\n            return gap * jax.lax.stop_gradient(gap)"
    text = TWO_STAGES.read_text().replace("return (model[name] - goal) ** 2", halved)
    (here / "halved.py").write_text(
        text.replace("import jax.numpy", "import jax\n        import jax.numpy")
    )
    assert main(["fit", "halved.py", "--audit", "--out", "halved"]) == 2
    out, error = capsys.readouterr()
    assert "disagrees" in out and "the gradient is not the slope of the objective" in error
    assert not list((here / "halved").rglob("metrics.jsonl"))
    assert main(["fit", "halved.py", "--out", "unaudited"]) == 0  # nothing else sees it
