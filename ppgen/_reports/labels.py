"""Names of choices of estimators in tables: what a user would write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx

from ppgen.estimators import AbstractEstimator


def written(choice: Any) -> str:
    """A choice of estimators as one writes it, options that differ from their defaults only."""
    if choice is None:
        return "as the program says"
    if isinstance(choice, AbstractEstimator):
        return _short(choice)
    if isinstance(choice, Mapping):
        return ", ".join(f"{site}: {written(each)}" for site, each in choice.items())
    return str(choice)


def _short(estimator: Any) -> str:
    given = []
    for field in dataclasses.fields(estimator):
        value = getattr(estimator, field.name)
        default = field.default
        if default is dataclasses.MISSING or not (value is default or _same(value, default)):
            shown = _short(value) if dataclasses.is_dataclass(value) else value
            given.append(f"{field.name}={shown}")
    return f"{type(estimator).__name__}({', '.join(given)})"


def _same(a: Any, b: Any) -> bool:
    return bool(eqx.tree_equal(a, b))
