"""What a worker holds: compiled programs add up to gigabytes over a thousand tests."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

GIB = 2**30
_STATUS = Path("/proc/self/statm")

# What was left when caches were last dropped: to drop them again at once would free nothing.
_left = 0.0


def resident() -> float:
    """The memory that this process holds in GiB; 0 where the system does not say."""
    if not _STATUS.exists():
        return 0.0
    return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB


def keep_below(limit: float) -> bool:
    """Drop what JAX has traced and compiled once there are more than `limit` GiB.

    Not after every file: what many files use, they compile once.

    Returns:
        Whether it was dropped.
    """
    global _left
    if resident() <= max(limit, _left + 0.5):
        return False
    import jax

    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc keeps what is freed
        trim(0)
    _left = resident()
    return True
