"""What a value was rounded from, where it was drawn on a log scale: for densities of it elsewhere.

A model's density is asked at what its guide has drawn. Where that has underflowed, the density is
known all the same, if it is a function of the log: so a staged value is followed to the density by
what it is, the very same traced array. One that has been computed with is another value.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array
from numpyro.distributions import Distribution

from ppgen._distributions.wrappers import plain, split_event
from ppgen._sampling.log_scale import SCALES, Scale


class Coordinates(NamedTuple):
    """What a value is rounded from.

    Attributes:
        scale: on which scale.
        array: the coordinates, of the shape of the value.
    """

    scale: Scale
    array: Array


_known: dict[int, tuple[weakref.ref, Coordinates]] = {}


def scale_of(dist: Distribution) -> Scale | None:
    """The scale that a site's distribution is drawn on, if there is one."""
    return SCALES.get(type(plain(split_event(dist)[0])))


def remember(value: Any, scale: Scale | None, coordinates: Array) -> None:
    """Note what a value that is being traced is rounded from."""
    if scale is None or not isinstance(value, jax.core.Tracer):
        return
    key = id(value)
    gone = weakref.ref(value, lambda _: _known.pop(key, None))
    _known[key] = gone, Coordinates(scale, coordinates)


def recalled(value: Any, dist: Callable[[], Distribution]) -> Array | None:
    """The coordinates of a value, where the scale of a distribution maps them to it too."""
    found = _known.get(id(value))
    if found is None or found[0]() is not value:
        return None
    scale = scale_of(dist())
    known = found[1]
    return known.array if scale is not None and scale.value is known.scale.value else None
