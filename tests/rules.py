"""What the tables about primitives say of an equation, and where these tables are."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from primitive_calls import Call, draw, exists

import ppgen
from ppgen._analysis import cost_terms, discontinuity, hidden_randomness
from ppgen._analysis.influence import NONE, Influence
from ppgen._evaluation import deferred_sums
from ppgen.errors import DerivativeError, DiscontinuityError

STRUCTURE = set(
    "CALLS RANDOM SITES REMATS CUSTOM FOLLOWED _KEYS _REGIONS _RULES _LOOPS _BODIES _INLINED "
    "_TOLD _KEPT _CHOICES PARAMETERS _ACCURACY".split()
)
"""Names of what has jaxprs that are walked through, or is no function; and the parameters."""


def _tables() -> dict[str, Any]:
    """Every collection of names of primitives that a module of the language has."""
    found = {}
    root = Path(ppgen.__file__).parent
    for path in sorted(root.glob("_*/[!_]*.py")):
        module = importlib.import_module(f"ppgen.{path.parent.name}.{path.stem}")
        for name, value in vars(module).items():
            if name in STRUCTURE or not isinstance(value, (dict, set, frozenset, list, tuple)):
                continue
            keys = [k for k in value if isinstance(k, str)]
            if keys and len(keys) == len(value) and sum(map(exists, keys)) * 2 > len(keys):
                home = getattr(module, "__name__", "")
                if not any(value is v for v, _ in found.values()):
                    found[f"{home}.{name}"] = value, name
    return {name: value for name, (value, _) in found.items()}


TABLES: dict[str, Any] = _tables()
"""The tables whose rows are names of primitives, found by being there."""


def rows(table: str) -> set[str]:
    """The names of the primitives in a table."""
    return set(TABLES[table])


@cache
def calls(name: str, count: int = 4) -> list[Call]:
    """Calls of a primitive, the same ones in all proofs; none where this JAX does not have it."""
    rng = np.random.default_rng(sum(map(ord, name)))
    drawn = (draw(rng, name) for _ in range(count))
    return [c for c in drawn if c is not None]


def continuous(eqn: Any, moving: Sequence[bool]) -> bool:
    """Whether its real results are said to be continuous in its `moving` operands together.

    By both analyses: of choices, and of randomness that no choice stands for.
    """
    ins = [Influence(pathwise=1) if m else NONE for m in moving]
    by_choices = discontinuity.discontinuity(eqn, ins) is None
    facts = [hidden_randomness.Fact(1, True) if m else hidden_randomness.NOTHING for m in moving]
    try:
        hidden_randomness._Walk().primitive(eqn, facts, True)
    except DiscontinuityError:
        return by_choices and eqn.primitive.name in discontinuity.WITHOUT_DERIVATIVE
    return by_choices


def steady(eqn: Any) -> list[int]:
    """The positions of the real results that are continuous where the equation is."""
    vectors = discontinuity.signed(eqn)
    return [
        k for k, v in enumerate(eqn.outvars) if discontinuity.is_inexact(v) and k not in vectors
    ]


def linear_claims(eqn: Any) -> list[tuple[str, tuple[int, ...], tuple[bool, ...]]]:
    """What it is said to be linear in: `(how, operands together, operands that are zero)`.

    "affine" allows for what does not depend on those operands, "linear" does not.
    """
    n = len(eqn.invars)
    found = []
    for moving in itertools.product((False, True), repeat=n):
        if not any(moving) or n > 4:
            continue
        which = tuple(k for k in range(n) if moving[k])
        if cost_terms.is_sum(eqn, moving, shown=False):
            found.append(("affine", which, ()))
        if all(discontinuity.is_inexact(eqn.invars[k]) for k in which):
            facts = [hidden_randomness.Fact(linear=m, random=m) for m in map(int, moving)]
            try:
                hidden_randomness._Walk().check_linear(eqn, facts)
                found.append(("affine", which, ()))
            except DerivativeError:
                pass
    if len(eqn.outvars) == 1:
        for k in (k for k in range(n) if discontinuity.is_inexact(eqn.invars[k])):
            # What holds whatever the others are holds where they are zero.
            for known in ([False] * n, [i != k for i in range(n)]):
                if deferred_sums.is_linear_step(eqn, k, known):
                    found.append(("linear", (k,), tuple(known)))
                    break
    return found
