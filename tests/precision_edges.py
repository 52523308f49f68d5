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
STEP = 1e-5
NATS = 1e5
LARGEST = float(np.finfo(np.float32).max)


class Points(NamedTuple):
    """Points, one a row, each of numbers that single precision has.

    Attributes:
        theta: the parameters that the zoo makes a distribution of.
        leaves: the arrays in the distribution, raveled.
        values: raveled.
        drawn: whether the value is a draw, and not a place that is looked for.
    """

    theta: np.ndarray
    leaves: np.ndarray
    values: np.ndarray
    drawn: np.ndarray


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
            bool(jnp.all(c(x)))
            for c, x in held
            if x is not None and not isinstance(c, type(constraints.dependent))
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
        ok = np.array(inside(columns, jnp.asarray(single, jnp.float64)))
        if not (one.support.is_discrete or one.event_shape):
            # Not at an end itself, where a value has been rounded.
            for side in (-np.inf, np.inf):
                beside = np.nextafter(single, np.float32(side)).astype(np.float64)
                ok &= np.asarray(inside(columns, jnp.asarray(beside)))
    rows, cols = np.nonzero(ok)
    return Points(
        theta[rows],
        np.asarray(leaves, np.float32)[rows],
        single[rows, cols],
        cols < DRAWS,
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
    size = jnp.abs(values).reshape(len(values), -1)
    # (Counts are integers, of 32 bits in single precision.)
    largest = 2**24 if d.support.is_discrete else LARGEST
    # (What is smaller than normal numbers is flushed to zero.)
    smallest = float(np.finfo(np.float32).tiny)
    ok = jnp.all((size <= largest) & ((size == 0) | (size >= smallest)), axis=-1)
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
            # How the gradient moves with each number, by differences: not all have a second
            # derivative in JAX.
            steps = STEP * jnp.diag(flat)
            up, down = (jax.vmap(jax.grad(f))(flat + step) for step in (steps, -steps))
            moved = jnp.abs(up - down) / (2 * STEP)
            return (
                out,
                gradient,
                # (Of a density, a rounding is relative.)
                1 + jnp.abs(out) + jnp.sum(jnp.abs(flat * gradient)),
                jnp.abs(gradient) + jnp.sum(moved, axis=0),
            )

        values = jnp.asarray(points.values, int if discrete else dtype)
        found = jax.jit(jax.vmap(run))(jnp.asarray(points.leaves, dtype), values)
        result = Evaluated(*(np.asarray(x, np.float64) for x in found))
    if not double:
        return result
    condition = _with_size(points, result)
    if discrete:
        # (Scores of counts are differences of digamma functions: by the log of a concentration,
        # they are right to a rounding of one.)
        condition = condition + 1 / np.maximum(np.abs(points.leaves), 1)
    return result._replace(gradient_condition=condition)


def _with_size(points: Points, at: Evaluated) -> np.ndarray:
    """Conditions of gradients, plus their size at draws: the root of the Fisher information.

    A score that is zero by chance at some value is as good as its rounding to what scores are.
    """
    _, which = np.unique(points.theta, axis=0, return_inverse=True)
    ok = points.drawn & np.isfinite(at.gradient).all(axis=-1)
    total = np.zeros((which.max() + 1, at.gradient.shape[1]))
    np.add.at(total, which[ok], at.gradient[ok] ** 2)
    count = np.maximum(np.bincount(which[ok], minlength=len(total)), 1)
    return at.gradient_condition + np.sqrt(total / count[:, None])[which]


def excess(found: Evaluated, right: Evaluated) -> tuple[np.ndarray, np.ndarray]:
    """The errors of values and gradients, in roundings of single precision times conditions.

    Infinite at a NaN. What single precision does not have is to be infinite. Nothing is asked of
    gradients where there is no density to speak of.
    """
    known = np.isfinite(right.value)
    value = _excess(found.value, right.value, right.value_condition)
    inside = known & (np.abs(right.value) < NATS)
    gradient = _excess(found.gradient, right.gradient, right.gradient_condition)
    return np.where(known, value, 0.0), np.where(inside[:, None], gradient, 0.0)


def _excess(found: Any, right: Any, condition: Any) -> np.ndarray:
    eps, tiny = np.finfo(np.float32).eps, np.finfo(np.float32).tiny
    with np.errstate(all="ignore"):
        error = np.abs(found - right) / (eps * condition + tiny)
        # (Of a square that is halved, and of sums of some.)
        beyond = (np.abs(right) > LARGEST / 8) & np.isinf(found)
        beyond &= np.sign(found) == np.sign(right)
    error = np.where(np.isfinite(found), error, np.inf)
    error = np.where(beyond | (found == right) | ~np.isfinite(right), 0.0, error)
    return np.where(np.isfinite(condition) | ~np.isfinite(found), error, 0.0)
