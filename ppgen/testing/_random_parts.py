"""More parts of random programs: functions along axes, with constants, of impossible values."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution

NODES = 24


def _grid(x: Array, y: Array) -> Array:
    """Six numbers of two, none of them equal to another for long; `(2, 3)`."""
    return jnp.stack([jnp.stack([x, y, x * y]), jnp.stack([x - 1.5, 0.7 * y + 0.4, jnp.sin(x)])])


def _update(x: Array, y: Array) -> Array:
    return jnp.sum(jnp.sin(jnp.zeros(3).at[1].set(x).at[2].add(y * x)))


def _dynamic(x: Array, y: Array) -> Array:
    a = jax.lax.dynamic_update_slice(_grid(x, y), jnp.stack([x**2, y])[None], (0, 1))
    return jnp.sum(jax.lax.dynamic_slice(a, (0, 1), (2, 2)) * jnp.array([[1.0, -0.5], [0.3, 2.0]]))


_WEIGHTS = jnp.array([[0.3, -1.0, 0.5], [1.0, 0.2, -0.4]])
_ON = jnp.array([[True, False, True], [False, True, True]])

FUNCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "sum of rows": lambda x, y: jnp.prod(jnp.sum(jnp.tanh(_grid(x, y)), axis=1)),
    "max of columns": lambda x, y: jnp.sum(jnp.max(_grid(x, y), axis=0) * _WEIGHTS[0]),
    "logsumexp of rows": lambda x, y: jnp.sum(jax.nn.logsumexp(_grid(x, y), axis=1)),
    "softmax of columns": lambda x, y: jnp.sum(jax.nn.softmax(_grid(x, y), axis=0) * _WEIGHTS),
    "product of a row": lambda x, y: jnp.prod(0.5 + jnp.tanh(_grid(x, y))[1]),
    "cumsum": lambda x, y: jnp.sum(jnp.sin(jnp.cumsum(_grid(x, y), axis=0)) * _WEIGHTS),
    "reversed cumsum": lambda x, y: jnp.sum(
        jax.lax.cumsum(_grid(x, y), axis=1, reverse=True) * _WEIGHTS
    ),
    "cummax": lambda x, y: jnp.sum(jax.lax.cummax(_grid(x, y), axis=1) * _WEIGHTS),
    "sort": lambda x, y: jnp.sum(jnp.sort(_grid(x, y), axis=1) * _WEIGHTS),
    "sort columns": lambda x, y: jnp.sum(jnp.sort(_grid(x, y), axis=0) * _WEIGHTS),
    "top_k": lambda x, y: jnp.sum(jax.lax.top_k(_grid(x, y), 2)[0] * _WEIGHTS[:, :2]),
    "argsort": lambda x, y: jnp.sum(jnp.argsort(_grid(x, y), axis=1) * _WEIGHTS),
    "gather by rank": lambda x, y: jnp.array([0.3, -1.0, 2.0])[jnp.argmax(_grid(x, y)[0])],
    "concatenate": lambda x, y: jnp.sum(
        jnp.cos(jnp.concatenate([_grid(x, y), _grid(y, x)[:, :1], jnp.ones((2, 1))], axis=1))
    ),
    "pad": lambda x, y: jnp.sum(jnp.exp(-jnp.square(jnp.pad(_grid(x, y), ((1, 0), (0, 2)))))),
    "pad with a value": lambda x, y: jnp.sum(
        jnp.sin(jax.lax.pad(_grid(x, y), y, ((0, 1, 1), (1, 0, 0))))
    ),
    "update": _update,
    "dynamic update": _dynamic,
    "where with constants": lambda x, y: jnp.sum(jnp.where(_ON, _grid(x, y), 0.7)),
    "where with an infinity": lambda x, y: jnp.sum(
        jax.nn.softmax(jnp.where(_ON, _grid(x, y), -jnp.inf), axis=1) * _WEIGHTS
    ),
    "where of a choice": lambda x, y: jnp.where(x > 0.4, jnp.sin(y), 0.3),
    "indicator": lambda x, y: (x > 0.4) * (1.0 + y),
    "reverse and transpose": lambda x, y: jnp.sum(_grid(x, y)[::-1].T @ _WEIGHTS),
    "matmul": lambda x, y: jnp.sum((_grid(x, y) @ _WEIGHTS.T) ** 2),
    "clip": lambda x, y: jnp.clip(x, -0.3, 0.8) * y,
    # Counts, positions, indices.
    "count": lambda x, y: 1.0 * jnp.sum(_grid(x, y) > 0.2) * (1 + 0.3 * y),
    "any": lambda x, y: jnp.where(jnp.any(_grid(x, y)[0] > 0.9), 0.7 * y, x * x),
    "all as a factor": lambda x, y: jnp.all(_grid(x, y)[0] > -0.5) * (x + y),
    "argmax": lambda x, y: jnp.argmax(_grid(x, y), axis=0) @ jnp.array([1.0, -0.5, 0.3]) * x,
    "argmin of all": lambda x, y: jnp.argmin(_grid(x, y)) * 0.3 + y,
    "one_hot": lambda x, y: jax.nn.one_hot(jnp.argmax(_grid(x, y)[1]), 3) @ _grid(x, y)[0],
    "positions of top_k": lambda x, y: jnp.sum(jax.lax.top_k(_grid(x, y), 2)[1] * 1.0) * y,
    "top_k of columns": lambda x, y: jnp.sum(
        jax.lax.top_k(_grid(x, y).T, 1)[0][:, 0] * _WEIGHTS[1]
    ),
    "searchsorted": lambda x, y: 1.0 * jnp.searchsorted(jnp.array([-0.5, 0.25, 1.5]), x) + y,
    "bincount": lambda x, y: (
        jnp.bincount(jnp.clip(x, 0, 2).astype(int)[None], length=3)
        @ (jnp.stack([y, x * y, 1.0 + y]))
    ),
    "gather at a count": lambda x, y: jnp.stack([y, jnp.sin(y), 0.3])[
        jnp.clip(x, 0, 2).astype(int)
    ],
    "update at a count": lambda x, y: jnp.sum(
        jnp.zeros(3).at[jnp.clip(x, 0, 2).astype(int)].set(y + 1.0) * _WEIGHTS[0]
    ),
    "added at a count": lambda x, y: jnp.prod(
        jnp.stack([0.5, y, 1.0 + x]).at[jnp.clip(y, 0, 2).astype(int)].add(x)
    ),
    "rows at counts": lambda x, y: jnp.sum(
        _grid(x, y)[jnp.clip(jnp.stack([x, y, x - y]), 0, 1).astype(int)] * _WEIGHTS[1]
    ),
    "slice at a count": lambda x, y: jnp.sum(
        jax.lax.dynamic_slice(_grid(x, y), (0, jnp.clip(x, 0, 1).astype(int)), (2, 2)) ** 2
    ),
    "two keys sorted": lambda x, y: jnp.sum(
        jax.lax.sort((_grid(x, y), _WEIGHTS), dimension=1, num_keys=1)[1] * _grid(y, x)
    ),
    "median": lambda x, y: jnp.median(_grid(x, y)) * y,
    "equal": lambda x, y: (x == 1.0) * jnp.cos(y) + 0.1 * x,
    "parity": lambda x, y: jnp.where(x.astype(int) % 2 == 0, y, 1.0 + 0.5 * x),
    "floor": lambda x, y: jnp.floor(2 * x) * y,
    "round": lambda x, y: jnp.round(x + 0.2) + jnp.sin(y),
    "sign": lambda x, y: jnp.sign(x - 0.4) * (1.0 + y),
    "remainder": lambda x, y: (x % 0.7) * y,
    "finite": lambda x, y: jnp.where(jnp.isfinite(jnp.log(x - 0.1)), 1.0 + y, 0.3),
    "zero of relu": lambda x, y: jnp.where(jax.nn.relu(x - 0.2) == 0, 1.0, 0.2) + y,
    "continuous where": lambda x, y: jnp.where(x > 0.4, (x - 0.4) * y, 0.4 - x),
    "two wheres with one floor": lambda x, y: jnp.sum(
        jnp.where(_ON, _grid(x, y), -2.0) - jnp.where(_ON, _grid(y, x), -2.0)
    ),
    # Poles.
    "over its size": lambda x, y: x / jnp.abs(x) + y,
    "reciprocal": lambda x, y: jnp.tanh(1.0 / (x - 0.35)) * y,
    "step": lambda x, y: jnp.heaviside(x - 0.4, 0.5) * y,
    "over a norm": lambda x, y: _grid(x, y)[0, 0] / jnp.sqrt(jnp.sum(_grid(x, y)[1] ** 2)),
    "standardised": lambda x, y: jnp.sum(
        jax.nn.standardize(_grid(x, y), axis=1, epsilon=0.1) * _WEIGHTS
    ),
    "mean by weights": lambda x, y: (
        jnp.sum(_grid(x, y) * jnp.exp(_WEIGHTS * y)) / jnp.sum(jnp.exp(_WEIGHTS * y))
    ),
    # Axes.
    "column by column": lambda x, y: jnp.sum(
        jnp.sin(jnp.reshape(_grid(x, y), (3, 2), order="F")) * _WEIGHTS.T
    ),
    "cumprod": lambda x, y: jnp.sum(jnp.cumprod(jnp.tanh(_grid(x, y)), axis=1) * _WEIGHTS),
    "cummin": lambda x, y: jnp.sum(jax.lax.cummin(_grid(x, y), axis=0, reverse=True) * _WEIGHTS),
    "cumlogsumexp": lambda x, y: jnp.sum(jax.lax.cumlogsumexp(_grid(x, y), axis=1) * _WEIGHTS),
    "roll": lambda x, y: jnp.sum(jnp.roll(_grid(x, y), 1, axis=1) * _grid(x, y)),
    "differences": lambda x, y: jnp.sum(jnp.diff(_grid(x, y), axis=1) ** 2),
    "variance of rows": lambda x, y: jnp.sum(jnp.var(_grid(x, y), axis=1)),
    "repeat and tile": lambda x, y: jnp.sum(
        jnp.sin(jnp.tile(_grid(x, y), (2, 1)) * jnp.repeat(_WEIGHTS, 2, axis=0))
    ),
    "einsum": lambda x, y: jnp.einsum("ij,kj,ik->", _grid(x, y), _WEIGHTS, jnp.eye(2) + 0.3),
    "convolution": lambda x, y: jnp.sum(jnp.convolve(_grid(x, y)[0], _WEIGHTS[0]) ** 2),
    "determinant": lambda x, y: jnp.linalg.det(_grid(x, y)[:, :2] + jnp.eye(2)),
    "outer": lambda x, y: jnp.sum(jnp.tanh(jnp.outer(_grid(x, y)[0], _grid(y, x)[1])) * 0.3),
    "segments": lambda x, y: jnp.sum(
        jax.ops.segment_sum(_grid(x, y).ravel(), jnp.array([0, 1, 1, 2, 0, 2]), 3) ** 2
    ),
    "selected": lambda x, y: jnp.sum(
        jax.lax.select_n(jnp.array([0, 2, 1]), *(jnp.sin(k + _grid(x, y)[0]) for k in range(3)))
    ),
    "entropy": lambda x, y: (
        -jnp.sum(jax.scipy.special.xlogy(*[jax.nn.softmax(jnp.tanh(_grid(x, y)), axis=1)] * 2))
    ),
    "error function": lambda x, y: jax.scipy.special.erf(x - y) * 2.0,
    "lgamma": lambda x, y: jax.lax.lgamma(1.5 + x * x) * y,
    "power": lambda x, y: (1.0 + x * x) ** jnp.tanh(y),
    "kinks": lambda x, y: jnp.abs(x - 0.33) + jnp.maximum(y, 0.5 * x),
    "loop": lambda x, y: jax.lax.fori_loop(0, 3, lambda k, c: jnp.sin(c + k * y), x),
    "scanned": lambda x, y: jnp.sum(
        jax.lax.scan(lambda c, a: (c + a * a, jnp.cos(c)), x, _grid(x, y)[1])[1]
    ),
    "branches": lambda x, y: jax.lax.cond(x > 0.5, lambda: jnp.sin(y), lambda: 1.0 - x * y),
    "map": lambda x, y: jnp.sum(jax.lax.map(lambda a: jnp.max(a * y), _grid(x, y)) ** 2),
    "stopped": lambda x, y: x * jax.lax.stop_gradient(jnp.float32(0.7)) + y * x,
}
"""Costs of two variables."""

FAMILIES: dict[str, tuple[Callable[[Array], Distribution], int]] = {
    "impossible": (
        lambda x: dist.Categorical(
            logits=jnp.where(
                jnp.array([True, False, True]), x[..., None] * jnp.arange(3.0), -jnp.inf
            ),
            validate_args=False,  # NumPyro's takes logits of −∞ for a mistake
        ),
        3,
    ),
    "two of many": (
        lambda x: dist.Categorical(jax.nn.softmax(jnp.stack([x, 0.5 * x], axis=-1))),
        2,
    ),
    "waiting time": (lambda x: dist.Geometric(0.3 + 0.6 * jax.nn.sigmoid(x)), 32),
    "waiting time, logits": (lambda x: dist.Geometric(logits=0.5 + 0.5 * jnp.tanh(x)), 32),
    "fixed": (lambda x: dist.Bernoulli(0.3), 2),
    "four of logits": (
        lambda x: dist.Categorical(logits=jnp.sin(x[..., None] * jnp.arange(4.0))),
        4,
    ),
    "three trials": (lambda x: dist.Binomial(3, jax.nn.sigmoid(x)), 4),
    "unlikely": (lambda x: dist.Bernoulli(logits=x - 6.0), 2),
    "gumbel": (lambda x: dist.Gumbel(x, 0.5), NODES),
    "lognormal": (lambda x: dist.LogNormal(0.5 * jnp.tanh(x), 0.4), NODES),
    "exponential": (lambda x: dist.Exponential(1.0 + jax.nn.sigmoid(x)), NODES),
    "gamma": (lambda x: dist.Gamma(1.5 + jax.nn.sigmoid(x), 2.0), NODES),
    "beta": (lambda x: dist.Beta(1.5 + jax.nn.sigmoid(x), 2.0), NODES),
    "moving uniform": (lambda x: dist.Uniform(0.0, 0.5 + jax.nn.sigmoid(x)), NODES),
    "shifted uniform": (
        lambda x: dist.TransformedDistribution(
            dist.Uniform(0.0, 1.0), dist.transforms.AffineTransform(x, 0.7)
        ),
        NODES,
    ),
    "shifted exponential": (
        lambda x: dist.TransformedDistribution(
            dist.Exponential(2.0), dist.transforms.AffineTransform(0.5 * jnp.tanh(x), 1.0)
        ),
        NODES,
    ),
    "affine normal": (
        lambda x: dist.TransformedDistribution(
            dist.Normal(0.2, 1.0), dist.transforms.AffineTransform(x, 0.6)
        ),
        NODES,
    ),
    "point": (lambda x: dist.Delta(jnp.sin(x)), 1),
}
"""Distributions made from one number, and how many points the oracle gives them."""
