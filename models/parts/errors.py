"""The error class of the command line."""

from __future__ import annotations

from ppgen.errors import PpgenError


class CommandError(PpgenError):
    """An error that the user of the command can correct. Printed as one line, exit status 2."""

    # The module in which it is caught. It is not in the reference, so messages do not link to it.
    __module__ = "ppgen.models.cli._main"
