"""Figures of a fitted model, with standard errors: a table for people, a record for programs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key, Num
from numpy import ndarray

from ppgen._reports.table import table
from ppgen.inference import Estimate, elbo, iwelbo, mean_over_data, per_datum

Values = Estimate | Num[ndarray, " data"]


@dataclasses.dataclass(frozen=True, eq=False)
class Figures:
    """Figures on data.

    Attributes:
        title: the data: "297 images, 64 pixels of 17 values".
        units: the units of the columns, each with the number of decimals to show.
        rows: by label and then by unit, one number for each datum, or an estimate. The first rows
            are trivial baselines, which any model has to beat.
        references: by stage, labelled levels for the picture of its history: numbers, or one for
            each datum. Those of stages that are not named are the rows in the unit of their
            objective.
    """

    title: str
    units: Mapping[str, int]
    rows: Mapping[str, Mapping[str, Values]]
    references: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Means over the data and their standard errors, by label and then by unit."""
        return {
            label: {
                unit: each
                if isinstance(each, Estimate)
                else mean_over_data(np.asarray(each, float))
                for unit, each in row.items()
            }
            for label, row in self.rows.items()
        }

    def levels(self, stage: str, unit: str) -> dict[str, float]:
        """Reference levels for the picture of a stage's history, in the unit of its objective."""
        if stage in self.references:
            return {label: float(np.mean(x)) for label, x in self.references[stage].items()}
        rows = self.estimates.items()
        return {f"held-out {label}": row[unit].mean for label, row in rows if unit in row}

    def table(self) -> str:
        """The figures as a table."""
        heads = ["", *self.units]
        rows = [
            [label, *(_shown(row.get(unit), digits) for unit, digits in self.units.items())]
            for label, row in self.estimates.items()
        ]
        lines = table(heads, rows, what="figures", right=range(1, len(heads)))
        return "\n".join([self.title, *lines])

    def record(self) -> dict[str, Any]:
        """The figures for programs: by label, then by unit."""
        return {
            label: {unit: estimate._asdict() for unit, estimate in row.items()}
            for label, row in self.estimates.items()
        }


def _shown(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return ""
    return f"{estimate.mean:.{digits}f} ± {estimate.standard_error:.{digits}f}"


def bounds(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    params: Any,
    rows: Any,
    particles: int,
    key: Key[Array, ""],
    *,
    draws: int = 1,
    batch_size: int = 16,
    of: Callable[..., Any] = lambda bound: bound,
) -> dict[str, Float[ndarray, " data"]]:
    """Two *bounds* on the log likelihood of each datum, in nats, by name: the ELBO and IWELBO.

    Args:
        model: A program, of parameters and a datum.
        guide: Its guide.
        params: The parameters.
        rows: The data.
        particles: The number of particles of IWELBO.
        key: Everything random follows from it.
        draws: The number of draws to average in the ELBO of each datum.
        batch_size: Data computed at the same time.
        of: From a bound to an objective of a datum, if `model` takes something else than a datum.
    """
    keys = jax.random.split(key)
    weighted = of(iwelbo(model, guide, particles=particles))
    options = {"batch_size": batch_size}
    return {
        "ELBO": per_datum(
            of(elbo(model, guide)), params, rows, key=keys[0], draws=draws, **options
        ),
        f"IWELBO-{particles}": per_datum(weighted, params, rows, key=keys[1], **options),
    }


def nats_and_bits(
    nats: Float[ndarray, " data"], dimensions: int, *, per: str
) -> dict[str, Float[ndarray, " data"]]:
    """Log densities of data, in nats and as code lengths in bits per dimension.

    Args:
        nats: One for each datum.
        dimensions: The number of dimensions of a datum.
        per: What a datum is called: "image".
    """
    bits = -np.asarray(nats, np.float64) / (dimensions * math.log(2))
    return {f"nats per {per}": nats, "bits per dimension": bits}
