"""The pairs of families and estimators, their exact values, and the table of them in the docs.

`python tests/laws/law_pairs.py` writes the table anew.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ppgen.testing import DISTRIBUTIONS, ESTIMATORS, exact
from ppgen.testing import pair as make_pair

TABLE = Path(__file__).parents[2] / "docs" / "pairs.md"

# Without the variants: baselines and pruning have nothing to do with families.
COLUMNS = [name for name in ESTIMATORS if "," not in name]


@functools.cache
def pair(family, name):
    """A family and an estimator of the registry."""
    return make_pair(family, ESTIMATORS[name])


def fitting(family):
    """By estimator, the pairs of a family that fit."""
    found = {name: pair(family, name) for name in COLUMNS}
    return {name: pair for name, pair in found.items() if pair.order}


def truth(family):
    """The exact expectation for all estimators of a family, once.

    Its derivatives are differences of values in float64. So the oracle has the density in common
    with an estimator, but none of its derivatives.

    Returns:
        A function of a pair, whose value is a function of `theta` with the right derivatives.
    """
    some = next(iter(fitting(family).values()))
    point = {**some.fixed, **some.theta}
    # Differences magnify the errors of a quadrature; in two dimensions there are none left to save.
    nodes = 40 if some.distribution(point).event_shape else 400
    names, sizes = list(point), [np.size(x) for x in point.values()]

    def value_at(vector):
        parts = jnp.split(vector, np.cumsum(sizes)[:-1])
        theta = {n: p.reshape(point[n].shape) for n, p in zip(names, parts, strict=True)}
        return exact(some, nodes=nodes)(theta)

    at = np.concatenate([np.ravel(x) for x in point.values()]).astype(np.float64)
    with jax.enable_x64(True):
        many = jax.jit(jax.vmap(value_at))
        value, gradient, hessian = differences(lambda x: np.asarray(many(x)), at)

    def of(pair):
        def expansion(theta):
            moved = [theta.get(n, point[n]) - point[n] for n in names]
            step = jnp.concatenate([jnp.ravel(x) for x in moved])
            return value + gradient @ step + step @ hessian @ step / 2

        return expansion

    return of


def differences(many, at, step=0.03):
    """The value, gradient and Hessian of a function of a batch of points; good to 1e-5."""
    moves = step * np.array([-3, -2, -1, 1, 2, 3])
    weights = np.array([-1, 9, -45, 45, -9, 1]) / (60 * step)
    one = np.einsum("s,ij->isj", moves, np.eye(len(at)))
    two = one[:, :, None, None] + one
    points = [at[None], (at + one).reshape(-1, at.size), (at + two).reshape(-1, at.size)]
    y = many(np.concatenate(points))
    single, double = y[1 : 1 + 6 * at.size], y[1 + 6 * at.size :]
    gradient = single.reshape(at.size, 6) @ weights
    hessian = np.einsum("isjt,s,t->ij", double.reshape((at.size, 6) * 2), weights, weights)
    return y[0], gradient, hessian


def table():
    """The text of the table."""
    lines = [INTRODUCTION, "| | " + " | ".join(COLUMNS) + " |", "| --- " * (1 + len(COLUMNS)) + "|"]
    notes: dict[str, int] = {}
    for family in DISTRIBUTIONS:
        cells = [cell(pair(family, name), notes) for name in COLUMNS]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    lines += ["", "## Why not", ""]
    lines += [f"{number}. {reason}" for reason, number in notes.items()]
    return "\n".join(lines) + "\n"


def cell(pair, notes):
    if not pair.order:
        mark = "–"
    else:
        mark = "✓" if pair.order == 2 else "first derivative"
        if pair.fixed:
            mark += " in " + ", ".join(f"`{name}`" for name in pair.theta)
    if not pair.reason or pair.estimator.first_order and pair.order and not pair.fixed:
        return mark
    # Reasons name the family, which would make one of each.
    name = type(pair.distribution(pair.theta)).__name__
    reason = pair.reason.split("\n  See: ")[0]
    reason = " ".join(reason.replace("\n  Write instead:", ". Write instead:").split())
    reason = re.sub(rf"\b{name}\b", "this family", reason)
    return f"{mark} [{notes.setdefault(reason, len(notes) + 1)}]"


INTRODUCTION = """\
# Which estimator serves which distribution

Every pair with a mark is tested: value, gradient and Hessian of an expectation agree with exact
ones. ✓ is unbiased to every order; *first derivative* is unbiased, and a second one raises. Where
parameters are named, derivatives in the others raise. A dash is an error at the site, for the
reason with that number. Other distributions of NumPyro can be drawn from too; these are the ones
that are tested with every estimator. `StraightThrough()` and `GumbelSoftmax()`, which are biased,
serve what `REBAR()` does.
"""

if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
