"""Is the estimate of a random program right? In milliseconds, without a compiler.

The surrogate's value and gradient are evaluated in NumPy for a thousand keys, and compared with the
exact value and with slopes of values. Differences are checked again with more keys and more nodes:
a program is called wrong if it differs by more than six standard errors at 130,000 keys, which
happens to a right one in one of 10⁸.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppgen._expectation import expectation, prepare
from ppgen._staging.stage import stage
from ppgen.errors import BiasedEstimatorError, DiscontinuityError, PpgenError
from ppgen.testing._lanes import Lanes, Unsupported, keys
from ppgen.testing._slopes import Exact, slopes_of

_FIRST, _CHUNK, _LAST = 4096, 16_384, 131_072
_SUSPICIOUS, _WRONG = 4.0, 6.0
_POWER = 6.0 + 1.645
# A refused program is called sound only where a bias of this part of the gradient would show, and
# if it is right at these points too: it is refused whatever the point.
_FINE = 0.25
_ELSEWHERE = ((-2.1, 0.7), (1.9, -1.3), (0.6, 2.4), (-1.1, -1.9), (3.2, 0.4), (-0.3, -3.1))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on one program.

    Attributes:
        verdict: "right", "wrong", "not a number" (which is seen at once), "refused", "crashed" or
            "unknown" (nothing to compare with).
        why: the error, or the entries that differ.
        sound: for a refused program, "sound" if its estimate without the refusal is right,
            "unsound" if it is wrong, "unknown" if that cannot be decided, "no estimate" if there is
            none, "not asked" where that was not asked for.
        detectable: the smallest bias that would have been called wrong (with probability 0.95),
            relative to the larger of the slopes and 0.1; `None` where nothing was compared.
    """

    verdict: str
    why: str = ""
    sound: str = ""
    detectable: float | None = None


class _Comparison(NamedTuple):
    z: np.ndarray
    estimate: np.ndarray
    error: np.ndarray
    exact: np.ndarray


def judge(
    program: Callable[..., Any],
    theta: tuple[float, ...],
    *,
    draws: int = 1,
    nodes: int = 48,
    soundness: bool = True,
) -> Verdict:
    """The verdict on `expectation(program)` and its gradient at `theta`.

    `soundness`: whether a refused program is evaluated without the refusal, which takes several
    times as long as the refusal itself.
    """
    at = jnp.array(theta)
    try:
        graph = _graph(program, expectation(program, draws=draws), at)
    except PpgenError as error:
        return _refused(program, at, draws, nodes, error, soundness)
    except Exception as error:
        return Verdict("crashed", f"{type(error).__name__}: {error}")
    return _compared(_staged(program, at), np.asarray(at), graph, nodes)


def _graph(program: Callable[..., Any], g: Callable[..., Any], at: Any) -> Any:
    if getattr(program, "forward", False):

        def both(key: Any, at: Any) -> Any:
            def twice(at: Any) -> Any:
                value = g(key, at)
                return value, value

            gradient, value = jax.jacfwd(twice, has_aux=True)(at)
            return value, gradient

        return jax.make_jaxpr(both)(jax.random.key(0), at)
    return jax.make_jaxpr(jax.value_and_grad(g, argnums=1))(jax.random.key(0), at)


def _refused(
    program: Callable[..., Any],
    at: Any,
    draws: int,
    nodes: int,
    error: PpgenError,
    soundness: bool,
) -> Verdict:
    why = f"{type(error).__name__}: {error.message}"
    if not soundness:
        return Verdict("refused", why, "not asked")
    sound = "no estimate"
    if isinstance(error, DiscontinuityError | BiasedEstimatorError):
        # Evaluate it without the refusal, to see whether it is right nevertheless.
        def unrefused(key: Any, theta: Any) -> Any:
            prepared = prepare(lambda: program(theta), strict=False, allow_biased=True)
            return prepared.run(key, None)[0]

        try:
            graph = _graph(program, unrefused, at)
        except PpgenError:
            return Verdict("refused", why, sound)
        sound = _soundness(program, at, graph, nodes)
    return Verdict("refused", why, sound)


def _soundness(program: Callable[..., Any], at: Any, graph: Any, nodes: int) -> str:
    staged = _staged(program, at)
    elsewhere = [p for p in _ELSEWHERE if len(p) == len(at)]
    found = [_compared(staged, np.asarray(at), graph, nodes, _CHUNK)]
    for point in elsewhere:
        if found[-1].verdict in ("wrong", "not a number"):
            return "unsound"
        found.append(_compared(staged, np.asarray(point, np.float32), graph, nodes, _CHUNK))
    if found[-1].verdict in ("wrong", "not a number"):
        return "unsound"
    detectable = found[0].detectable
    return "sound" if detectable is not None and detectable < _FINE else "unknown"


def _staged(program: Callable[..., Any], at: Any) -> Any:
    """The program that the exact value is read off, or why it cannot be had."""
    oracle = getattr(program, "oracle", program)
    try:
        return stage(oracle, jax.ShapeDtypeStruct(at.shape, at.dtype), in_place=False).jaxpr
    except PpgenError as error:
        return error


def _compared(
    staged: Any, theta: np.ndarray, graph: Any, nodes: int, first: int = _FIRST
) -> Verdict:
    try:
        if isinstance(staged, PpgenError):
            raise staged
        exact = slopes_of(staged, theta, nodes, 64, 30_000)
    except (Unsupported, PpgenError) as error:
        return Verdict("unknown", f"{type(error).__name__}: {error}")
    if exact.defect > 1e-4 or not np.all(np.isfinite([exact.value, *exact.slopes])):
        return Verdict("unknown", "the exact value is not known well enough")
    try:
        found = _compare([_estimates(graph, theta, first, 0)], exact)
        if not np.all(np.abs(found.z) <= _SUSPICIOUS):  # a NaN is suspicious
            found = _again(graph, theta, exact, staged, nodes)
    except Unsupported as error:
        return Verdict("unknown", f"{type(error).__name__}: {error}")
    if found is None:
        return Verdict("unknown", "kinks at the point itself")
    if not np.all(np.abs(found.z) <= _WRONG):
        rows = zip(["value", *range(len(theta))], *found[1:], found.z, strict=True)
        why = "; ".join(
            f"{n}: {e:.6g} ± {s:.2g}, exact {x:.6g}, z {z:.1f}" for n, e, s, x, z in rows
        )
        return Verdict("not a number" if np.any(np.isnan(found.z)) else "wrong", why)
    scale = max(0.1, float(np.max(np.abs(exact.slopes))))
    return Verdict("right", detectable=float(_POWER * np.max(found.error[1:])) / scale)


def _again(graph: Any, theta: Any, exact: Exact, staged: Any, nodes: int) -> _Comparison | None:
    """More keys; where values were integrated more nodes, with the change as a tolerance."""
    finer, doubt = exact, np.zeros(1 + len(theta))
    other = slopes_of(staged, theta, nodes, 64, 30_000, step=2.7e-4)
    scale = 1e-2 * np.maximum(1.0, np.abs(exact.slopes))
    if np.any(np.abs(other.slopes - exact.slopes) > scale) or np.any(np.abs(exact.kinks) > scale):
        return None
    if exact.refinable:
        for more in (16 * nodes + 1, 4 * nodes + 1, 2 * nodes + 1):
            try:
                finer = slopes_of(staged, theta, more, 64, 300_000)
            except Unsupported:
                continue
            doubt = np.abs(_entries(finer) - _entries(exact))
            break
        else:  # there are too many: what fewer nodes change
            coarser = slopes_of(staged, theta, nodes // 2, 64, 30_000)
            doubt = 2 * np.abs(_entries(coarser) - _entries(exact))
    parts = []
    for i in range(_LAST // _CHUNK):
        parts.append(_estimates(graph, theta, _CHUNK, 1 + i))
        found = _compare(parts, finer, doubt)
        if np.all(np.abs(found.z) <= _SUSPICIOUS):
            break
    return found


def _estimates(graph: Any, theta: np.ndarray, count: int, seed: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        value, gradient = Lanes()(graph, [keys(count, seed), theta])
    value = np.broadcast_to(value, (count,))[:, None]
    gradient = np.broadcast_to(gradient, (count, len(theta)))
    return np.concatenate([value, gradient], axis=1).astype(np.float64)


def _entries(exact: Exact) -> np.ndarray:
    return np.array([exact.value, *exact.slopes])


def _compare(parts: list[np.ndarray], exact: Exact, doubt: Any = 0.0) -> _Comparison:
    x, truth = np.concatenate(parts), _entries(exact)
    mean, error = x.mean(axis=0), x.std(axis=0) / math.sqrt(len(x))
    size = np.sqrt((x**2).mean(axis=0))
    # Single precision, in which the estimates are computed and added up.
    rounding = 2e-5 * (size + np.abs(truth)) + 2e-5
    gap = np.maximum(np.abs(mean - truth) - rounding - doubt, 0.0)
    z = np.where(gap > 0, gap / np.maximum(error, 1e-12), 0.0)
    return _Comparison(np.where(np.isnan(mean), np.nan, z), mean, error, truth)
