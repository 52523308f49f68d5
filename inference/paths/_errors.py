"""What can be wrong with a path."""

from __future__ import annotations

from ppgen.errors import PpgenError


class PathError(PpgenError, ValueError):
    """A program is not a path, or lacks what was asked of it: a score, a time, a coefficient."""
