"""Exports: weights and a card, which load without running code; and what `ppgen list` says."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import struct
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from cli_runs import SHORT, TINY, assert_one_line, cache, here, images, run

from ppgen.models import load_exported, load_run
from ppgen.models.cli import main
from ppgen.models.parts.errors import CommandError

TWO_STAGES = Path(__file__).parent / "two_stages.py"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "vae"
    assert main(["export", str(run), "--out", str(out)]) == 0
    return out


def header(path):
    """By the format: the length of a JSON object, the object, and then numbers."""
    data = path.read_bytes()
    [length] = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def test_an_export_is_the_run(run, exported):
    assert {path.name for path in exported.iterdir()} == {
        "README.md", "card.json", "model.safetensors",
    }  # fmt: skip
    ours, theirs = load_run(run), load_exported(exported)
    a, b = (jax.tree.leaves(x.model) for x in (ours, theirs))
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    key = jax.random.key(1)
    np.testing.assert_array_equal(ours.sample(key, 3), theirs.sample(key, 3))


def test_the_weights_are_plain_numbers_by_name(exported, run):
    names, numbers = header(exported / "model.safetensors")
    assert names.pop("__metadata__") == {"format": "ppgen", "model": "vae"}
    assert all(entry["dtype"] == "F32" for entry in names.values())
    weights = load_run(run).model.decoder.body.layers[0].weight
    begin, end = names["decoder.body.layers.0.weight"]["data_offsets"]
    np.testing.assert_array_equal(np.frombuffer(numbers[begin:end], "<f4"), weights.ravel())
    card = json.loads((exported / "card.json").read_text())
    assert card["parameters"] == sum(np.prod(entry["shape"]) for entry in names.values())


def test_the_card_says_options_data_and_figures(exported, run, images):
    card, page = json.loads((exported / "card.json").read_text()), (exported / "README.md")
    text = page.read_text(encoding="utf-8")
    assert card["figures"] == json.loads((run / "figures.json").read_text())["figures"]
    assert "--objective=iwelbo" in text and "nats per image" in text and "IWELBO-500" in text
    assert card["options"]["data"] == "images.npz"  # not where it lay
    for place in (run.parent, images.parent):
        assert str(place) not in text + (exported / "card.json").read_text()
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block.replace("this/folder", str(exported)), {})


def test_loading_runs_nothing_of_the_folder(here, exported, capsys):
    """Not even the file that a model is from, which a card never names."""
    assert main(["fit", str(TWO_STAGES), "--out", "run"]) == 0
    assert main(["export", "run"]) == 0
    assert "wrote run/export" in capsys.readouterr().out
    card = json.loads((here / "run" / "export" / "card.json").read_text())
    assert "path" not in card and str(TWO_STAGES) not in json.dumps(card)
    (here / "run" / "export" / "two_stages.py").write_text("raise SystemExit('ran code')")
    with pytest.raises(CommandError, match="not installed; load_exported"):
        load_exported("run/export")
    spec = importlib.util.spec_from_file_location("two_stages_of_mine", TWO_STAGES)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = load_exported("run/export", recipe=module.TwoStages)
    assert found.model == load_run("run").model
    assert found.figures().record() == load_run("run").figures().record()


def changed(exported, here, **card):
    shutil.copytree(exported, here / "copy")
    path = here / "copy" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | card))
    return here / "copy"


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"model": "gan"}, "'gan' is not installed"),
        ({"options": None}, "it has no 'options'"),
        ({"format": 2}, "format 2, not 1"),
        ({"facts": {}}, "is damaged"),
        ({"options": {"dimensions": 3, "hidden": 8}}, "is of another model"),
        ({"options": {"stepz": 3}}, "no option 'stepz'"),
    ],
)
def test_a_card_of_something_else_is_an_error(here, exported, card, message):
    with pytest.raises(CommandError, match=message):
        load_exported(changed(exported, here, **card))


def test_damaged_weights_are_an_error(here, exported):
    folder = changed(exported, here)
    weights = folder / "model.safetensors"
    for content in (weights.read_bytes()[:-4], b"", b"x" * 40):
        weights.write_bytes(content)
        with pytest.raises(CommandError, match="is damaged"):
            load_exported(folder)
    weights.unlink()
    with pytest.raises(CommandError, match="no export of a model: it has no model.safetensors"):
        load_exported(folder)


def test_nothing_is_overwritten_and_what_is_missing_is_said(here, run, exported, capsys):
    assert main(["export", str(run), "--out", str(exported)]) == 2
    assert_one_line(capsys, "exists; choose another folder")
    assert main(["export", "nothing"]) == 2
    assert_one_line(capsys, "nothing is not the folder of a run")


def test_a_missing_package_says_what_to_install(run, here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert main(["export", str(run), "--out", "new"]) == 2
    assert_one_line(capsys, "pip install 'ppgen[export]'")
    assert not (here / "new").exists()


# --- list -----------------------------------------------------------------------------------------


def test_list_says_figure_unit_date_and_what_differs(run, capsys):
    assert main(["list", str(run.parent)]) == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith(f"  {run}")]
    x = json.loads((run / "figures.json").read_text())["figures"]["IWELBO-500"]["nats per image"]
    assert f"IWELBO-500 {x['mean']:.5g} ± {x['standard_error']:.2g} nats per image" in line
    began = json.loads((run / "config.json").read_text())["began"]
    assert began.replace("T", " ") in line
    assert "--objective=iwelbo" in line and "--steps=4" in line and "--likelihood" not in line
    assert line.endswith("finished")


def test_list_takes_runs_of_before_as_they_are(run, here, capsys):
    shutil.copytree(run, here / "runs" / "old")
    path = here / "runs" / "old" / "config.json"
    config = json.loads(path.read_text())
    del config["began"]
    path.write_text(json.dumps(config))
    for figures in ('{"steps": 4}', '{"figures": {}}', '{"figures": {"a": {"b": {"mean": null}}}}'):
        (here / "runs" / "old" / "figures.json").write_text(figures)
        assert main(["list"]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert "nats" not in line and re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", line)
