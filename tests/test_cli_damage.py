"""Runs whose files are damaged, or whose data have changed: one line each, and the others go on."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
from cli_runs import SHORT, TINY, cache, here, images, run  # noqa: F401

from ppgen.models.cli import main
from ppgen.models.cli._commands import options_of
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


def _places(content, path=()):
    """Every place in nested objects and lists, the whole included."""
    yield path
    if isinstance(content, list):
        content = dict(enumerate(content))
    for key, value in content.items() if isinstance(content, dict) else ():
        yield from _places(value, (*path, key))


def _changed(content, path, value):
    """With another value at a place, or none there, or one more beside it."""
    content = copy.deepcopy(content)
    *before, last = path
    inside = content
    for key in before:
        inside = inside[key]
    if value == "removed":
        del inside[last]
    elif value == "one more" and isinstance(inside, dict):
        inside[f"{last}s"] = 1
    elif value == "one more":
        inside.append(1)
    elif inside[last] == value and type(inside[last]) is type(value):
        return None
    else:
        inside[last] = value
    return content


VALUES = (None, True, "x", -1, 1e9, 1.5, [], {}, float("nan"), "removed", "one more")


@pytest.mark.long
def test_a_configuration_that_was_changed_is_refused_wherever_it_was(here, run):  # noqa: F811
    """Whatever it would be read as: the parameters are of what was fitted."""
    folder = here / "changed"
    folder.mkdir()
    written = json.loads((run / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written))
    assert options_of(folder).training.steps == written["options"]["steps"]
    tried = 0
    for path in _places(written):
        for value in VALUES:
            new = _changed(written, path, value) if path else value
            moved = path == ("options", "data") and isinstance(value, str) and len(value) == 1
            # Neither decides what the parameters mean; older versions wrote no fingerprint.
            moved |= path == ("began",) and isinstance(value, str | None) and value != "one more"
            moved |= path == ("fingerprint",) and value == "removed"
            if new is None and path or moved or path and path[-1] == "data" and value is None:
                continue
            (folder / "config.json").write_text(json.dumps(new))
            with pytest.raises(CommandError, match="/changed") as error:
                options_of(folder)
            assert "\n" not in str(error.value)
            tried += 1
    assert tried > 250


@pytest.mark.parametrize("name", ["metrics.jsonl", "figures.json"])
def test_a_file_that_is_not_what_its_name_says(here, run, capsys, name):  # noqa: F811
    """The run is listed with what there is, and going on with it is one line or goes on."""
    folder = here / "runs" / "one"
    shutil.copytree(run, folder)
    file = folder / name
    texts = (
        b"",
        bytes(range(256)),
        b"null",
        b"[1, 2]",
        b"{}",
        b'{"step": [], "objective": {}, "steps": "x"}',
        b'{"step": NaN, "objective": true, "steps": true}',
        b'{"step": 1e400, "steps": true}',
        b"[" * 100_000,
        None,
    )
    for text in texts:
        if text is None:
            file.unlink()
            file.mkdir()
        else:
            file.write_bytes(text)
        assert main(["list"]) == 0
        assert "runs/one" in capsys.readouterr().out
        if name == "figures.json" and text is not None:
            assert main(["resume", str(folder)]) == 2
            said = capsys.readouterr().err
            assert said.startswith("ppgen: ") and said.count("\n") == 1 and name in said
