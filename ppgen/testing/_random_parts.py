"""More parts of random programs: functions along axes, with constants, of impossible values."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution


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
}
"""Costs of two variables."""

FAMILIES: dict[str, tuple[Callable[[Array], Distribution], int]] = {
    "impossible": (
        lambda x: dist.Categorical(
            logits=jnp.where(jnp.array([True, False, True]), x * jnp.arange(3.0), -jnp.inf),
            validate_args=False,  # NumPyro's takes logits of −∞ for a mistake
        ),
        3,
    ),
    "two of many": (lambda x: dist.Categorical(jax.nn.softmax(jnp.stack([x, 0.5 * x]))), 2),
    "waiting time": (lambda x: dist.Geometric(0.3 + 0.6 * jax.nn.sigmoid(x)), 32),
}
"""Distributions made from one number, and how many points the oracle gives them."""

Once = Callable[[Array], Array]


def _nested_scan(once: Once, x: Array, name: str) -> Array:
    def outer(c: Array, a: Array) -> tuple[Array, Array]:
        def inner(d: Array, b: Array) -> tuple[Array, Array]:
            return jnp.tanh(once(d) + b), d * b

        c, seen = jax.lax.scan(inner, c, a[None])
        return c, jnp.sum(seen)

    last, seen = jax.lax.scan(outer, x, jnp.array([1.0, -0.5]))
    return last + jnp.sum(seen)


def _reverse_scan(once: Once, x: Array, name: str) -> Array:
    steps = jnp.array([1.0, -0.5])
    last, seen = jax.lax.scan(lambda c, a: (jnp.sin(once(c) * a), c - a), x, steps, reverse=True)
    return last * seen[0] + seen[1] ** 2


def _nested_cond(once: Once, x: Array, name: str) -> Array:
    # Of an argument, not of a choice: both branches are programs.
    return jax.lax.cond(
        jnp.array(True), lambda x: jax.lax.cond(jnp.array(False), jnp.sin, once, x), jnp.cos, x
    )


def _nested_plates(once: Once, x: Array, name: str) -> Array:
    with numpyro.plate(f"{name}_outer", 1, dim=-2), numpyro.plate(f"{name}_inner", 2, dim=-1):
        z = jax.vmap(jax.vmap(once))(x * jnp.array([[1.0, -0.5]]))
    return jnp.sum(jnp.sin(jnp.sum(z, axis=0)) * jnp.array([0.5, 1.0]))


def _vmap_of_scan(once: Once, x: Array, name: str) -> Array:
    def chain(x: Array) -> Array:
        return jax.lax.scan(lambda c, _: (once(c), c), x, None, length=1)[0]

    return jnp.prod(1.0 + jnp.tanh(jax.vmap(chain)(x * jnp.array([1.0, -0.5]))))


FLOWS: dict[str, tuple[Callable[[Once, Array, str], Array], int]] = {
    "nested scan": (_nested_scan, 2),
    "reverse scan": (_reverse_scan, 2),
    "nested cond": (_nested_cond, 1),
    "nested plates": (_nested_plates, 2),
    "vmap of scan": (_vmap_of_scan, 2),
}
"""Control flow around a choice, and how often the choice is made in it."""
