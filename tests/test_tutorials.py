"""The tutorials run as the scripts that they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib
import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("[0-9]*.py"))


def test_there_are_tutorials():
    assert len(TUTORIALS) >= 2


def test_lessons_come_in_an_order_and_the_implementers_is_the_last():
    names = [path.stem for path in TUTORIALS]
    assert [int(name.split("_")[0]) for name in names] == list(range(len(names)))
    assert (names[0], names[-1]) == ("00_your_own_model", "11_how_ppgen_works")
    assert len(TUTORIALS[0].read_text().splitlines()) <= 200


@pytest.mark.sweep(quick=["11_how_ppgen_works"])
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(path):
    matplotlib.use("Agg")
    runpy.run_path(str(path), run_name="__main__")
    matplotlib.pyplot.close("all")
