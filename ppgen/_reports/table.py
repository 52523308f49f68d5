"""Plain tables for a terminal, at most 100 columns wide. They need no JAX, and load at once."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Sequence

WIDTH = 100
_GAP = 2
_ROWS = 24  # beyond which a table is elided in the middle
_LEAST = 8


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    what: str,
    right: Collection[int] = (),
    whole: bool = False,
) -> list[str]:
    """Lines of an aligned table; long cells are shortened, the last column is wrapped.

    Args:
        header: titles of the columns.
        rows: the cells.
        what: what the rows are called, for the line in place of rows that are left out.
        right: positions of the columns that are aligned on the right, as numbers are.
        whole: whether all rows are shown, however many there are.
    """
    left_out = 0 if whole else len(rows) - _ROWS
    shown = list(rows)
    if left_out > 0:
        shown = [*rows[: _ROWS - 4], *rows[-3:]]
        left_out = len(rows) - len(shown)
    widths = _fitted([max(map(len, column)) for column in zip(header, *shown, strict=True)])
    lines = [_line(header, widths, right), "─" * (sum(widths) + _GAP * (len(widths) - 1))]
    for i, row in enumerate(shown):
        if left_out > 0 and i == _ROWS - 4:
            lines.append(f"… {left_out:,} more {what} …")
        cells = [shortened(cell, width) for cell, width in zip(row[:-1], widths, strict=False)]
        last = textwrap.wrap(row[-1], widths[-1]) or [""]
        lines.append(_line([*cells, last[0]], widths, right))
        lines += [_line([""] * len(cells) + [part], widths, right) for part in last[1:]]
    return lines


def _fitted(widths: list[int]) -> list[int]:
    """Shrink the widest columns until the table fits."""
    widths = list(widths)
    while sum(widths) + _GAP * (len(widths) - 1) > WIDTH and max(widths) > _LEAST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _line(cells: Sequence[str], widths: Sequence[int], right: Collection[int]) -> str:
    padded = [
        cell.rjust(width) if i in right else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return (" " * _GAP).join(padded).rstrip()


def shortened(text: str, width: int) -> str:
    """At most `width` characters, the missing ones as an ellipsis."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def abbreviated(name: str, width: int = 28) -> str:
    """At most `width` characters of a name, whose end tells it from its neighbours."""
    head = (width - 1) // 2
    return name if len(name) <= width else f"{name[:head]}…{name[head + 1 - width :]}"


def wrapped(text: str, *, first: str, rest: str) -> list[str]:
    """Lines of running text with an indent."""
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest)


def joined(names: Sequence[str], limit: int = 6) -> str:
    """Names with commas, and how many there are if not all of them are shown."""
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[: limit - 2])}, … {names[-1]} ({len(names):,})"


def shape_text(shape: Sequence[int]) -> str:
    """A shape as people write it; nothing for a scalar."""
    return "×".join(map(str, shape)) if shape else "·"


def file_and_line(where: str) -> str:
    """A file and line without the folders."""
    return os.path.basename(where)
