"""Marks: measured figures of a model with the bounds that they have to meet.

`python benchmarks/models.py` runs the `marks.py` of every model; this is what they share.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppgen.models.parts.hardware import processor


class Mark(NamedTuple):
    """A row of a table, of one seed.

    Attributes:
        mark: What was measured: the same text for every seed.
        measured: The value.
        bound: The bound, as text.
        passed: Whether the bound is met; None if there is no bound.
    """

    mark: str
    measured: float
    bound: str
    passed: bool | None


def below(mark: str, measured: Any, bound: float | int) -> Mark:
    """A mark that passes if the value is below the bound. A NaN fails."""
    return Mark(mark, float(measured), f"< {bound:.3g}", bool(measured < bound))


def above(mark: str, measured: Any, bound: float | int) -> Mark:
    """A mark that passes if the value is above the bound. A NaN fails."""
    return Mark(mark, float(measured), f"> {bound:.3g}", bool(measured > bound))


def report(mark: str, measured: Any) -> Mark:
    """A figure without a bound: a floor, a baseline, or an explanation."""
    return Mark(mark, float(measured), "–", None)


def table(runs: Sequence[Sequence[Mark]]) -> list[str]:
    """Lines of Markdown: the mean over seeds, in brackets the least and the most; seeds passed.

    Args:
        runs: The marks of each seed, in one order.

    Raises:
        ValueError: Seeds have different marks.
    """
    lines = ["| mark | measured | bound | pass |", "| --- | --- | --- | --- |"]
    for rows in zip(*runs, strict=True):
        if len(names := {row.mark for row in rows}) > 1:
            raise ValueError(f"seeds have different marks in one row: {sorted(names)}")
        values = [row.measured for row in rows]
        measured = f"{statistics.mean(values):.3g}"
        if len(values) > 1:
            measured += f" ({np.min(values):.3g} to {np.max(values):.3g})"  # a NaN stays one
        bounds = " / ".join(dict.fromkeys(row.bound for row in rows))
        verdicts = [row.passed for row in rows if row.passed is not None]
        passed = f"{sum(verdicts)} of {len(verdicts)}" if verdicts else "–"
        if verdicts and not all(verdicts):
            passed = f"**{passed}**"
        lines.append(f"| {rows[0].mark} | {measured} | {bounds} | {passed} |")
    return lines


def machine() -> str:
    """Date, processor, load and versions, for what was measured on them."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "numpyro"))
    return (
        f"{date.today()}; {processor()}, {os.cpu_count()} cores "
        f"(load {os.getloadavg()[0]:.1f} at the end), {platform.system()}; "
        f"Python {platform.python_version()}, {packages}"
    )


def write_section(path: Path, name: str, title: str, lines: Sequence[str]) -> None:
    """Writes the marks of a model into a file, which may hold those of other models.

    It replaces the text between two comments that name the section. Text outside of them is kept,
    so notes may follow each section, and sections may be measured one by one.

    Args:
        path: A Markdown file, made if there is none.
        name: The name of the section, in its comments.
        title: Its headline, if it is new.
        lines: The section.
    """
    begin, end = f"<!-- {name}: measured -->", f"<!-- {name}: end -->"
    text = path.read_text() if path.exists() else "# Models\n"
    block = "\n".join([begin, "", *lines, "", end])
    if begin in text:
        before, rest = text.split(begin)
        text = before + block + rest.split(end)[1]
    else:
        text = f"{text.rstrip()}\n\n## {title}\n\n{block}\n"
    # A kill while writing must not lose the other sections.
    scratch = path.with_suffix(".md.new")
    scratch.write_text(text)
    scratch.replace(path)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)
