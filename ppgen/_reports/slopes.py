"""Slopes of an objective from its values, with the derivatives to compare with them.

Nothing here differentiates a value: a slope is a central difference of runs of the program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Numbers of a batch of gradients that are in memory at once.
_NUMBERS, _LARGEST, _LEAST = 2**22, 128, 4


class Draws(NamedTuple):
    """Independent draws, in float64; those by direction have the shape `(draws, directions)`.

    Attributes:
        estimate: derivative of the estimator along the direction.
        slope: slope of the value along it, without its error of the second order in the step.
        change: the change of the slope by halving the step.
        estimated: value of the estimator; `(draws,)`.
        value: value of a run of the program; `(draws,)`.
        square: squared norm of the gradient; `(draws,)`.
        gradient: sum of the gradients over the draws, as one vector.
    """

    estimate: np.ndarray
    slope: np.ndarray
    change: np.ndarray
    estimated: np.ndarray
    value: np.ndarray
    square: np.ndarray
    gradient: np.ndarray

    @staticmethod
    def joined(batches: Sequence[Draws]) -> Draws:
        """All draws of some batches."""
        columns = list(zip(*batches, strict=True))
        return Draws(*map(np.concatenate, columns[:-1]), sum(columns[-1]))  # pyright: ignore

    def finite(self) -> bool:
        """Whether everything is a number."""
        return all(bool(np.isfinite(x).all()) for x in self)


class Slopes:
    """Draws of estimates and slopes at one point, along fixed orthonormal directions.

    Attributes:
        names: of the arguments that move, as `args[0]['loc']`.
        size: how many numbers they have together.
        count: how many directions there are.
        batch: how many draws one call makes.
        eps: relative rounding error of a value.
        resolved: the smallest step that rounding of the arguments still resolves, by direction.
    """

    def __init__(
        self,
        estimator: Callable[..., Any],
        value: Callable[..., Any],
        args: tuple,
        argnums: Sequence[int] | None,
        directions: int,
        key: Array,
    ) -> None:
        """Choose directions.

        Args:
            estimator: `(key, *args) -> scalar`, whose derivative is audited.
            value: `(key, *args) -> scalar`, whose mean has the slope.
            args: where.
            argnums: which of `args` move; `None` for all with floating-point numbers.
            directions: how many directions, at most one for each number.
            key: randomness of the directions.
        """
        leaves, treedef = jax.tree_util.tree_flatten_with_path(args)
        chosen = None if argnums is None else {i % len(args) for i in argnums}
        moves = [
            eqx.is_inexact_array_like(x)
            and not jnp.iscomplexobj(x)
            and (chosen is None or path[0].idx in chosen)  # pyright: ignore
            for path, x in leaves
        ]
        self.names = [
            f"args{jax.tree_util.keystr(path)}"
            for (path, _), yes in zip(leaves, moves, strict=True)
            if yes
        ]
        still = [None if yes else x for (_, x), yes in zip(leaves, moves, strict=True)]
        self._theta = [jnp.asarray(x) for (_, x), yes in zip(leaves, moves, strict=True) if yes]
        self.size = sum(x.size for x in self._theta)
        self.count = min(directions, self.size)
        if not self.size:
            return
        self.batch = int(np.clip(_NUMBERS // self.size, _LEAST, _LARGEST))
        normal = jax.random.normal(key, (self.size, self.count))
        flat = np.linalg.qr(np.asarray(normal, np.float64))[0].T
        cuts = np.cumsum([x.size for x in self._theta])[:-1]
        parts = np.split(flat, cuts, axis=1)
        self._directions = [
            jnp.asarray(d.reshape(self.count, *x.shape), x.dtype)
            for d, x in zip(parts, self._theta, strict=True)
        ]
        # A step is taken by an argument of size |θ| up to eps |θ|; a thousandth may be lost.
        lost = sum(
            np.sum(np.square(float(jnp.finfo(x.dtype).eps) * np.asarray(x, np.float64)))
            for x in self._theta
        )
        self.resolved = 1e3 * math.sqrt(lost)

        self._still, self._rebuilt = still, _Rebuilt(treedef, tuple(moves))
        self._estimator, self._value = estimator, value
        out = eqx.filter_eval_shape(
            lambda key, theta: self._rebuilt(value, key, theta, still), key, self._theta
        )
        kinds = [out.dtype, *(x.dtype for x in self._theta)]
        self.eps = max(float(jnp.finfo(kind).eps) for kind in kinds)

    def draws(self, key: Array, steps: np.ndarray, common: np.ndarray) -> Draws:
        """One batch of draws.

        Args:
            key: randomness.
            steps: the size of the step by direction, from which each draw's own is at most a
                quarter away, so that errors of rounding are not the same in all draws.
            common: by direction, whether both ends of a difference have the same randomness.
        """
        out = _batch(
            (self._estimator, self._value, self._rebuilt, self.batch),
            key,
            self._theta,
            self._still,
            self._directions,
            jnp.asarray(steps, float),
            jnp.asarray(common),
        )
        return Draws(*(np.asarray(x, np.float64) for x in out))


class _Rebuilt(NamedTuple):
    """Calls a function whose varied arguments are kept apart from the others."""

    treedef: Any
    moves: tuple[bool, ...]

    def __call__(self, f: Callable, key: Array, theta: list[Array], still: list[Any]) -> Array:
        moving = iter(theta)
        full = [next(moving) if yes else x for x, yes in zip(still, self.moves, strict=True)]
        out = f(key, *jax.tree_util.tree_unflatten(self.treedef, full))
        floats = jnp.issubdtype(jnp.result_type(out), jnp.floating)
        return out if floats else jnp.asarray(out, float)


@eqx.filter_jit
def _batch(
    what: tuple[Callable, Callable, _Rebuilt, int],
    key: Array,
    theta: list,
    still: list,
    directions: list,
    steps: Array,
    common: Array,
) -> tuple:
    """The compiled part of `Slopes.draws`, once for all audits of the same function."""
    f, g, rebuilt, size = what

    def estimator(key: Array, theta: list, still: list) -> Array:
        return rebuilt(f, key, theta, still)

    def value(key: Array, theta: list, still: list) -> Array:
        return rebuilt(g, key, theta, still)

    same, other, own = (jax.random.split(k, size) for k in jax.random.split(key, 3))
    count = len(steps)
    jitter = jax.vmap(lambda k: jax.random.uniform(k, (count,), minval=0.75, maxval=1.25))
    steps = steps * jitter(own)  # (draws, directions)

    def moved(k: Array, step: Array) -> list[Array]:
        return [x + (step.astype(x.dtype) * d[k]) for x, d in zip(theta, directions, strict=True)]

    # One copy of the program, whatever the number of points at which it runs.
    each = [(k, sign * part) for k in range(count) for part in (1.0, 0.5) for sign in (1, -1)]
    index = jnp.array([0, *(k for k, _ in each)])
    parts = jnp.array([0.0, *(part for _, part in each)], steps.dtype)

    def at(point: tuple[Array, Array]) -> Array:
        k, part = point
        first = common[k] | (part >= 0)

        def one(same: Array, other: Array, steps: Array) -> Array:
            return value(jnp.where(first, same, other), moved(k, part * steps[k]), still)

        return jax.vmap(one)(same, other, steps)

    values = jax.lax.map(at, (index, parts))  # (points, draws)
    plain, ends = values[0], values[1:].reshape(count, 2, 2, size)
    rises = jnp.moveaxis(ends[:, :, 0] - ends[:, :, 1], -1, 0)  # (draws, directions, parts)

    def derivatives(key: Array, steps: Array) -> tuple:
        estimated, gradient = jax.value_and_grad(lambda t: estimator(key, t, still))(theta)

        def along(k: Array, step: Array) -> Array:
            # The actual steps of the arguments, after rounding.
            total = jnp.zeros(())
            for part, weight in ((1.0, -1 / 3), (0.5, 4 / 3)):
                up, down = moved(k, part * step), moved(k, -part * step)
                for g, a, b in zip(gradient, up, down, strict=True):
                    total += weight * jnp.sum(g * ((a - b) / (2 * part * step).astype(a.dtype)))
            return total

        dots = jax.vmap(along)(jnp.arange(count), steps)
        square = sum(jnp.sum(jnp.square(g)) for g in gradient)
        return estimated, dots, square, gradient

    estimated, estimate, square, gradient = jax.vmap(derivatives)(same, steps)
    whole, half = rises[..., 0] / (2 * steps), rises[..., 1] / steps
    flat = [jnp.sum(g, 0).ravel().astype(float) for g in gradient]
    slope = (4 * half - whole) / 3
    return (
        estimate,
        slope,
        whole - half,
        estimated,
        plain,
        square,
        jnp.concatenate(flat),
    )
