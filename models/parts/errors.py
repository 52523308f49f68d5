"""The error of the command line itself."""

from __future__ import annotations

from ppgen.errors import PpgenError


class CommandError(PpgenError):
    """Something about the command that its user can mend. Printed as one line, exit status 2."""

    # Where it is caught. It is no part of the reference, so its message does not refer to that.
    __module__ = "ppgen.models.cli._main"
