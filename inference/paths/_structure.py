"""The structure of a path: its sites, their dependences, and its linearity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, PyTree
from numpyro.primitives import Messenger

from ppgen import _jax
from ppgen._distributions.wrappers import unwrapped
from ppgen._interpret import follow
from ppgen._staging.primitives import CALLS
from ppgen.annotations import Program
from ppgen.inference.paths._errors import PathError


class Sites(Messenger):
    """Give some sites their values, also observed ones, and remember all of them."""

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        super().__init__(None)
        self.given = dict(given or {})
        self.values: dict[str, Any] = {}
        self.laws: dict[str, Any] = {}

    def __enter__(self) -> Sites:
        super().__enter__()
        return self

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "sample" and msg["name"] in self.given:
            msg["value"] = self.given[msg["name"]]

    def postprocess_message(self, msg: dict) -> None:
        if msg["type"] == "sample":
            self.values[msg["name"]] = msg["value"]
            self.laws[msg["name"]] = msg["fn"]


def fixing(
    bridge: Program,
    given: Mapping[str, Any],
    keep: tuple[str, ...] = (),
    laws: dict[str, Any] | None = None,
) -> Program:
    """The bridge with some sites fixed, and some values besides `x` in what it returns.

    A run leaves the distributions of the sites in `laws`: only static facts of them are of use.
    """

    def run(*args: Any) -> tuple[PyTree[Array], dict[str, Array]]:
        with Sites(given) as sites:
            x = all_arrays(bridge(*args))
        if laws is not None:
            laws.update(sites.laws)
        # Sites of a program whose density is estimated have no value of their own here.
        kept = {name: value for name in keep if (value := sites.values.get(name)) is not None}
        return x, jax.tree.map(jnp.asarray, kept)

    return run


_RETURN = "return alpha(t) * x1 + sigma(t) * x0"


def all_arrays(x: Any) -> PyTree[Array]:
    """A point, if it is an array or a pytree of them."""
    leaves = jax.tree.leaves(x)
    if not leaves or not all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves):
        raise PathError(
            f"a bridge returns the point on the path, an array or a tree of them, not {type(x)}",
            instead=_RETURN,
        )
    return jax.tree.map(jnp.asarray, x)


def all_floats(x: PyTree[Array]) -> None:
    """Refuse points that do not move: integers have no velocity and no score."""
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise PathError(
                "velocities, scores and coefficients are those of points that are floats, not "
                f"{leaf.dtype}",
                instead='regress(..., predict="x1"), which needs none of them',
            )


def one_array(x: PyTree[Array]) -> Array:
    """A point that is one array of floats."""
    if not isinstance(x, jax.Array):
        raise PathError(
            f"scores and coefficients are those of a point that is one array, not {type(x)}",
            instead="one vector of all parts",
        )
    all_floats(x)
    return x


def normal_parameters(law: Any) -> tuple[Array, Array] | None:
    """Location and scale of independent normals; `None` of anything else."""
    law = unwrapped(law)
    return (jnp.asarray(law.loc), jnp.asarray(law.scale)) if type(law) is dist.Normal else None


def is_unbounded(law: Any) -> bool:
    """Whether the support of a distribution is all of the line, in each element."""
    support = law.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, type(dist.constraints.real))


def depends(f: Callable[[Array], Any], x: Array) -> list[bool]:
    """Which of the results of `f` can depend on `x`, by its jaxpr: never too few."""

    def through(jaxpr: Any, flags: list[bool]) -> list[bool]:
        env = follow(jaxpr, flags, equation, nothing=False)
        return env.read(_jax.open_jaxpr(jaxpr)[0].outvars)

    def equation(eqn: _jax.Eqn, flags: list[bool]) -> list[bool]:
        if eqn.primitive.name in CALLS:
            return through(_jax.subjaxprs(eqn)[0], flags)
        return [any(flags)] * len(eqn.outvars)

    return through(jax.make_jaxpr(f)(x), [True])


def checked(coefficients: Any, right: Array, message: str, instead: str) -> Any:
    """The coefficients if `right` holds, else an error.

    Under `jax.jit`, where no error can be raised, they are NaN.
    """
    if not isinstance(right, jax.core.Tracer):
        if not bool(right):
            raise PathError(message, instead=instead)
        return coefficients
    return jax.tree.map(lambda c: jnp.where(right, c, jnp.nan), coefficients)


def probe(like: Array, index: int) -> Array:
    """Fixed test inputs for a function, the same in every run."""
    return jax.random.normal(jax.random.key(index), like.shape, like.dtype)


def agree(found: Array, *terms: Array) -> Array:
    """Whether `found` is the sum of the terms, up to rounding.

    It is not differentiated: nothing with a derivative depends on it.
    """
    held = jax.lax.stop_gradient(jnp.stack(terms))
    size = jnp.sum(jnp.max(jnp.abs(held).reshape(len(terms), -1), axis=1))
    gap = jnp.abs(jax.lax.stop_gradient(found) - jnp.sum(held, axis=0))
    return jnp.max(gap) <= 10 * jnp.sqrt(jnp.finfo(found.dtype).eps) * size


def key_of_program() -> Array:
    """A key from the transformation that runs the program.

    Raises:
        PathError: there is none.
    """
    if (key := numpyro.prng_key()) is None:
        raise PathError(
            "this draws, and has no key to draw with",
            instead="ppgen.seed(sampler)(key, x), or a call within a program",
        )
    return key
