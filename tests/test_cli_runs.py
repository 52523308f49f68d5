"""Every model of the command line fits, goes on after being killed, is evaluated and sampled."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from cli_runs import (
    SHORT,
    TINY,
    assert_one_line,
    cache,
    here,
    images,
    metrics_of,
    run,
)

from ppgen.inference import FitError, load_fitted
from ppgen.models.cli import main
from ppgen.models.cli._interrupts import SIGNALS, deferred
from ppgen.models.cli._options import from_record
from ppgen.models.cli._rooms import room_of_run
from ppgen.models.cli._run_folder import read_config
from ppgen.models.parts.runs import fresh, part_of

TWO_STAGES = Path(__file__).parent / "two_stages.py"
STAGES = ("mean", "distance")


def saved(folder):
    """The last parameters of every stage, and what comes with them."""
    config = read_config(folder)
    options = from_record(room_of_run(folder, config), config["options"], "config")
    recipe, ema = options.recipe, options.training.ema
    model = fresh(recipe, dataclasses.replace(options.training, seed=9), config["facts"])
    found = {}
    for name in recipe.stages:
        params = part_of(recipe.stage(name, options.training), model)
        found[name] = load_fitted(folder / name / "checkpoints", params, ema=ema)
    return found


def assert_same(a, b):
    assert a.keys() == b.keys()
    leaves = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(leaves[0]) == len(leaves[1])
    for x, y in zip(*leaves, strict=True):
        if isinstance(x, jax.Array | np.ndarray):
            np.testing.assert_array_equal(x, y)


def python(folder, program, *arguments, stdout=subprocess.DEVNULL, **environment):
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stderr=subprocess.PIPE,
        stdout=stdout,
        text=True,
    )


def start(folder, *arguments, **environment):
    program = "import sys; from ppgen.models.cli import main; sys.exit(main())"
    return python(folder, program, *arguments, **environment)


def wait_for(process, condition):
    deadline = time.monotonic() + 240
    while not condition() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


# --- every model ----------------------------------------------------------------------------------


@pytest.mark.sweep(quick=["vae"])
@pytest.mark.parametrize("model", TINY)
def test_a_model_fits_goes_on_is_evaluated_and_sampled(here, model, capsys):
    assert main(["fit", model, *TINY[model], *SHORT, "--ema", ".9"]) == 0
    folder = here / "runs" / f"{model}-001"
    printed, progress = capsys.readouterr()
    assert f"writing to runs/{model}-001" in printed and "±" in printed
    assert "4/4" in progress and "objective" in progress
    table = printed[printed.index("held out:") : printed.index("wrote")]

    assert main(["evaluate", f"runs/{model}-001"]) == 0
    assert capsys.readouterr().out == table
    assert main(["sample", f"runs/{model}-001", "--num", "4", "--out", "a.png"]) == 0
    assert matplotlib.image.imread(here / "a.png").shape[0] > 100
    assert {"loss.png", "samples.png"} <= {path.name for path in folder.rglob("*.png")}

    # As if it had been killed between the first checkpoint and the second one.
    capsys.readouterr()
    shutil.copytree(folder, "killed")
    killed = here / "killed"
    config = read_config(killed)
    recipe = from_record(room_of_run(killed, config), config["options"], "config").recipe
    stage = killed / recipe.stages[-1]
    shutil.rmtree(stage / "checkpoints" / "4")
    (killed / "figures.json").unlink()
    with (stage / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "obj')
    assert main(["list", "."]) == 0
    assert "unfinished" in capsys.readouterr().out
    assert main(["resume", "killed"]) == 0
    assert table in capsys.readouterr().out
    assert_same(saved(folder), saved(killed))
    assert metrics_of(folder / stage.relative_to(killed)) == metrics_of(stage)
    assert (killed / "figures.json").read_text() == (folder / "figures.json").read_text()

    stages = recipe.stages
    assert main(["resume", "killed"]) == 0
    assert f"killed is finished, after {4 * len(stages)} steps" in capsys.readouterr().out
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    steps = ", ".join(f"{name} 4".strip() for name in stages)
    assert f"runs/{model}-001  {model}  {steps} of 4 steps" in listed
    assert listed.endswith("finished\n")


def test_a_run_of_two_stages_goes_on_in_either(here, capsys):
    assert main(["fit", str(TWO_STAGES), "--scale", "2"]) == 0
    folder = here / "runs" / "two_stages-001"
    assert (folder / "samples.png").read_text() == "100 of 20"
    whole = saved(folder)
    assert whole["distance"].params > 0
    for stage in STAGES:
        killed = here / f"killed-{stage}"
        shutil.copytree(folder, killed)
        (killed / "figures.json").unlink()
        shutil.rmtree(killed / stage / "checkpoints" / "4")
        if stage == "mean":
            shutil.rmtree(killed / "distance")
        assert main(["resume", str(killed)]) == 0
        assert_same(saved(killed), whole)
        for name in STAGES:
            assert metrics_of(killed / name) == metrics_of(folder / name)
    capsys.readouterr()
    assert main(["list"]) == 0
    assert "mean 4, distance 4 of 4 steps" in capsys.readouterr().out


# --- killed, interrupted --------------------------------------------------------------------------


@pytest.mark.long
def test_a_killed_run_goes_on_and_ends_in_the_same_bits(here, images):
    arguments = [*TINY["vae"], "--data", images, "--steps", "600", "--chunk", "10"]
    arguments += ["--checkpoint-every", "60", "--early-stopping", "90", "--evaluate-every", "40"]
    process = start(here, "fit", "vae", *arguments, "--out", "killed")
    checkpoints = here / "killed" / "checkpoints"
    wait_for(process, lambda: (checkpoints / "60").exists())
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    reached = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    assert 0 < reached < 600 and not (here / "killed" / "figures.json").exists()
    assert main(["resume", "killed"]) == 0
    assert main(["fit", "vae", *map(str, arguments), "--out", "whole"]) == 0
    assert_same(saved(here / "killed"), saved(here / "whole"))
    assert metrics_of(here / "killed") == metrics_of(here / "whole")
    assert any("held_out" in line for line in metrics_of(here / "whole"))


@pytest.mark.long
def test_an_interrupt_ends_with_a_checkpoint_and_says_how_to_go_on(here, images, capsys):
    arguments = ["fit", "vae", *TINY["vae"], "--steps", "1000000", "--chunk", "7"]
    arguments += ["--checkpoint-every", "1000000", "--data", images, "--out", "run"]
    process = start(here, *arguments)
    metrics = here / "run" / "metrics.jsonl"
    wait_for(process, lambda: metrics.exists() and metrics.read_text())
    assert main(["list", "."]) == 0
    assert capsys.readouterr().out.endswith("running\n")
    assert main(["resume", "run"]) == 2
    assert "is being fitted by another process" in capsys.readouterr().err
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert error.splitlines()[-1] == "ppgen: interrupted; `ppgen resume run` goes on with it"
    assert "Traceback" not in error
    last = metrics_of(here / "run")[-1]["step"]
    assert [path.name for path in (here / "run" / "checkpoints").iterdir()] == [str(last)]
    assert main(["evaluate", "run", "--particles", "2"]) == 0


def test_a_second_interrupt_ends_at_once(here):
    """In the middle of something long that is not Python, as a chunk of steps is."""
    program = """
    import hashlib, ppgen.models.cli._interrupts as interrupts
    with interrupts.deferred():
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    """
    process = python(here, textwrap.dedent(program), stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert "again to exit at once" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and not error


def test_signals_are_deferred_and_then_as_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    with deferred() as interrupts:
        assert interrupts.number is None
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while interrupts.number is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert interrupts.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in SIGNALS] == before


# --- what a fit may be asked for ------------------------------------------------------------------


def test_options_of_fits(here, images, capsys):
    """Early stopping, skipped steps, half precision: each does what fit does of it."""
    options = ["--learning-rate", "1e30", "--on-nonfinite", "skip", "--precision", "bfloat16"]
    options += ["--early-stopping", "1", "--evaluate-every", "2", "--steps", "40", "--chunk", "2"]
    assert main(["fit", "vae", *TINY["vae"], "--data", str(images), *options, "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "stopped early after 2 steps" in out
    assert "skipped 1 steps that were not finite" in out
    assert json.loads((here / "run" / "figures.json").read_text())["steps"] == 2
    assert metrics_of(here / "run")[-1]["skipped"] == 1


def test_a_diverging_run_is_one_line(here, images, capsys, monkeypatch):
    """However long the message is; how `fit` finds the step is tested with it."""

    def diverge(*_, **__):
        raise FitError("the objective is nan at step 3\n  at site 'z'")

    monkeypatch.setattr("ppgen.models.parts.runs.fit", diverge)
    assert main(["fit", "vae", *TINY["vae"], "--data", str(images), "--out", "run"]) == 2
    assert_one_line(capsys, "the objective is nan at step 3 at site 'z'")
    assert not (here / "run" / "figures.json").exists()


def test_an_evaluation_may_be_of_other_data_and_particles(run, capsys):
    assert main(["evaluate", str(run), "--split", "train", "--particles", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("trained on: 40 images") and "IWELBO-3 " in out


# Elsewhere in the tests, warnings are errors.
@pytest.mark.filterwarnings("default:the checkpoint of step:UserWarning")
def test_a_damaged_checkpoint_is_a_note_and_the_one_before_is_read(here, run, capsys):
    shutil.copytree(run, "run")
    for path in (here / "run" / "checkpoints" / "4").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    assert main(["sample", "run", "--num", "4"]) == 0
    out, err = capsys.readouterr()
    assert out == "wrote samples.png\n"
    assert err.startswith("ppgen: note: the checkpoint of step 4") and err.count("\n") == 1
    # Nothing is put aside: a fit may be running.
    assert {path.name for path in (here / "run" / "checkpoints").iterdir()} == {"2", "4"}


# --- the cache, devices ---------------------------------------------------------------------------


def test_the_cache_is_used_and_a_folder_that_cannot_be_written_is_a_note(
    here, run, cache, monkeypatch, capsys
):
    assert len(list((cache / "ppgen" / "compiled").iterdir())) > 10
    (here / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "file"))
    assert main(["sample", str(run), "--out", "a.png"]) == 0
    out, err = capsys.readouterr()
    assert "wrote a.png" in out and err.startswith("ppgen: note: no cache of compiled programs")
    monkeypatch.setattr(jax.config, "update", None)  # would fail
    assert main(["sample", str(run), "--out", "b.png", "--no-compilation-cache"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.long
def test_two_processes_are_one_run(here, images, run):
    """Each with two devices: the numbers are those of one, up to the order of sums."""
    arguments = [*TINY["vae"], *SHORT, "--objective", "iwelbo", "--data", images, "--out", "run"]
    arguments += ["--coordinator", f"localhost:{free_port()}", "--num-processes", "2"]
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    both = [
        start(here, "fit", "vae", *arguments, "--process-id", i, XLA_FLAGS=flags) for i in (0, 1)
    ]
    for process in both:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    a, b = saved(run)[""], saved(here / "run")[""]
    np.testing.assert_allclose(a.history, b.history, rtol=1e-4)
    assert (here / "run" / "figures.json").exists()


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
