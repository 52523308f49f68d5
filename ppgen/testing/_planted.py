"""Planted bugs, which a test of unbiasedness has to find.

Each is a mistake that some implementation of gradient estimators has made.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen._evaluation import control_flow as _regions
from ppgen._evaluation import evaluate as _evaluate
from ppgen._evaluation import make_choice as _make_choice
from ppgen._staging import numpyro_effects as _effects
from ppgen._staging import primitives as _primitives
from ppgen.estimators import MeasureValued, ScoreFunction

Patch = tuple[Any, str, Any]
"""An object, the name of an attribute, and its replacement."""


def _dropped_score() -> list[Patch]:
    right = ScoreFunction.__call__

    def wrong(self, key, dist):
        points = right(self, key, dist)
        return type(points)(
            points.value, None, jax.lax.stop_gradient(points.score), points.baseline
        )

    return [(ScoreFunction, "__call__", wrong)]


def _score_scaled_twice() -> list[Patch]:
    right = ScoreFunction.__call__

    def wrong(self, key, dist):
        points = right(self, key, dist)
        return type(points)(points.value, None, 2.0 * points.score, points.baseline)

    return [(ScoreFunction, "__call__", wrong)]


def _dropped_phantom() -> list[Patch]:
    right = MeasureValued.__call__

    def wrong(self, key, dist):
        points = right(self, key, dist)
        return type(points)(points.value, points.weight.at[-1].set(0.0))

    return [(MeasureValued, "__call__", wrong)]


def _doubled_plate_scale() -> list[Patch]:
    right = _effects.bind_site

    def wrong(*args, scale=None, **kwargs):
        return right(*args, scale=None if scale is None else scale * scale, **kwargs)

    return [(_effects, "bind_site", wrong)]


def _shared_key(*modules: types.ModuleType) -> list[Patch]:
    """`jax.random.split` gives the same key again and again, as seen by these modules."""

    def split(key: Array, shape: Any = 2) -> Array:
        return jnp.broadcast_to(key, (shape,) if isinstance(shape, int) else tuple(shape))

    random = types.SimpleNamespace(**(vars(jax.random) | {"split": split}))
    wrong = types.SimpleNamespace(**(vars(jax) | {"random": random}))
    return [(module, "jax", wrong) for module in modules]


PLANTED: dict[str, Callable[[], list[Patch]]] = {
    "dropped score term": _dropped_score,
    "score term scaled twice": _score_scaled_twice,
    "dropped phantom": _dropped_phantom,
    "doubled plate scale": _doubled_plate_scale,
    "shared key across lanes": lambda: _shared_key(_primitives, _evaluate),
    "one frozen sample in scan": lambda: _shared_key(_regions),
}
"""Bugs by name: the patches that plant them."""


@contextlib.contextmanager
def planted(bug: str) -> Iterator[None]:
    """Plant one of the bugs of `ppgen.testing.PLANTED`, in this process, until the block ends.

    Example:
        >>> import pytest, jax.numpy as jnp, numpyro.distributions as dist
        >>> from ppgen import draw
        >>> from ppgen.testing import assert_unbiased, planted
        >>> def f(p):
        ...     return draw(dist.Bernoulli(p)) * 1.0
        >>> with planted("dropped score term"), pytest.raises(AssertionError, match="biased"):
        ...     _ = assert_unbiased(f, jnp.array(0.3), order=1)
    """
    with contextlib.ExitStack() as stack:
        # What was traced once for choices that are alike would be used again.
        _make_choice.traced_once.cache_clear()
        stack.callback(_make_choice.traced_once.cache_clear)
        for owner, name, wrong in PLANTED[bug]():
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, wrong)
        yield
