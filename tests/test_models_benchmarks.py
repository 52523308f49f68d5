"""The marks of models that the suite can afford, and how marks are written down.

`python benchmarks/models.py` has all of them. What `--fast` runs takes a minute or two of CPU; the
bounds are easier, and leave the nets to be trained for longer elsewhere.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from ppgen import models
from ppgen.models.parts import marks
from ppgen.models.random_grid import marks as random_grid


def rooms(file):
    found = Path(models.__path__[0]).glob(f"*/{file}")
    return sorted({path.parent.name for path in found} - {"parts"})


def test_every_room_with_a_recipe_has_marks():
    assert rooms("recipe.py") == rooms("marks.py")


@pytest.mark.long
@pytest.mark.parametrize("model", rooms("marks.py"))
def test_fast_marks_are_passed(model):
    found = importlib.import_module(f"ppgen.models.{model}.marks").marks(True, 10)
    assert [mark for mark in found if mark.passed is False] == []
    assert sum(mark.passed is True for mark in found) > 2


def test_rivals_have_as_many_parameters():
    module = importlib.import_module("ppgen.models.random_grid")
    for problem in (module.Poisson(), module.Burgers()):
        rgnp = module.RGNP(problem, points=4, width=48, nodes=8, key=jax.random.key(0))
        deeponet = random_grid.rival(rgnp, jax.random.key(1))
        counts = [
            sum(x.size for x in jax.tree.leaves(eqx.filter(net, eqx.is_array)))
            for net in (rgnp.forward, deeponet)
        ]
        assert counts[1] == pytest.approx(counts[0], rel=0.05)


def test_errors_are_compared_by_pair_and_problem():
    def trained(*nse_u):
        scores = random_grid.room.Scores(np.asarray(nse_u), *[np.zeros(2)] * 4)
        return random_grid.Trained(scores, float(np.median(nse_u)), 0.0, 1)

    ours, theirs = [trained(1.0, 8.0), trained(4.0, 4.0)], [trained(2.0, 4.0), trained(1.0, 4.0)]
    # The logarithms are 0 and log 2, so their mean is log 2 / 2, and so is its standard error.
    ratio, error = random_grid.ratio_of_errors(ours, theirs)
    assert ratio == pytest.approx(2**0.5) and error == pytest.approx(np.log(2) / 2)
    ratio, error = random_grid.ratio_of_errors(ours[1:], theirs[1:])
    assert ratio == pytest.approx(2.0) and np.isnan(error)


def test_a_missed_mark_is_seen():
    runs = [
        [marks.below("a", 1.0, 2.0), marks.above("b", 1.0, 2.0), marks.report("c", 3.0)],
        [marks.below("a", 3.0, 2.0), marks.above("b", float("nan"), 2.0), marks.report("c", 4.0)],
    ]
    assert [mark.passed for mark in runs[0]] == [True, False, None]
    assert marks.table(runs)[2:] == [
        "| a | 2 (1 to 3) | < 2 | **1 of 2** |",
        "| b | nan (nan to nan) | > 2 | **0 of 2** |",
        "| c | 3.5 (3 to 4) | – | – |",
    ]
    with pytest.raises(ValueError, match="different marks in one row"):
        marks.table([runs[0], runs[1][::-1]])


def test_sections_are_replaced_one_by_one_and_notes_are_kept(tmp_path):
    path = tmp_path / "models.md"
    for name in ("one", "two"):
        marks.write_section(path, name, f"Model {name}", [f"{name} measured"])
    path.write_text(path.read_text() + "\nWhy two misses.\n")
    marks.write_section(path, "one", "Model one", ["one measured again"])
    text = path.read_text()
    assert "one measured again" in text and text.count("one measured") == 1
    assert text.index("one measured") < text.index("two measured") < text.index("Why two misses.")
    assert [p.name for p in tmp_path.iterdir()] == ["models.md"]
