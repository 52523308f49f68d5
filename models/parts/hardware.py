"""The hardware on which benchmarks run."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def processor() -> str:
    """The model of the processor, as Linux tells it, else as Python does."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
