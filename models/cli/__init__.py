"""The `ppgen` command.

It finds the models by name (`_rooms.py`) and imports none of them. JAX is imported when a command
computes something, so that `--help`, `list` and errors in the arguments come at once.
"""

from ppgen.models.cli._main import main as main
