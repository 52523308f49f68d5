"""The tutorials run as the scripts that they are."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import matplotlib
import pytest

DOCS = Path(__file__).parent.parent / "docs"
TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("[0-9]*.py"))


def test_there_are_tutorials():
    assert len(TUTORIALS) >= 2


def test_lessons_come_in_an_order_and_the_implementers_is_the_last():
    names = [path.stem for path in TUTORIALS]
    assert [int(name.split("_")[0]) for name in names] == list(range(len(names)))
    assert (names[0], names[-1]) == ("00_your_own_model", "11_how_ppgen_works")
    assert len(TUTORIALS[0].read_text().splitlines()) <= 200


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


@pytest.mark.sweep(quick=["11_how_ppgen_works"])
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(path):
    matplotlib.use("Agg")
    runpy.run_path(str(path), run_name="__main__")
    matplotlib.pyplot.close("all")
