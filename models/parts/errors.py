"""The error of the command line itself."""

from __future__ import annotations

from ppgen.errors import PpgenError


class CommandError(PpgenError):
    """Something about the command that its user can mend. Printed as one line, exit status 2."""
