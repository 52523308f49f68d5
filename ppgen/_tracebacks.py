"""Tracebacks that show the user's program: without ppgen's own frames, and with the site at fault.

JAX hides its frames where its own functions are called; so does this where ppgen's are. What
`JAX_TRACEBACK_FILTERING=off` brings back, it brings back here too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpyro

import ppgen
from ppgen._user_lines import is_library
from ppgen.errors import PpgenError

C = TypeVar("C", bound=Callable[..., Any])

_NUMPYRO = os.path.dirname(numpyro.__file__)
# How NumPyro hands a site over: what its distributions do stays.
_HANDED_OVER = tuple(os.path.join(_NUMPYRO, name) for name in ("primitives.py", "handlers.py"))
_INFERENCE = tuple(os.path.join(path, "inference", "") for path in ppgen.__path__)
_SAMPLE = numpyro.sample.__code__


def boundary(function: C) -> C:
    """A function that users call, whose errors come with a traceback of the user's own frames.

    Args:
        function: any; within another one of these it does no harm.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except Exception as error:
            _name_site(error)
            if jax.config.jax_traceback_filtering != "off":
                _hide(error)
            raise

    return call  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def at_site(name: str, where: str) -> Iterator[None]:
    """What a distribution does for a site: its errors say which one, and where that is."""
    try:
        yield
    except PpgenError:
        raise  # it says so itself
    except Exception as error:
        _note(error, name, where)
        raise


def _note(error: Exception, name: str, where: str) -> None:
    # The innermost site is the one at fault.
    if not any(note.startswith("  at site ") for note in getattr(error, "__notes__", ())):
        error.add_note(f"  at site {name!r}\n  in {where}")


def _name_site(error: Exception) -> None:
    """Of an error within `numpyro.sample`: the site, and the line that calls it."""
    if isinstance(error, PpgenError):
        return
    found, user = None, None
    tb = error.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        if code is _SAMPLE and user is not None:
            found = (str(tb.tb_frame.f_locals.get("name")), user)
        elif not is_library(code.co_filename):
            # A line of the user's own that comes later is what is at fault: a distribution's, say.
            user = f"{code.co_filename}:{tb.tb_lineno}"
        tb = tb.tb_next
    if found is not None:
        _note(error, *found)


def _hide(error: BaseException) -> None:
    """Take frames out of the traceback of an error, and of those that it came from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        found.__traceback__ = _filtered(found.__traceback__)
        found = found.__cause__ or found.__context__


def _filtered(tb: types.TracebackType | None) -> types.TracebackType | None:
    entries = []
    while tb is not None:
        entries.append(tb)
        tb = tb.tb_next
    out = None
    for entry in reversed(entries):
        if _is_shown(entry.tb_frame.f_code.co_filename):
            out = types.TracebackType(out, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return out


def _is_shown(file: str) -> bool:
    """Whether a frame is the user's, or that of a distribution."""
    if file.startswith(_INFERENCE) or file.startswith(_HANDED_OVER):
        return False
    return file.startswith(_NUMPYRO) or not is_library(file)
