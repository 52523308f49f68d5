"""Which tests are in the first tier, that `pytest` runs, and which in the second, `pytest -m long`.

`@pytest.mark.long` puts a test into the second tier. `@pytest.mark.sweep(of=n)` does so with all
but one in `n` of the parameter sets of a test, and `@pytest.mark.sweep(quick=[...])` with all but
the named ones; at least one of each test stays. Which one in `n` is decided by a hash of its name:
the choice is the same in every process, and does not follow the order in which parameters vary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

import pytest

MARKERS = (
    "long: in the second tier, `pytest -m long`, which `.ci/run` runs too",
    "sweep(of, quick): one in so many of a test's parameter sets, or the named ones, is in the"
    " first tier, the rest are long",
)

# Files whose tests are all long, so that nothing of what they test is in the first tier.
NEVER_QUICK = pytest.StashKey[list[str]]()


def first_tier(ids: list[str], of: int | None = None, quick: Sequence[str] = ()) -> set[str]:
    """The parameter sets of a test that stay in the first tier; at least one.

    Args:
        ids: Those of all parameter sets, as in the brackets of the test's name.
        of: One in so many stays, rounded up; None for none but `quick`.
        quick: Those that stay in any case.
    """
    by_hash = sorted(ids, key=lambda name: sha256(name.encode()).digest())
    named = [name for name in ids if name in quick]
    return {*named, *by_hash[: -(-len(ids) // of) if of else not named]}


def sort_into_tiers(items: list[pytest.Item]) -> None:
    """Mark as long what sweeps leave to the second tier."""
    sweeps = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sweep"):
            sweeps[item.nodeid.split("[")[0]].append(item)
    for tests in sweeps.values():
        ids = [test.name.partition("[")[2].removesuffix("]") for test in tests]
        quick = first_tier(ids, **tests[0].get_closest_marker("sweep").kwargs)
        for name, test in zip(ids, tests, strict=True):
            if name not in quick:
                test.add_marker("long")


def never_quick(items: list[pytest.Item]) -> list[str]:
    """The files whose tests are all long."""
    quick: dict[str, bool] = defaultdict(bool)
    for item in items:
        quick[item.nodeid.split("::")[0]] |= item.get_closest_marker("long") is None
    return sorted(path for path, some in quick.items() if not some)
