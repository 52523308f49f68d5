"""Running a staged program again with the draws of another run, or with a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ppgen import _jax
from ppgen._interpret import interpret
from ppgen._staging.choice import bind_choice
from ppgen._staging.primitives import CALLS, RANDOM, is_random
from ppgen._user_lines import where
from ppgen.errors import ControlFlowError

_REMATS = frozenset({"remat2", "checkpoint"})


class Drawn(NamedTuple):
    """What a staged program draws at one place, in all steps of the loops around it.

    Attributes:
        name: of the site, or of the primitive.
        shape: of everything that is drawn there.
        dtype: its dtype.
        dependent: how many of the last axes are one value, whose parts may depend on each other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    dependent: int


def draws_of(jaxpr: Any) -> list[Drawn]:
    """What a staged program draws, in order.

    Raises:
        ControlFlowError: it draws in a branch, or in a loop of unknown length.
    """
    found = []
    for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
        found += _draws_of(eqn)
    return found


def _draws_of(eqn: _jax.Eqn) -> list[Drawn]:
    name = eqn.primitive.name
    if name in RANDOM:
        spec = eqn.params.get("spec")
        label = getattr(getattr(spec, "choice", spec), "name", name)
        independent = len(eqn.params["lanes"]) + len(getattr(spec, "batch", ()))
        return [
            Drawn(label, v.aval.shape, v.aval.dtype, len(v.aval.shape) - independent)
            for v in eqn.outvars
        ]
    if not is_random(eqn):
        return []
    if name in CALLS or name in _REMATS:
        return draws_of(_jax.subjaxprs(eqn)[0])
    if name == "scan":
        length = eqn.params["length"]
        inner = draws_of(eqn.params["jaxpr"])
        return [d._replace(shape=(length, *d.shape)) for d in inner]
    raise ControlFlowError(
        f"draws in {name} cannot be used again in another run",
        where=where(eqn),
        instead="the draws outside of it, or a jax.lax.scan with a mask",
    )


def run(
    jaxpr: Any, args: Sequence[Any], given: Sequence[Any] | None = None
) -> tuple[list[Any], list[Any]]:
    """Run a staged program in the one that is being staged.

    Args:
        jaxpr: the closed jaxpr; its choices are not in place.
        args: its inputs.
        given: what it draws, as listed by `draws_of`; `None` to draw.

    Returns:
        Its results, and what it draws.
    """
    left = None if given is None else list(given)
    drawn: list[Any] = []

    def equation(eqn: _jax.Eqn, values: list[Any]) -> Sequence[Any]:
        if not is_random(eqn):
            return _jax.bind(eqn, values)
        own = None
        if left is not None:
            count = len(_draws_of(eqn))
            own, left[:count] = left[:count], []
        with _jax.at_line_of(eqn):
            outs, new = _random(eqn, values, own)
        drawn.extend(new)
        return outs

    return interpret(jaxpr, args, equation), drawn


def _random(eqn: _jax.Eqn, values: list[Any], given: list[Any] | None) -> tuple[list, list]:
    name = eqn.primitive.name
    if name in RANDOM:
        if given is not None:
            return given, given
        if name == "random_choice":
            spec, lanes, mapped = (eqn.params[k] for k in ("spec", "lanes", "mapped"))
            made = [bind_choice(spec, lanes, mapped, values)]
        else:
            made = list(_jax.bind(eqn, values))
        return made, made
    inner = eqn.params["jaxpr"] if name == "scan" else _jax.subjaxprs(eqn)[0]
    if name in CALLS:
        return run(inner, values, given)
    if name in _REMATS:
        again = jax.checkpoint(
            lambda values, given: run(inner, values, given),
            prevent_cse=eqn.params["prevent_cse"],
            policy=eqn.params["policy"],
        )
        return again(values, given)
    consts, carried = _jax.scan_counts(eqn)

    def step(carry: list[Any], xs: Any) -> tuple[list[Any], Any]:
        xs, own = xs
        outs, drawn = run(inner, [*values[:consts], *carry, *xs], own)
        return outs[:carried], (outs[carried:], drawn)

    carry, (ys, drawn) = jax.lax.scan(
        step,
        values[consts : consts + carried],
        (values[consts + carried :], given),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*carry, *ys], drawn
