"""The progress bar of a fit, which shows compilation and times the steps alone."""

from __future__ import annotations

import time
from types import TracebackType

from tqdm import tqdm


class Bar:
    """A bar that says "compiling" until the first steps are there.

    The time of compilation does not count towards the speed that it shows, nor towards the estimate
    of the remaining time.
    """

    def __init__(self, *, total: int, initial: int, shown: bool) -> None:
        self._bar = tqdm(
            total=total, initial=initial, disable=not shown, desc="compiling", unit=" steps"
        )
        self._compiling = True

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, steps: int, text: str) -> None:
        """Count steps.

        Args:
            steps: how many were taken.
            text: the result to show.
        """
        bar = self._bar
        bar.set_description_str("", refresh=False)
        if self._compiling and not bar.disable:
            # These steps took the compiler's time; the clock starts after them.
            self._compiling = False
            bar.n += steps
            bar.initial, bar.start_t = bar.n, time.time()
            bar.last_print_n, bar.last_print_t = bar.n, bar.start_t
            bar.set_postfix_str(text)
            return
        bar.set_postfix_str(text, refresh=False)
        bar.update(steps)
