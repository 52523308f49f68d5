"""Data whose rows are vectors: the columns of a table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ppgen.inference import DataError
from ppgen.models.parts.data.fingerprints import fingerprint


class Table(NamedTuple):
    """Rows of numbers: a data set for a recipe of one's own.

    Attributes:
        train: Rows to fit to.
        held_out: Rows never fitted to.
    """

    train: Float[np.ndarray, "train ..."]
    held_out: Float[np.ndarray, "held_out ..."]

    def facts(self) -> dict[str, Any]:
        """The shape of a row, the number of rows and a fingerprint: see `Dataset`."""
        counts = [len(self.train), len(self.held_out)]
        return {
            "shape": [*self.train.shape[1:]],
            "rows": counts,
            "sha256": fingerprint(tuple(self)),
        }


def split_table(rows: Any, *, held_out: int, seed: int = 0) -> Table:
    """Splits rows at random into a part to fit to and a held-out part.

    Args:
        rows: Numbers, one row for each datum.
        held_out: Rows to hold out, fewer than there are.
        seed: Chooses which. The same seed and count give the same split everywhere.

    Raises:
        DataError: If either part would be empty.

    Example:
        >>> import numpy as np
        >>> from ppgen.models.parts.data import split_table
        >>> table = split_table(np.arange(20.0).reshape(10, 2), held_out=3)
        >>> table.train.shape, table.held_out.shape
        ((7, 2), (3, 2))
    """
    rows = np.asarray(rows, np.float32)
    if not 0 < held_out < len(rows):
        raise DataError(f"cannot hold out {held_out} of {len(rows)} rows")
    order = np.random.RandomState(seed).permutation(len(rows))
    return Table(rows[order[held_out:]], rows[order[:held_out]])
