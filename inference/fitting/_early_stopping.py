"""Early stopping by an objective on held-out data."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

import ppgen
from ppgen.inference.fitting._loop import Loop
from ppgen.inference.fitting._optimization import Given


@dataclasses.dataclass(frozen=True, eq=False)
class EarlyStopping:
    """Ends a fit when an objective on held-out data has not improved for a while.

    The parameters that `fit` returns are then the best ones seen. All evaluations use the same key,
    so that they differ by the parameters more than by the draws. The best of many noisy values is
    still *biased* (optimistic), and is not an estimate of the held-out objective.

    Attributes:
        data: held-out data: the argument of the objective after the parameters, all at once.
        every: steps between evaluations.
        patience: evaluations without an improvement after which to stop.
        objective: what to evaluate, without metrics, in the precision of the parameters; the
            objective of the fit if None.
        draws: draws to average.
        least: the smallest difference from the best value that counts as an improvement.
    """

    data: PyTree
    every: int = 100
    patience: int = 10
    objective: Callable[..., Any] | None = None
    draws: int = 1
    least: float = 0.0

    def __post_init__(self) -> None:
        for name in ("every", "patience", "draws"):
            count = getattr(self, name)
            whole = isinstance(count, numbers.Integral) and not isinstance(count, bool)
            if not whole or count < 1:
                raise ValueError(f"{name} must be positive and whole, not {count!r}")
        if not (isinstance(self.least, numbers.Real) and 0 <= self.least < math.inf):
            raise ValueError(f"least must be a number from 0 on, not {self.least!r}")
        if self.objective is not None and not callable(self.objective):
            raise ValueError(f"objective must be a function, not {self.objective!r}")


class Validation:
    """The held-out objective of one fit, so far.

    Attributes:
        every: steps between evaluations.
        best: the parameters and the model's state with the best value; arrays only.
        record: further state to be saved, as JSON.
    """

    def __init__(self, settings: EarlyStopping, loop: Loop) -> None:
        self.every = settings.every
        self._settings, self._loop = settings, loop
        optimization = loop.optimization
        self._maximize = optimization.maximize
        self._data = optimization.placement.replicate(settings.data)
        run = ppgen.expectation(
            settings.objective or optimization.objective,
            draws=settings.draws,
            has_aux=optimization.has_state or (optimization.has_aux and settings.objective is None),
            allow_biased=optimization.allow_biased,
        )

        @jax.jit
        def evaluate(params: PyTree, state: PyTree, given: Given, data: PyTree) -> Any:
            data = jax.tree.map(optimization.placement.split_rows, data)
            args = (optimization.parameters(params, given), state, data)
            key = jax.random.fold_in(given.key, 1)
            value = run(key, *(args if optimization.has_state else (args[0], data)))
            return value[0] if isinstance(value, tuple) else value

        self._evaluate = evaluate
        self.best: PyTree = None
        self.record: dict[str, Any] = {"value": None, "last": None, "since": 0}

    def begin(self) -> None:
        """Take the initial parameters as the best before the first evaluation."""
        self.best = self._loop.kept(_now(self._loop))

    def __call__(self) -> tuple[float, bool]:
        """Evaluate; the value, and whether to stop."""
        loop, best = self._loop, self.record["value"]
        now = _now(loop)
        value = float(self._evaluate(*now, loop.given, self._data))
        self.record = self.record | {"last": value}
        gain = math.inf if best is None else (value - best) * (1 if self._maximize else -1)
        # A value that is not a number is no improvement.
        if gain > self._settings.least and not math.isnan(value):
            self.best = loop.kept(now)
            self.record |= {"value": value, "since": 0}
        else:
            self.record |= {"since": self.record["since"] + 1}
        return value, self.record["since"] >= self._settings.patience


def _now(loop: Loop) -> tuple[PyTree, PyTree]:
    return loop.carry.trained.params, loop.carry.trained.state
