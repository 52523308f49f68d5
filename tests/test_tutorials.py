"""The tutorials run as the scripts that they are."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import matplotlib
import pytest

DOCS = Path(__file__).parent.parent / "docs"
TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("[0-9]*.py"))

# Lessons from before there was a limit of 200 lines, and how long they are: shorten them.
LONGER = {
    "02_choosing_estimators": 272,
    "04_discrete_latents": 337,
    "05_from_numpyro": 357,
    "06_guidance": 276,
    "07_curation_and_preference": 227,
    "08_your_own_estimator": 309,
    "15_how_ppgen_works": 623,
}


def test_there_are_tutorials():
    assert len(TUTORIALS) >= 2


def test_lessons_come_in_an_order_and_the_implementers_is_the_last():
    names = [path.stem for path in TUTORIALS]
    assert [int(name.split("_")[0]) for name in names] == list(range(len(names)))
    assert (names[0], names[-1]) == ("00_your_own_model", "15_how_ppgen_works")
    for path in TUTORIALS:
        if path.stem not in LONGER:
            assert len(path.read_text().splitlines()) <= 200, path


def test_lessons_that_are_longer_do_not_grow():
    for name, lines in LONGER.items():
        [path] = [path for path in TUTORIALS if path.stem == name]
        assert 200 < len(path.read_text().splitlines()) <= lines, name


def test_each_has_a_place_in_the_gallery_and_a_notebook(tmp_path):
    gallery = runpy.run_path(str(DOCS / "gallery.py"))
    page = gallery["page"](TUTORIALS[0].parent)
    seconds = json.loads((DOCS / "pictures" / "tutorials" / "seconds.json").read_text())
    assert [*seconds] == [path.stem for path in TUTORIALS]
    gallery["write_notebooks"](TUTORIALS[0].parent, tmp_path)
    for path in TUTORIALS:
        title, about = gallery["title_and_about"](path)
        assert len(title) > 5 and about.endswith((".", "?")) and f"# # {title}" in path.read_text()
        assert f"**[{title}](tutorials/{path.stem})**\n\n{about}\n\n{seconds[path.stem]} s" in page
        assert 0 < (DOCS / "pictures" / "tutorials" / f"{path.stem}.png").stat().st_size < 40_000
        cells = json.loads((tmp_path / f"{path.stem}.ipynb").read_text())["cells"]
        assert {cell["cell_type"] for cell in cells} == {"code", "markdown"} and len(cells) > 8


@pytest.mark.sweep(quick=["15_how_ppgen_works"])
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(path):
    matplotlib.use("Agg")
    runpy.run_path(str(path), run_name="__main__")
    matplotlib.pyplot.close("all")
