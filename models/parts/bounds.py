"""Bounds of options, written in their types: `hidden: Count = 128`."""

from __future__ import annotations

import math
import typing
from typing import Annotated, Any, NamedTuple

from ppgen.models.parts.errors import CommandError


class Bounds(NamedTuple):
    """An interval of allowed values, as an annotation of an option; None is always allowed.

    Attributes:
        least: the lower end.
        most: the upper end.
        inside: whether both ends are excluded.
    """

    least: int | float
    most: int | float = math.inf
    inside: bool = False

    def hold(self, value: int | float) -> bool:
        """Whether a value is within the bounds; NaN never is."""
        if self.inside:
            return self.least < value < self.most
        return self.least <= value <= self.most and math.isfinite(value)

    def __str__(self) -> str:
        """The condition, in words."""
        if self.most < math.inf:
            how = "between {} and {}" if self.inside else "from {} to {}"
            return how.format(f"{self.least:g}", f"{self.most:g}")
        if self.inside:
            return "positive" if self.least == 0 else f"above {self.least:g}"
        return f"at least {self.least:g}"


Count = Annotated[int, Bounds(1)]
"""A whole number of at least one."""
Number = Annotated[int, Bounds(0)]
"""A whole number, zero included."""
Weight = Annotated[float, Bounds(0)]
"""A weight of a term, zero included."""
Positive = Annotated[float, Bounds(0, inside=True)]
"""A positive number, such as a length or a rate."""
Share = Annotated[float, Bounds(0, 1)]
"""A share of a whole, from zero to one."""


def check_bounds(options: Any) -> None:
    """Refuse a value outside of the bounds in the type of its option.

    Args:
        options: a dataclass.

    Raises:
        CommandError: an option is out of bounds; the message names the first such option.
    """
    for name, kind in typing.get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name)
        for bounds in _bounds(kind):
            if value is not None and not bounds.hold(value):
                flag = "--" + name.replace("_", "-")
                raise CommandError(f"{flag} must be {bounds}, not {value}")


def _bounds(kind: Any) -> list[Bounds]:
    """The bounds in a type, which may be a union with None."""
    if typing.get_origin(kind) is Annotated:
        return [x for x in typing.get_args(kind)[1:] if isinstance(x, Bounds)]
    if typing.get_origin(kind) is typing.ClassVar:
        return []
    return [bounds for part in typing.get_args(kind) for bounds in _bounds(part)]
