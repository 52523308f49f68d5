"""Runs a staged program on every point of its grid at once, in continuation style.

At each choice, "the rest of the program" is a Python function, mapped by `jax.vmap` over the points
of that choice and summed with their weights, whatever the rest does with the value.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppgen import _jax
from ppgen._staging.primitives import ChoiceSpec, is_random
from ppgen._user_lines import where
from ppgen.errors import ControlFlowError, DensityError
from ppgen.testing._grid import Grid, grid, grid_size


class Settings(NamedTuple):
    """The sizes of the grids; see `ppgen.testing.exact`."""

    nodes: int
    terms: int
    max_points: int


class Sum(NamedTuple):
    """A sum over the grid: its value, and how much mass the weights have lost or gained."""

    value: Array
    defect: Array


class Unknown:
    """A placeholder for a raw PRNG key and values computed from it, which cannot be summed over."""


Path = tuple[tuple[str, int], ...]
"""Names and numbers of points of the choices made so far."""

Rest = Callable[[list[Any], Path], Sum]
"""The rest of a program, as a function of the outputs of what comes before it."""


class Interpreter:
    """Evaluates jaxprs with random choices in them."""

    def __init__(self, settings: Settings) -> None:
        """Fix the sizes of the grids."""
        self.settings = settings

    def run(self, jaxpr: Any, args: Sequence[Any], rest: Rest, path: Path) -> Sum:
        """Evaluate `jaxpr` on `args`, for all values of its choices, and continue with `rest`."""
        jaxpr, consts = _jax.open_jaxpr(jaxpr)
        env = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        return self._resume(jaxpr, 0, env, rest, path)

    def _resume(self, jaxpr: Any, start: int, env: dict, rest: Rest, path: Path) -> Sum:
        def read(v: Any) -> Any:
            return v.val if isinstance(v, _jax.Literal) else env[v]

        for i, eqn in enumerate(jaxpr.eqns[start:], start):
            values = [read(v) for v in eqn.invars]
            if eqn.primitive.name == "fresh_key" or any(isinstance(v, Unknown) for v in values):
                if eqn.primitive.name != "fresh_key" and is_random(eqn):
                    raise DensityError(
                        "a random choice depends on a raw PRNG key, whose draws `exact` cannot "
                        "enumerate",
                        where=where(eqn),
                        instead="ppgen.draw or numpyro.sample for what is random in it",
                    )
                env.update((v, Unknown()) for v in eqn.outvars)
            elif is_random(eqn):

                def resume(out: list[Any], path: Path, i: int = i, eqn: Any = eqn) -> Sum:
                    new = env | dict(zip(eqn.outvars, out, strict=True))
                    return self._resume(jaxpr, i + 1, new, rest, path)

                return self._random(eqn, values, resume, path)
            else:
                env.update(zip(eqn.outvars, _bind(eqn, values), strict=True))
        return rest([read(v) for v in jaxpr.outvars], path)

    def _random(self, eqn: Any, values: list[Any], rest: Rest, path: Path) -> Sum:
        match eqn.primitive.name:
            case "random_choice":
                params = eqn.params
                return self._choice(
                    params["spec"], params["lanes"], params["mapped"], values, rest, path
                )
            case "sample_site":
                return self._site(eqn, values, rest, path)
            case "cond":
                branches = [
                    lambda b=b: self.run(b, values[1:], rest, path) for b in eqn.params["branches"]
                ]
                return jax.lax.switch(values[0], branches)
            case "scan":
                return self._scan(eqn, values, rest, path)
            case "while":
                return self._while(eqn, values, rest, path)
        inner = _jax.subjaxprs(eqn)
        if not inner:
            raise ControlFlowError(
                f"`exact` does not know what {eqn.primitive.name} means", where=where(eqn)
            )
        # A call, rematerialised or with a derivative rule of its own: the first jaxpr is its value.
        return self.run(inner[0], values, rest, path)

    def _site(self, eqn: Any, values: list[Any], rest: Rest, path: Path) -> Sum:
        """A site directly in the objective: a choice, or a given value, without a density."""
        site, lanes, mapped = (eqn.params[k] for k in ("spec", "lanes", "mapped"))
        if not site.observed:
            own = site.order
            return self._choice(
                site.choice, lanes, [mapped[i] for i in own], [values[i] for i in own], rest, path
            )
        at = site.num_leaves + site.num_estimator
        missing = [i for i, flag in enumerate(mapped[at]) if not flag]
        value = jnp.expand_dims(values[at], missing)
        return rest([jnp.broadcast_to(value, lanes + site.choice.shape)], path)

    def _choice(
        self, spec: ChoiceSpec, lanes: Any, mapped: Any, values: list[Any], rest: Rest, path: Path
    ) -> Sum:
        """Sum over the product of the grids of all lanes and elements of a batch."""
        values, mapped = values[: spec.num_dist], mapped[: spec.num_dist]
        size, elements = self._size(spec, values, mapped), math.prod(lanes + spec.batch)
        # A batch that is empty has one outcome.
        points = size**elements
        path = (*path, (f"{spec.name}: {size}**{elements}" if elements > 1 else spec.name, points))
        total = math.prod(n for _, n in path)
        if total > self.settings.max_points:
            product = " x ".join(f"{n} ({name})" for name, n in path)
            raise DensityError(
                f"too many points for the exact sum: at least {product} = {total:,}, the limit is "
                f"{self.settings.max_points:,}",
                site=spec.name,
                where=spec.where,
                instead="fewer choices, smaller batches, exact(f, nodes=..., terms=...) with "
                "coarser grids, or a larger max_points",
            )
        each = self._grid(spec, lanes, mapped, values)
        shape = each.points.shape[1 + len(lanes + spec.batch) :]
        x = each.points.reshape(size, elements, *shape)
        w = each.weights.reshape(size, elements)
        index = np.indices((size,) * elements).reshape(elements, points).T
        x = x[index, np.arange(elements)].reshape(points, *lanes, *spec.shape)
        w = jnp.prod(w[index, np.arange(elements)], axis=1)
        inner = jax.vmap(lambda x: rest([x.astype(spec.dtype)], path))(x)
        defect = jnp.abs(jnp.sum(w) - 1) + jnp.sum(jnp.abs(w) * inner.defect)
        return Sum(jnp.sum(w * inner.value), defect)

    def _size(self, spec: ChoiceSpec, values: list[Any], mapped: Any) -> int:
        sizes = self.settings.nodes, self.settings.terms
        one = [v[(0,) * sum(flags)] for v, flags in zip(values, mapped, strict=True)]
        return grid_size(spec.dist.build(one), nodes=sizes[0], terms=sizes[1])

    def _grid(self, spec: ChoiceSpec, lanes: tuple[int, ...], mapped: Any, values: list) -> Grid:
        """Points `(S, *lanes, *batch, *event)` and weights `(S, *lanes, *batch)`."""

        def one(values: list[Any]) -> Grid:
            frozen = spec.dist.build([jax.lax.stop_gradient(v) for v in values])
            nodes, terms, _ = self.settings
            return grid(spec.dist.build(values), frozen, nodes=nodes, terms=terms)

        fn = one
        for level in reversed(range(len(lanes))):
            # The points stay in front of the lanes.
            axes = [0 if flags[level] else None for flags in mapped]
            fn = jax.vmap(fn, (axes,), 1, axis_size=lanes[level])
        return fn(list(values))

    def _scan(self, eqn: Any, values: list[Any], rest: Rest, path: Path) -> Sum:
        consts, carried = _jax.scan_counts(eqn)
        length, body = eqn.params["length"], eqn.params["jaxpr"]
        xs = values[consts + carried :]
        steps = range(length)[::-1] if eqn.params["reverse"] else range(length)

        def step(k: int, carry: list[Any], ys: dict[int, list[Any]], path: Path) -> Sum:
            if k == length:
                stacked = [jnp.stack(y) for y in zip(*(ys[i] for i in range(length)), strict=True)]
                return rest([*carry, *stacked], path)

            def after(out: list[Any], path: Path) -> Sum:
                return step(k + 1, out[:carried], ys | {steps[k]: out[carried:]}, path)

            return self.run(
                body, [*values[:consts], *carry, *(x[steps[k]] for x in xs)], after, path
            )

        return step(0, values[consts : consts + carried], {}, path)

    def _while(self, eqn: Any, values: list[Any], rest: Rest, path: Path) -> Sum:
        params = eqn.params
        m, n = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]

        def step(carry: list[Any], path: Path) -> Sum:
            jaxpr, consts = _jax.open_jaxpr(params["cond_jaxpr"])
            going = _evaluate(jaxpr, consts, [*values[:m], *carry])
            if isinstance(going, jax.core.Tracer):
                raise ControlFlowError(
                    "a random choice in a loop whose number of steps is not known in advance, "
                    "which `exact` cannot unroll",
                    where=where(eqn),
                    instead="jax.lax.fori_loop or scan with a number of steps that is a Python int",
                )
            if not going:
                return rest(carry, path)
            return self.run(params["body_jaxpr"], [*values[m:n], *carry], step, path)

        return step(values[n:], path)


def _bind(eqn: Any, values: list[Any]) -> list[Any]:
    # What does not depend on a traced value stays concrete, so that counted loops can be unrolled.
    if any(isinstance(v, jax.core.Tracer) for v in values):
        return _jax.bind(eqn, values)
    with jax.ensure_compile_time_eval():
        return _jax.bind(eqn, values)


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> Any:
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, _jax.Literal) else env[v]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _bind(eqn, [read(v) for v in eqn.invars]), strict=True))
    return read(jaxpr.outvars[0])
