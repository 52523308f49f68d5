"""Convolutions in the layout that XLA's CPU backend needs within loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ppgen import _jax
from ppgen._interpret import interpret
from ppgen._lowering.lower import REMATS
from ppgen._staging.primitives import CALLS

_BODIES = CALLS | REMATS | {"scan", "while", "cond", "custom_jvp_call", "custom_vjp_call"}


def channels_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, with all convolutions channels last, in loops as well.

    A convolution outside of loops is brought into this layout by XLA's CPU backend, in which it has
    a fast algorithm; in the body of a `scan` or `while_loop` it is not, and takes up to fifty times
    as long. The transpositions that this function makes are next to free. On an accelerator there
    is no need for it.

    References:
        https://github.com/jax-ml/jax/issues/12868
    """

    def run(*args: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        outs = _run(jaxpr, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), outs)

    return run


def _run(jaxpr: Any, args: Sequence[Any]) -> list[Any]:
    return interpret(jaxpr, args, _equation)


def _equation(eqn: _jax.Eqn, values: list[Any]) -> list[Any]:
    if eqn.primitive.name == "conv_general_dilated":
        return [_convolve(eqn, *values)]
    return _jax.bind(eqn, values, _with_bodies(eqn) if _inside(eqn) else None)


def _inside(eqn: _jax.Eqn) -> bool:
    """Whether a body of an equation has a convolution."""
    return eqn.primitive.name in _BODIES and any(
        inner.primitive.name == "conv_general_dilated" or _inside(inner)
        for body in _jax.subjaxprs(eqn)
        for inner in _jax.open_jaxpr(body)[0].eqns
    )


def _with_bodies(eqn: _jax.Eqn) -> dict[str, Any]:
    """The parameters of an equation, with convolutions in its bodies channels last."""

    def changed(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(map(changed, value))
        return _jax.map_jaxpr(_run, value) if _jax.is_jaxpr(value) else value

    return {name: changed(value) for name, value in eqn.params.items()}


def _convolve(eqn: _jax.Eqn, inputs: Any, kernel: Any) -> Any:
    order = eqn.params["dimension_numbers"]
    (rows, channels, *space), (outputs, reads, *window) = order.lhs_spec, order.rhs_spec
    n = len(space)
    last = jax.lax.ConvDimensionNumbers(
        lhs_spec=(0, n + 1, *range(1, n + 1)),
        rhs_spec=(n + 1, n, *range(n)),
        out_spec=(0, n + 1, *range(1, n + 1)),
    )
    (out,) = _jax.bind(
        eqn,
        [
            jax.lax.transpose(inputs, (rows, *space, channels)),
            jax.lax.transpose(kernel, (*window, reads, outputs)),
        ],
        {**eqn.params, "dimension_numbers": last},
    )
    row, channel, *place = order.out_spec
    # The permutation that restores the order of the output's axes.
    now = (row, *place, channel)
    return jax.lax.transpose(out, tuple(now.index(axis) for axis in range(n + 2)))
