"""Every estimator in each configuration that is worth a try: what `ppgen.tune` chooses from."""

from __future__ import annotations

import inspect

import ppgen.estimators
from ppgen.estimators._base import AbstractEstimator


def every_configuration() -> list[AbstractEstimator]:
    """An instance for each of the `configurations` of each exported estimator."""
    classes = [
        value
        for value in vars(ppgen.estimators).values()
        if isinstance(value, type)
        and issubclass(value, AbstractEstimator)
        and not inspect.isabstract(value)
    ]
    return [cls(**options) for cls in classes for options in cls.configurations]
