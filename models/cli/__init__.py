"""The `ppgen` command.

It finds models by name (`_rooms.py`) and imports none of them directly. JAX is imported only when a
command computes something, so that `--help`, `list` and errors in the arguments are immediate.
"""

from ppgen.models.cli._main import main as main
