"""Entry point: arguments in, exit status out, one line for every error."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ppgen.errors import PpgenError
from ppgen.models.cli import _commands
from ppgen.models.cli._interrupts import Interrupted
from ppgen.models.cli._options import parse, parse_fit
from ppgen.models.cli._rooms import installed, room_of
from ppgen.models.parts.errors import CommandError

USAGE_ERROR = 2
INTERRUPTED = 130

OTHERS: dict[str, Any] = {
    "resume": _commands.Resume,
    "evaluate": _commands.Evaluate,
    "sample": _commands.Sample,
    "export": _commands.Export,
    "arena": _commands.Arena,
    "list": _commands.List,
}
"""Every command but `fit`: a frozen dataclass of options with an `execute`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments, `sys.argv[1:]` if None.

    Returns:
        The exit status: 0, 2 for an error that one line on standard error explains, or 130 or 143
        after SIGINT or SIGTERM.
    """
    try:
        with _in_one_line():
            execute = _command(list(sys.argv[1:] if argv is None else argv))
            if execute is not None:
                execute()
    except Interrupted as error:
        return _complain(str(error), error.status)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except PpgenError as error:
        return _complain(str(error), USAGE_ERROR)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _complain(named, USAGE_ERROR)
    return 0


def _complain(message: str, status: int) -> int:
    print(f"ppgen: {' '.join(message.split())}", file=sys.stderr)
    return status


def _command(args: list[str]) -> Callable[[], None] | None:
    """The command of the arguments, or None if they ask for help, which is printed."""
    words = ["fit", *OTHERS]
    word = args.pop(0) if args else None
    if word in ("-h", "--help"):
        print(_help("ppgen", {"fit": "Fit a model.", **_about(OTHERS)}))
        return None
    if word == "--version":
        import ppgen

        print(ppgen.__version__)
        return None
    if word is None:
        raise CommandError(f"`ppgen` needs one more word: {', '.join(words)} (or --help)")
    if word not in words:
        raise CommandError(f"there is no command {word!r}; there are: {', '.join(words)}")
    if word == "fit":
        return _fit(args)
    # `ppgen resume RUN` is short for `ppgen resume --run RUN`: the first option of each command.
    if args and not args[0].startswith("-"):
        args.insert(0, f"--{dataclasses.fields(OTHERS[word])[0].name}")
    options = parse(OTHERS[word], f"ppgen {word}", args)
    return None if options is None else options.execute


def _fit(args: list[str]) -> Callable[[], None] | None:
    word = args.pop(0) if args else None
    if word in ("-h", "--help"):
        print(_help("ppgen fit", {name: room.line for name, room in installed().items()}))
        return None
    if word is None:
        models = ", ".join(installed())
        raise CommandError(f"`ppgen fit` needs one more word: {models}, a .py file (or --help)")
    room = room_of(word)
    options = parse_fit(room, args)
    return None if options is None else lambda: _commands.fit(room, options, args)


def _about(commands: dict[str, Any]) -> dict[str, str]:
    return {word: command.__doc__.split("\n")[0] for word, command in commands.items()}


def _help(prog: str, about: dict[str, str]) -> str:
    lines = [f"usage: {prog} {{{','.join(about)}}} [-h]", ""]
    return "\n".join(lines + [f"  {word:<15} {text}" for word, text in about.items()])


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Show warnings as one-line notes, and silence the log of the checkpoint library."""
    log = logging.getLogger("absl")
    level = log.level
    with warnings.catch_warnings():
        show = warnings.showwarning

        def shown(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if category is UserWarning:
                print(f"ppgen: note: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                show(message, category, *rest, **more)

        warnings.showwarning = shown
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(level)
