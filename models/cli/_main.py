"""Entry point: arguments in, exit status out, one line for every error."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from ppgen.errors import PpgenError
from ppgen.models.cli._errors import CommandError
from ppgen.models.cli._fit_vae import FitVAE
from ppgen.models.cli._sample import Sample

USAGE_ERROR = 2
INTERRUPTED = 130

COMMANDS: dict[str, Any] = {"fit": {"vae": FitVAE}, "sample": Sample}
"""Every command: a frozen dataclass of options with an `execute`, or a table of further words."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments, `sys.argv[1:]` if None.

    Returns:
        The exit status: 0, 2 for an error that one line on standard error explains, or 130 after an
        interrupt.
    """
    try:
        command = _parse(list(sys.argv[1:] if argv is None else argv))
        if command is not None:
            command.execute()
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


def _parse(args: list[str]) -> Any:
    """The command that the arguments ask for, or None if they ask for help, which is printed."""
    words, node = ["ppgen"], COMMANDS
    while isinstance(node, dict):
        word = args.pop(0) if args else None
        choices = ", ".join(node)
        if word in ("-h", "--help"):
            print(_help(words, node))
            return None
        if word == "--version" and node is COMMANDS:
            import ppgen

            print(ppgen.__version__)
            return None
        if word is None:
            raise CommandError(f"`{' '.join(words)}` needs one more word: {choices} (or --help)")
        if word not in node:
            kind = "command" if node is COMMANDS else "model"
            raise CommandError(f"there is no {kind} {word!r}; there are: {choices}")
        words.append(word)
        node = node[word]
    return _options(node, " ".join(words), args)


def _help(words: list[str], node: dict[str, Any]) -> str:
    lines = [f"usage: {' '.join(words)} {{{','.join(node)}}} [-h]", ""]
    for word, child in node.items():
        about = "Fit a model." if isinstance(child, dict) else child.__doc__.split("\n")[0]
        lines.append(f"  {word:<8} {about}")
    return "\n".join(lines)


def _options(command: type, prog: str, args: list[str]) -> Any:
    """Lets tyro read the options, and turns the box that it draws around an error into one line."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(command, prog=prog, args=args)
    except SystemExit as end:
        if not end.code:
            return None
        lines = [re.sub(r"[╭╮╰╯│]", "", line).strip() for line in box.getvalue().splitlines()]
        rules = [i for i, line in enumerate(lines) if set(line) <= {"─"} and line] or [len(lines)]
        message = " ".join(lines[1 : rules[0]]) or " ".join(lines)
        raise CommandError(f"{message.rstrip('.')} (see `{prog} --help`)") from None
