"""The tutorials run as the scripts that they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib
import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("[0-9]*.py"))


def test_there_are_tutorials():
    assert len(TUTORIALS) >= 2


@pytest.mark.sweep(quick=["00_how_ppgen_works"])
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(path):
    matplotlib.use("Agg")
    runpy.run_path(str(path), run_name="__main__")
    matplotlib.pyplot.close("all")
