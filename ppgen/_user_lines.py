"""The lines of the user's program, for messages."""

from __future__ import annotations

import os

import equinox as eqx
import jax
import numpyro

from ppgen import _jax

_HERE = os.path.dirname(__file__)
_LIBRARIES = (
    os.path.dirname(jax.__file__),
    os.path.dirname(numpyro.__file__),
    os.path.dirname(eqx.__file__),
    "<",
)
# The parts of a source checkout that are written in the language, so that errors point into them.
_OUTSIDE = tuple(os.path.join(_HERE, part) for part in ("models", "inference"))


def is_library(file: str) -> bool:
    """Whether a file is of no interest to the user: ppgen's own, or a library's."""
    if file.startswith(_OUTSIDE):
        return False
    return file.startswith((_HERE, *_LIBRARIES)) or os.path.basename(file) == "contextlib.py"


def user_line() -> str:
    """The user's file and line that is being executed."""
    return _jax.user_line(is_library)


def where(eqn: _jax.Eqn) -> str:
    """The user's file and line that staged an equation; empty where that is not known."""
    return _jax.user_source(eqn, is_library)[0]
