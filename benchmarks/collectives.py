"""What a compiled program sends between devices, from the text of its HLO."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "recv",
    "reduce-scatter",
    "send",
)
# The result's shape, then the operation. Of one in two halves, `-done` has the result.
_CALL = re.compile(rf"^\s*(?:ROOT )?%\S+ = (.*?) ({'|'.join(KINDS)})(?:-done)?\(", re.MULTILINE)
_SHAPE = re.compile(r"\b([a-z]+\d*)[a-z0-9]*\[([\d,]*)\]")
_BITS = re.compile(r"\d+$")


class Collective(NamedTuple):
    """An operation between devices.

    Attributes:
        kind: one of `KINDS`.
        sizes: elements of each of its results on one device.
        bytes: of all of them together.
    """

    kind: str
    sizes: tuple[int, ...]
    bytes: int


def collectives(hlo: str) -> list[Collective]:
    """All in the text of a compiled module; one in a loop counts once."""
    found = []
    for shape, kind in _CALL.findall(hlo):
        arrays = [
            (dtype, math.prod(int(n) for n in dims.split(",") if n))
            for dtype, dims in _SHAPE.findall(shape)
        ]
        size = sum(_bytes(dtype) * n for dtype, n in arrays)
        found.append(Collective(kind, tuple(sorted(n for _, n in arrays)), size))
    return found


def dump_flags(folder: str | Path) -> str:
    """For `XLA_FLAGS`: write down what `fit` compiles."""
    return f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_run"


def dumped(folder: str | Path) -> list[str]:
    """The compiled loops of the fits of a process that had `dump_flags`, in their order."""
    return [p.read_text() for p in sorted(Path(folder).glob("*jit_run*after_optimizations.txt"))]


def _bytes(dtype: str) -> int:
    bits = _BITS.search(dtype)
    return max(1, int(bits.group()) // 8) if bits else 1
