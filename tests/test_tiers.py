"""Tests are in one of two tiers: both are run, and every file has a test in the first one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tiers import NEVER_QUICK, first_tier, never_quick, sort_into_tiers

ROOT = Path(__file__).parent.parent


@dataclass
class Item:
    """As much of a test that pytest has collected as has to do with tiers."""

    nodeid: str
    marks: list[pytest.Mark] = field(default_factory=list)

    @property
    def name(self):
        return self.nodeid.split("::")[1]

    def get_closest_marker(self, name):
        return next((mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, name):
        self.marks.append(getattr(pytest.mark, name).mark)

    @property
    def long(self):
        return self.get_closest_marker("long") is not None


def sweep(test, sets, **options):
    return [Item(f"{test}[{i}]", [pytest.mark.sweep(**options).mark]) for i in sets]


def test_a_sweep_leaves_one_in_so_many_and_one_of_each_test():
    many, few = sweep("a.py::test_many", range(400), of=4), sweep("a.py::test_few", "xyz", of=50)
    named, gone = (
        sweep("a.py::test_named", "xyz", quick="yz"),
        sweep("a.py::test_gone", "xyz", quick="w"),
    )
    plain, long = Item("a.py::test_plain"), Item("b.py::test_long", [pytest.mark.long.mark])
    items = [*many, *few, *named, *gone, plain, long]
    sort_into_tiers(items)
    assert [sum(not item.long for item in test) for test in (many, few, gone)] == [100, 1, 1]
    assert [item.long for item in named] == [True, False, False]
    assert not plain.long and long.long
    assert never_quick(items) == ["b.py"]


def test_a_sweep_does_not_follow_the_order_of_parameters():
    """The second of two parameters varies in step with the sweep."""
    chosen = first_tier([f"{a}-{b}" for a in "abcdefgh" for b in "0123"], of=4)
    assert len(chosen) == 8 and {name[2] for name in chosen} == set("0123")


def test_every_file_has_a_test_in_the_first_tier(request):
    """Of what was collected: of all files, where the whole suite was."""
    assert request.config.stash[NEVER_QUICK] == []


def test_both_tiers_are_run():
    run = (ROOT / ".ci" / "run").read_text()
    assert "-m" not in (ROOT / "README.md").read_text().split(".venv/bin/pytest")[1].splitlines()[0]
    assert ".venv/bin/pytest -m long\n" in run
