"""An exact oracle for small objectives: every choice is summed or integrated out.

It shares the staging of programs with `expectation`, and nothing else: no estimator, no influence
analysis, no score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ppgen._staging.stage import stage
from ppgen.errors import CostError, DensityError, PpgenError
from ppgen.testing._interpreter import Interpreter, Path, Settings, Sum, Unknown

# How far the weights of a program may be from summing to one.
_TOLERANCE = 1e-5


def exact(
    f: Callable[..., Array],
    *,
    nodes: int = 48,
    terms: int = 128,
    max_points: int = 2**20,
) -> Callable[..., Array]:
    """The exact expectation of a small objective, by enumeration and quadrature in float64.

    Finite supports are enumerated, countable ones cut off after `terms` values, continuous choices
    integrated by a rule that converges exponentially in `nodes` for a smooth integrand, and like
    `1 / nodes` for a discontinuous one. The derivatives of the result, of any order, are those of
    the expectation. Its cost is the *product* of the grids of all choices.

    Args:
        f: an objective, as for `ppgen.expectation`.
        nodes: points of a continuous choice, along each of its dimensions.
        terms: values of a choice with countable support.
        max_points: the largest product of grids to be evaluated.

    Returns:
        `E[f]` as a function of the arguments of `f`, to which JAX's transformations apply; `jit`
        where 64-bit types are enabled (`jax.enable_x64(True)`), because it works in them.

    Raises:
        DensityError: too many points, a distribution without a grid, or a grid that misses more
            than 1e-5 of the mass.
        ControlFlowError: a choice where its number of repetitions is not known in advance.
        CostError: `f` does not return a real scalar.

    Example:
        >>> import jax, ppgen, numpyro.distributions as dist
        >>> from ppgen.testing import exact
        >>> def f(p):
        ...     return (ppgen.draw(dist.Bernoulli(p)) - 0.499) ** 2
        >>> round(float(jax.grad(exact(f))(0.3)), 4)
        0.002
    """
    settings = Settings(nodes, terms, max_points)

    def run(*args: Any, **kwargs: Any) -> Array:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        moving = [i for i, leaf in enumerate(leaves) if eqx.is_inexact_array(leaf)]

        def value(flat: Array) -> Array:
            full = list(leaves)
            start = 0
            for i in moving:
                shape = jnp.shape(leaves[i])
                full[i] = flat[start : start + math.prod(shape)].reshape(shape)
                start += math.prod(shape)
            new_args, new_kwargs = jax.tree.unflatten(treedef, full)
            return _integrate(lambda: f(*new_args, **new_kwargs), settings)

        flat = jnp.concatenate([jnp.zeros(0), *(jnp.ravel(leaves[i]) for i in moving)])
        try:
            return _in_float64(value)(flat)
        except PpgenError as error:
            # The interpreter's own frames, several for each choice, would bury the message.
            raise error.with_traceback(None) from None

    return run


def _in_float64(value: Callable[[Array], Array], order: int = 0) -> Callable[[Array], Array]:
    """Evaluate the derivative of this order in float64, whatever the precision around it.

    One function for each order, because what is differentiated must not cross from one precision
    to the other.
    """
    derivative = value
    for k in range(order):
        derivative = jax.grad(derivative) if k == 0 else jax.jacfwd(derivative)

    if jnp.result_type(float) == jnp.float64:
        return eqx.filter_jit(derivative)

    @jax.custom_jvp
    def run(flat: Array) -> Array:
        with jax.enable_x64(True):
            out = eqx.filter_jit(derivative)(flat.astype(jnp.float64))
            return jax.lax.convert_element_type(out, jnp.float32)

    @run.defjvp
    def run_jvp(primals, tangents):
        slope = _in_float64(value, order + 1)(primals[0])
        return run(primals[0]), jnp.tensordot(slope, tangents[0], 1)

    return run


def _integrate(thunk: Callable[[], Any], settings: Settings) -> Array:
    staged = stage(thunk, in_place=False)

    def finish(out: list[Any], _: Path) -> Sum:
        if any(isinstance(x, Unknown) for x in out):
            raise DensityError(
                "the objective depends on a raw PRNG key, whose draws `exact` cannot enumerate",
                instead="ppgen.draw or numpyro.sample for what is random in it",
            )
        cost = staged.unflatten(out)
        if not eqx.is_array_like(cost):
            raise CostError(f"expected a real scalar, got a {type(cost).__name__}")
        if jnp.shape(cost) != () or jnp.iscomplexobj(cost):
            raise CostError(f"expected a real scalar, got {jax.typeof(jnp.asarray(cost))}")
        return Sum(jnp.asarray(cost, jnp.float64), jnp.zeros((), jnp.float64))

    value, defect = Interpreter(settings).run(staged.jaxpr, [], finish, ())
    return eqx.error_if(
        value,
        jax.lax.stop_gradient(defect) > _TOLERANCE,
        f"the grid of ppgen.testing.exact misses or doubles more than {_TOLERANCE} of the mass: "
        "raise `nodes` (continuous choices) or `terms` (countable supports)",
    )
