"""Votes from a file: rows of two systems, who won, and an optional category."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ppgen.models.parts.errors import CommandError

TIES = ("tie", "draw", "tie (bothbad)")
"""Words for no winner, in small letters; the last one is that of published arenas."""
_SHOWN = 5  # of the bad rows


@dataclasses.dataclass(frozen=True)
class Votes:
    """Votes between systems.

    Attributes:
        names: of the systems, in the order of the alphabet.
        won: the numbers of the winner and of the loser, for each vote that was decided.
        equal: the numbers of two systems, for each tie.
        won_in: the category of each vote that was decided; empty without one.
        equal_in: the category of each tie.
    """

    names: list[str]
    won: np.ndarray
    equal: np.ndarray
    won_in: np.ndarray
    equal_in: np.ndarray

    def categories(self) -> list[str]:
        """All categories, in the order of the alphabet."""
        return sorted({*self.won_in.tolist(), *self.equal_in.tolist()} - {""})

    def of(self, category: str) -> Votes:
        """The votes of one category, between the systems that are in it."""
        won = self.won[self.won_in == category]
        equal = self.equal[self.equal_in == category]
        there, places = np.unique(np.concatenate([won, equal]), return_inverse=True)
        places = places.reshape(-1, 2)
        return Votes(
            [self.names[i] for i in there],
            places[: len(won)],
            places[len(won) :],
            np.full(len(won), category),
            np.full(len(equal), category),
        )


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    one: str
    other: str
    winner: str | None
    category: str


def read_votes(path: Path) -> Votes:
    """Votes of a file of comma-separated values.

    A row has two names, and the name of the winner or a tie; a fourth cell may be a category. A
    header is optional; with one, columns are found by the titles `winner` and `category`, the names
    are in `model_a` and `model_b` or in the first two columns, and the winner may be given by the
    title of their column.

    Raises:
        CommandError: it names the lines of all bad rows, or the first few of many.
    """
    rows, bad = [], []
    for found in _rows(path):
        (rows if isinstance(found, _Row) else bad).append(found)
    if bad:
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise CommandError(f"{path}: {'; '.join(bad[:_SHOWN])}{more}")
    if not rows:
        raise CommandError(f"{path} has no votes")
    names = sorted({name for row in rows for name in (row.one, row.other)})
    number = {name: i for i, name in enumerate(names)}
    decided = [row for row in rows if row.winner is not None]
    ties = [row for row in rows if row.winner is None]
    won = [
        [number[row.winner], number[row.other if row.winner == row.one else row.one]]
        for row in decided
        if row.winner is not None
    ]
    equal = [[number[row.one], number[row.other]] for row in ties]
    return Votes(
        names,
        np.array(won, np.int64).reshape(-1, 2),
        np.array(equal, np.int64).reshape(-1, 2),
        np.array([row.category for row in decided], str),
        np.array([row.category for row in ties], str),
    )


def _rows(path: Path) -> Iterator[_Row | str]:
    """Each row, or what is wrong with it."""
    columns = None
    for line, cells in _cells(path):
        if columns is None:
            columns = _Columns.of(cells)
            if columns.titles is not None:
                if isinstance(columns.titles, str):
                    yield f"line {line}: {columns.titles}"
                    return
                continue
        yield _row(line, cells, columns)


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line on which each row begins, and its cells; blank rows are left out."""
    begin = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                stripped = [cell.strip() for cell in cells]
                if any(stripped):
                    yield begin, stripped
                begin = reader.line_num + 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: line {begin}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Where the parts of a row are, and the titles of the two names, or what is wrong with them."""

    one: int = 0
    other: int = 1
    winner: int = 2
    category: int | None = 3
    width: int | None = None
    titles: tuple[str, str] | str | None = None

    @staticmethod
    def of(cells: Sequence[str]) -> _Columns:
        """Those of a header; without one, those of its place."""
        low = [cell.lower() for cell in cells]
        is_vote = len(cells) > 2 and cells[2] in cells[:2]
        if "winner" not in low or is_vote:
            return _Columns()
        twice = {title for title in low if title and low.count(title) > 1}
        if twice:
            return _Columns(titles=f"two columns are called {sorted(twice)[0]!r}")
        winner = low.index("winner")
        category = low.index("category") if "category" in low else None
        names = [i for i in range(len(low)) if i not in (winner, category)]
        if {"model_a", "model_b"} <= set(low):
            names = [low.index("model_a"), low.index("model_b")]
        if len(names) < 2:
            return _Columns(titles="there are no columns of two names")
        one, other = names[:2]
        return _Columns(one, other, winner, category, len(cells), (low[one], low[other]))


def _row(line: int, cells: Sequence[str], columns: _Columns) -> _Row | str:
    if columns.width is None and len(cells) not in (3, 4):
        return f"line {line}: 3 or 4 cells are expected, not {len(cells)}"
    if columns.width is not None and len(cells) != columns.width:
        return f"line {line}: {columns.width} cells are expected, not {len(cells)}"
    one, other, word = (cells[i] for i in (columns.one, columns.other, columns.winner))
    if not one or not other:
        return f"line {line}: a name is missing"
    if one == other:
        return f"line {line}: both systems are {one!r}"
    titles = columns.titles if isinstance(columns.titles, tuple) else ()
    meant: set[str | None] = {name for name in (one, other) if word == name}
    if word.lower() in TIES:
        meant.add(None)
    meant |= {n for n, t in zip((one, other), titles, strict=False) if t and word.lower() == t}
    if len(meant) > 1:
        return f"line {line}: the winner {word!r} may be more than one thing"
    if not meant:
        hint = " (a header has a column 'winner')" if line == 1 else ""
        return f"line {line}: the winner {word!r} is not {one!r}, {other!r} or 'tie'{hint}"
    there = columns.category is not None and columns.category < len(cells)
    category = cells[columns.category] if there and columns.category is not None else ""
    return _Row(line, one, other, meant.pop(), category)
