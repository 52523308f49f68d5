"""Which parts of a distribution a user's class computes: what NumPyro's compute is taken as right.

The densities of NumPyro and ppgen are continuous on their supports, and their samplers have the
derivatives that they declare. A user's class says so of itself, so it is looked into.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from numpyro.distributions import Distribution
from numpyro.distributions.transforms import Transform

_KNOWN = ("numpyro.", "ppgen.", "distrax.", "flowjax.")


def definer(cls: type, *names: str) -> type:
    """The class from which `cls` inherits the first of these attributes."""
    return next(c for c in cls.__mro__ if any(name in vars(c) for name in names))


def has_own_density(d: Distribution) -> bool:
    """Whether the density of `d`, or of a part of it, is a user's, or uses a user's transform."""
    return has_own_transform(d) or any(_is_own(type(part), "log_prob") for part in _parts(d))


def has_own_sampler(d: Distribution) -> bool:
    """Whether the sampler of `d`, or of a part of it, is a user's, or uses a user's transform."""
    own = any(_is_own(type(part), "sample", "rsample") for part in _parts(d))
    return own or has_own_transform(d)


def has_own_transform(d: Distribution) -> bool:
    """Whether a transform of `d`, or a part of one, is a user's."""
    return any(
        _is_own(type(t), "__call__", "call_with_intermediates")
        for part in _parts(d)
        for t in _transforms(getattr(part, "transforms", ()))
    )


@functools.cache
def _is_own(cls: type, *names: str) -> bool:
    return not definer(cls, *names).__module__.startswith(_KNOWN)


def _transforms(x: Any) -> Iterator[Transform]:
    if isinstance(x, Transform):
        yield x
        for part in vars(x).values():
            yield from _transforms(part)
    elif isinstance(x, list | tuple):
        for part in x:
            yield from _transforms(part)


def _parts(x: Any) -> Iterator[Distribution]:
    if isinstance(x, Distribution):
        yield x
        for part in vars(x).values():
            yield from _parts(part)
    elif isinstance(x, list | tuple):
        for part in x:
            yield from _parts(part)
