"""Log densities at edge points, in single precision and in double, with condition numbers.

A point is the numbers that a distribution holds and a value, all of them numbers of single
precision. A function is as accurate as it can be if its error is a few roundings times what a
rounding of each of these numbers does to it: that is its condition number, which derivatives in
double precision tell.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import zoo
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to, constraints

from ppgen._distributions.rebuild import flatten
from ppgen.densities import log_prob

FACTORS = (1e-6, 1e-3, 1e3, 1e6)
PLACES = (
    -1e25,
    -1e12,
    -80.0,
    -25.0,
    -6.0,
    -0.7,
    0.4,
    5.0,
    12.0,
    80.0,
    1e19,
)  # in the coordinates of `biject_to`
COUNTS = (0, 1, 2, 7, 1000, 1_000_000)
DRAWS = 6


class Points(NamedTuple):
    """Points, one a row, each of numbers that single precision has.

    Attributes:
        theta: the parameters that the zoo makes a distribution of.
        leaves: the arrays in the distribution, raveled.
        values: raveled.
    """

    theta: np.ndarray
    leaves: np.ndarray
    values: np.ndarray


class Evaluated(NamedTuple):
    """The log density at each point, its gradient by all numbers, and what a rounding does."""

    value: np.ndarray
    gradient: np.ndarray
    value_condition: np.ndarray | None = None
    gradient_condition: np.ndarray | None = None


def edge_parameters(name: str) -> np.ndarray:
    """The zoo's parameters with each of them, and all, made tiny and large, where that is valid."""
    make, at = zoo.ALL[name]
    base = np.array(at, np.float32)
    found = [base]
    for i, factor in itertools.product(range(len(base) + 1), FACTORS):
        moved = base.copy()
        moved[slice(None) if i == len(base) else i] *= np.float32(factor)
        found.append(moved)
    for i in range(len(base)):
        if 0 < base[i] < 1:
            found.append(base.copy())
            found[-1][i] = np.float32(1 - 1e-6)
    return np.array([row for row in found if _valid(make, row)])


def _valid(make: Any, theta: np.ndarray) -> bool:
    with jax.enable_x64(True):
        try:
            d = make(*map(jnp.float64, theta))
        except ValueError:  # it validates its arguments
            return False
        held = ((c, getattr(d, name, None)) for name, c in d.arg_constraints.items())
        return all(
            bool(jnp.all(c(x))) for c, x in held if x is not None and c != constraints.dependent
        )


def edge_points(name: str) -> Points:
    """Draws from each distribution, and places near the ends of its support."""
    make, _ = zoo.ALL[name]
    theta = edge_parameters(name)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = make(*map(jnp.float64, theta[0]))

        def at(theta):
            d = make(*theta)
            drawn = d.sample(jax.random.key(1), (DRAWS,))
            values = [drawn.reshape(DRAWS, -1)]
            if not one.support.is_discrete:
                values.append(_places(d).reshape(-1, values[0].shape[1]))
            elif not one.event_shape:
                values.append(jnp.array(COUNTS, drawn.dtype)[:, None])
            return ravel_pytree(flatten(d)[0])[0], jnp.concatenate(values)

        columns = jnp.asarray(theta, jnp.float64)
        leaves, values = jax.jit(jax.vmap(lambda t: at(tuple(t))))(columns)
        inside = jax.jit(jax.vmap(lambda t, x: _inside(make(*t), x)))
        single = np.asarray(values, np.float32)
        ok = np.asarray(inside(columns, jnp.asarray(single, jnp.float64)))
    rows, cols = np.nonzero(ok)
    return Points(
        theta[rows],
        np.asarray(leaves, np.float32)[rows],
        np.asarray(values, np.float32)[rows, cols],
    )


def _places(d: Any) -> Any:
    try:
        transform = biject_to(d.support)
        shape = transform.inverse_shape(d.shape())
        size = int(np.prod(shape))
        sign = np.where(np.arange(size) % 2, 1.0, -1.0)
        return jnp.stack([transform(jnp.reshape(u * sign, shape)) for u in PLACES])
    except NotImplementedError:
        return d.sample(jax.random.key(2), (2,))


def _inside(d: Any, values: Any) -> Any:
    """Which rows lie in the support, after rounding, and have a density."""
    values = values.reshape((-1, *d.shape()))
    ok = jnp.all(jnp.isfinite(values).reshape(len(values), -1), axis=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inside = d.support(values)
    return ok & jnp.all(jnp.reshape(inside, (len(values), -1)), axis=-1)


def evaluate(name: str, points: Points, dtype: str) -> Evaluated:
    """The log density and its derivatives in one precision; in double, with condition numbers."""
    make, at = zoo.ALL[name]
    double = dtype == "float64"
    with jax.enable_x64(double):
        dtype = jnp.dtype(dtype)
        one = make(*(jnp.asarray(t, dtype) for t in at))
        example, structure = flatten(one)
        split = np.cumsum([x.size for x in example])[:-1]
        shape = one.shape()
        discrete = one.support.is_discrete

        def density(numbers, value):
            leaves, x = (numbers, value) if discrete else numbers
            parts = jnp.split(leaves, split)
            parts = [
                p.reshape(e.shape).astype(e.dtype) for p, e in zip(parts, example, strict=True)
            ]
            d = structure.build(parts)
            d._validate_args = False
            return jnp.sum(log_prob(d, x.reshape(shape)))

        def run(leaves, value):
            numbers = leaves if discrete else (leaves, value)
            flat, back = ravel_pytree(numbers)
            f = lambda v: density(back(v), value)  # noqa: E731
            out, gradient = jax.value_and_grad(f)(flat)
            if not double:
                return out, gradient
            hessian = jax.jacfwd(jax.grad(f))(flat)
            return (
                out,
                gradient,
                jnp.abs(out) + jnp.sum(jnp.abs(flat * gradient)),
                jnp.abs(gradient) + jnp.sum(jnp.abs(flat * hessian), axis=-1),
            )

        values = jnp.asarray(points.values, int if discrete else dtype)
        found = jax.jit(jax.vmap(run))(jnp.asarray(points.leaves, dtype), values)
        return Evaluated(*(np.asarray(x, np.float64) for x in found))


def excess(found: Any, right: Any, condition: Any, tiny: float = 1e-37) -> np.ndarray:
    """The error in roundings of single precision times the condition number; infinite at a NaN."""
    eps, largest = np.finfo(np.float32).eps, np.finfo(np.float32).max
    with np.errstate(all="ignore"):
        error = np.abs(found - right) / (eps * condition + tiny)
        # (What single precision does not have is infinite.)
        beyond = (np.abs(right) > largest) & np.isinf(found) & (np.sign(found) == np.sign(right))
    error = np.where(beyond | (found == right), 0.0, error)
    error = np.where(np.isfinite(found) | beyond | (found == right), error, np.inf)
    return np.where(np.isfinite(right) & np.isfinite(condition), error, 0.0)
