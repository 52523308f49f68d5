"""Runs whose files are damaged, or whose data have changed: one line each, and the others go on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_runs import SHORT, TINY, cache, here  # noqa: F401

from ppgen.models.cli import main
from ppgen.models.cli._run_folder import read_json, write_json
from ppgen.models.parts.errors import CommandError


def test_what_is_not_finite_is_null(tmp_path):
    path = tmp_path / "figures.json"
    write_json(path, {"a": [float("nan"), 1.5], "b": {"c": -np.inf}, "d": (np.float64(2.0), True)})
    assert json.loads(path.read_text()) == {"a": [None, 1.5], "b": {"c": None}, "d": [2.0, True]}


@pytest.mark.parametrize("text", ['{"a": NaN}', "[" * 100_000, "[1]", "{", "\udc80"], ids=range(5))
def test_what_is_no_object_of_json_is_one_error(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CommandError, match="not valid JSON|does not hold an object"):
        read_json(path)


def test_a_run_without_numbers_is_listed_and_one_of_other_data_is_refused(here, capsys):  # noqa: F811
    data = here / "x.npz"
    images = np.random.default_rng(0).integers(0, 4, (40, 4, 4))
    np.savez(data, images=images)
    options = [*TINY["vae"], *SHORT, "--data", str(data)]
    for name in ("one", "two"):
        assert main(["fit", "vae", *options, "--out", f"runs/{name}"]) == 0
    said = capsys.readouterr().out
    assert said.index("held out") < said.index("wrote checkpoints")
    with (here / "runs" / "one" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "objective": null}\n')
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("runs/one" in line and "objective -" in line for line in lines)
    assert any("runs/two" in line and "finished" in line for line in lines)
    assert main(["evaluate", "runs/two", "--particles", "3"]) == 0
    np.savez(data, images=np.concatenate([images, images[:3]]))
    assert main(["evaluate", "runs/two"]) == 2
    assert "not those" in capsys.readouterr().err
    (here / "runs" / "two" / "figures.json").write_text("{}")
    assert main(["resume", "runs/two"]) == 2
    assert "damaged" in capsys.readouterr().err
