"""The `ppgen` command.

This folder is the one place in `ppgen` that uses `ppgen.models` and `ppgen.inference`. It imports
them only when a command runs, so that `--help` and errors in the arguments come at once.
"""

from ppgen.models.cli._main import main as main
