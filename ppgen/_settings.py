"""Settings that hold while a program is staged, lowered and evaluated.

They are not arguments, because they have to pass through the user's own functions. One context
variable holds all of them, so that they are set and restored together.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, final


@final
@dataclasses.dataclass(frozen=True)
class Settings:
    """What holds while a program is staged, lowered and evaluated.

    Attributes:
        staging: whether a program is being staged.
        in_place: whether a pathwise choice is staged as an ordinary JAX computation; otherwise
            every choice is a `random_choice` equation.
        densities_asked: whether the densities of the staged program's sites will be needed.
        estimators: rules that may give the estimator of a site by its name, innermost first.
        automatic: what picks the estimator of a site that asks for "auto"; `None` where a program
            is run and not differentiated.
        state: the new values of mutable sites, by site; `None` refuses such sites.
        scans: how scans over choices that stand for several points are lowered: kept where their
            structure allows it, at the "top" level of the program only; "unroll"ed; or kept, as
            for "sampling".
        draws: the name and the size of the mapped axis of draws that are made together.
        varying_like: the abstract value of a key: random values vary over the axes of `shard_map`
            over which it does.
    """

    staging: bool = False
    in_place: bool = True
    densities_asked: bool = False
    estimators: tuple[Callable[[str], Any], ...] = ()
    automatic: Any = None
    state: dict[str, Any] | None = None
    scans: Literal["top", "unroll", "sampling"] = "unroll"
    draws: tuple[str, int] | None = None
    varying_like: Any = None


_settings: contextvars.ContextVar[Settings] = contextvars.ContextVar(
    "ppgen_settings",
    default=Settings(),  # noqa: B039 (frozen)
)


def current() -> Settings:
    """The settings that hold at present."""
    return _settings.get()


@contextlib.contextmanager
def settings(**changes: Any) -> Iterator[None]:
    """A context in which these settings hold, and all others are unchanged.

    Example:
        >>> from ppgen._settings import current, settings
        >>> with settings(draws=("draws", 4)), settings(in_place=False):
        ...     current().draws, current().in_place
        (('draws', 4), False)
        >>> current().draws is None
        True
    """
    token = _settings.set(dataclasses.replace(_settings.get(), **changes))
    try:
        yield
    finally:
        _settings.reset(token)
