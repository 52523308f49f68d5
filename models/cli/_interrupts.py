"""SIGINT and SIGTERM: the first ends a run in good order, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A run that was interrupted, and can be resumed.

    Attributes:
        status: the exit status: 128 and the number of the signal.
    """

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(f"interrupted; `ppgen resume {folder}` goes on with it")
        self.status = 128 + number


class Interrupts:
    """The signals received so far.

    Attributes:
        number: the number of the signal, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def listen(self, numbers: socket.socket) -> None:
        """Listen in a thread, because Python handles no signals while XLA computes."""
        while received := numbers.recv(1):
            if received[0] not in SIGNALS:
                continue
            if self.number is not None:
                os._exit(128 + received[0])
            self.number = received[0]
            print(
                "\nppgen: ending after this chunk of steps; again to exit at once", file=sys.stderr
            )


@contextlib.contextmanager
def deferred() -> Iterator[Interrupts]:
    """A context in which the first signal is recorded, and the second ends the process.

    Python receives signals in its main thread only; in other threads this does nothing.
    """
    found = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    thread = threading.Thread(target=found.listen, args=(ours,), daemon=True)
    thread.start()
    handlers = {number: signal.signal(number, _noted_by_the_thread) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(theirs.fileno())
    try:
        yield found
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        theirs.close()
        thread.join()
        ours.close()


def _noted_by_the_thread(number: int, frame: object) -> None:
    """A handler that does nothing, in place of the default action of the signal."""
