"""A run that an older version wrote is resumed: its layout, config, checkpoints and random keys.

`data/interrupted_vae.tar.xz` is the folder of a run as the command wrote it before models had
folders of their own, killed after the second of four steps:

    ppgen fit vae --hidden 2 --dimensions 2 --batch-size 16 --ema .9 \
        --steps 4 --chunk 2 --checkpoint-every 2

The figures here are those that the same version reached without being killed.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from cli_runs import cache, here, metrics_of

from ppgen.models import load_run
from ppgen.models.cli import main

ARCHIVE = Path(__file__).parent / "data" / "interrupted_vae.tar.xz"
OBJECTIVE = {2: -188.69549560546875, 4: -187.87863159179688}
"""By step."""
HELD_OUT = {"per-pixel histograms": -108.09201973590847, "ELBO": -187.49016080400358}
"""Nats per image."""


@pytest.fixture
def old(here):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(here / "old", filter="data")
    return here / "old"


def test_it_is_resumed_to_the_figures_of_its_version(old, capsys):
    assert main(["list", str(old.parent)]) == 0
    assert "vae  2 of 4 steps" in capsys.readouterr().out
    config = (old / "config.json").read_text()
    assert main(["resume", str(old)]) == 0
    assert (old / "config.json").read_text() == config
    assert [line["step"] for line in metrics_of(old)] == [2, 4]
    for line in metrics_of(old):
        np.testing.assert_allclose(line["objective"], OBJECTIVE[line["step"]], rtol=1e-5)
    figures = json.loads((old / "figures.json").read_text())
    assert figures["steps"] == 4
    for label, nats in HELD_OUT.items():
        found = figures["figures"][label]["nats per image"]["mean"]
        np.testing.assert_allclose(found, nats, rtol=1e-4)
    assert main(["resume", str(old)]) == 0
    assert "is finished, after 4 steps" in capsys.readouterr().out


def test_it_is_loaded_as_it_is(old):
    run = load_run(old)
    assert run.training.steps == 4 and run.recipe.hidden == 2
    assert run.sample(jax.random.key(0), 3).shape == (3, 64)


def test_damage_to_it_is_an_error_and_no_fresh_start(old, capsys):
    files = [path for path in (old / "checkpoints" / "2" / "arrays").rglob("*") if path.is_file()]
    max(files, key=lambda path: path.stat().st_size).write_bytes(b"damaged")
    assert main(["resume", str(old)]) != 0
    assert "ppgen: " in capsys.readouterr().err
    assert metrics_of(old) == [{"step": 2, "objective": OBJECTIVE[2]}]
