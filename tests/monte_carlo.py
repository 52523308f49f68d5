"""Statistical checks against exact oracles, shared by the tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ppgen


def estimates(g, *args, samples=4000, order=1, forward=False, seed=0):
    """Value, gradient and (for `order=2`) Hessian of `g(key, theta, *args)` for many keys."""

    def run(key):
        if forward:
            out = [g(key, *args), jax.jacfwd(g, argnums=1)(key, *args)]
        else:
            out = [*jax.value_and_grad(g, argnums=1)(key, *args)]
        if order == 2:
            out.append(jax.hessian(g, argnums=1)(key, *args))
        return out

    keys = jax.random.split(jax.random.key(seed), samples)
    return [np.asarray(x, np.float64) for x in jax.jit(jax.vmap(run))(keys)]


def assert_close_in_mean(got, exact, *, what="value", rtol=2e-4):
    """The mean of `got` over its first axis is within 5 standard errors of `exact`."""
    exact = np.asarray(exact)
    mean = got.mean(0)
    error = got.std(0) / np.sqrt(len(got))
    allowed = 5 * error + rtol * (1 + np.abs(exact))
    assert np.all(np.abs(mean - exact) <= allowed), (
        f"{what}: estimate {mean}, standard error {error}, exact {exact}"
    )


def check(f, theta, exact, *, samples=4000, order=1, draws=1, forward=False, seed=0):
    """`ppgen.expectation(f)` against `exact`, a NumPy function of a float64 vector.

    Returns:
        The estimates, each with a leading axis of length `samples`.
    """
    theta = np.asarray(theta, np.float64)
    g = ppgen.expectation(f, draws=draws)
    got = estimates(
        g, jnp.asarray(theta, float), samples=samples, order=order, forward=forward, seed=seed
    )
    oracles = [value, gradient, hessian][: order + 1]
    for oracle, x in zip(oracles, got, strict=True):
        assert np.all(np.isfinite(x)), f"{oracle.__name__}: not finite"
        assert_close_in_mean(x, oracle(exact, theta), what=oracle.__name__)
    return got


def value(exact, theta):
    return exact(theta)


def gradient(exact: Callable, theta: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences, good to about ten digits in float64."""
    out = np.zeros(theta.shape)
    for i in np.ndindex(theta.shape):
        d = np.zeros(theta.shape)
        d[i] = step
        out[i] = (exact(theta + d) - exact(theta - d)) / (2 * step)
    return out


def hessian(exact: Callable, theta: np.ndarray, step: float = 1e-3) -> np.ndarray:
    out = np.zeros(theta.shape * 2)
    for i in np.ndindex(theta.shape):
        d = np.zeros(theta.shape)
        d[i] = step
        plus, minus = gradient(exact, theta + d, step), gradient(exact, theta - d, step)
        out[i] = (plus - minus) / (2 * step)
    return out


# --- exact expectations of plain Python programs --------------------------------------------------


def bernoulli(p: float) -> list[tuple[Any, float]]:
    """The points of a flip."""
    return [(0, 1 - p), (1, p)]


def categorical(probs: Sequence[float]) -> list[tuple[Any, float]]:
    """The points of a categorical."""
    return list(enumerate(probs))


def normal(loc: float, scale: float, nodes: int = 4) -> list[tuple[Any, float]]:
    """Points that give the expectation of a polynomial of degree below `2 * nodes` exactly."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return [(loc + scale * a, b) for a, b in zip(x, w / w.sum(), strict=True)]


def expected(program: Callable[[Callable], float]) -> float:
    """Sum `program(choose)` over all paths; `choose(points)` makes a choice."""
    total, pending = 0.0, [()]
    while pending:
        prefix = pending.pop()
        path: list[int] = []
        weight = 1.0

        def choose(points, prefix=prefix, path=path):
            nonlocal weight
            if len(path) < len(prefix):
                i = prefix[len(path)]
            else:
                i = 0
                pending.extend((*path, j) for j in range(1, len(points)))
            path.append(i)
            weight *= points[i][1]
            return points[i][0]

        out = program(choose)
        total += weight * out
    return total


def over_flips(probs: np.ndarray, cost: Callable[[np.ndarray], float]) -> float:
    """The expected cost of independent flips, by summation over all of them."""
    probs = np.asarray(probs)
    total = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=probs.size):
        b = np.array(bits).reshape(probs.shape)
        total += np.prod(np.where(b == 1, probs, 1 - probs)) * float(cost(b))
    return total


def count_equations(jaxpr) -> int:
    """Equations of a jaxpr and of all that it calls."""
    total = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        total += 1
        for param in eqn.params.values():
            for item in param if isinstance(param, (tuple, list)) else (param,):
                if hasattr(item, "eqns") or hasattr(item, "jaxpr"):
                    total += count_equations(item)
    return total
