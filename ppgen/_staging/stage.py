"""Staging: run a program once, abstractly, and keep it as a jaxpr.

NumPyro's effects become equations: see `numpyro_effects`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppgen import _jax
from ppgen._settings import current, settings
from ppgen._staging.choice import staging_frames
from ppgen._staging.mutable_state import collecting_state
from ppgen._staging.numpyro_effects import binding
from ppgen._staging.primitives import CALLS, RANDOM
from ppgen.errors import ControlFlowError, SiteError


class Staged(NamedTuple):
    """A program as a jaxpr, whose closed-over arrays are constants.

    Attributes:
        jaxpr: the closed jaxpr.
        both: from the jaxpr's outputs to what the program returned, and its new state by site.
    """

    jaxpr: Any
    both: Callable[[list[Any]], tuple[Any, dict[str, Any]]]

    def unflatten(self, values: list[Any]) -> Any:
        """What the program returned, of the jaxpr's outputs."""
        return self.both(values)[0]


def stage(
    thunk: Callable[..., Any],
    *inputs: Any,
    in_place: bool = True,
    params: str = "error",
    recorded: bool = False,
    state: bool = False,
) -> Staged:
    """Stage `thunk(*inputs)`.

    Args:
        thunk: runs the program on arguments that it closes over.
        *inputs: pytrees whose leaves become inputs of the jaxpr.
        in_place: stage pathwise choices as the computation of a differentiable sample; otherwise
            every choice is a `random_choice` equation.
        params: "error", or "init" to let `numpyro.param` give its initial value.
        recorded: whether densities will be needed; otherwise the jaxpr is only run, and a program
            whose density is estimated is replaced by its sampler.
        state: whether the program may have mutable state, which becomes an output of the jaxpr.
    """
    returned = []

    def flat(*inputs: Any) -> list[Any]:
        with (
            binding(params),
            settings(staging=True, in_place=in_place, densities_asked=recorded),
            collecting_state(state) as found,
        ):
            out = thunk(*inputs)
        leaves, treedef = jax.tree.flatten((out, found))
        dynamic = [isinstance(leaf, (jax.Array, np.ndarray, np.generic)) for leaf in leaves]
        static = [None if d else leaf for leaf, d in zip(leaves, dynamic, strict=True)]
        returned.append((treedef, dynamic, static))
        return [leaf for leaf, d in zip(leaves, dynamic, strict=True) if d]

    staging_frames.add(flat.__code__)
    jaxpr = jax.make_jaxpr(flat)(*inputs)
    _check_in_place(jaxpr, loops=0)
    sites_by_name(jaxpr)
    treedef, dynamic, static = returned[-1]

    def both(values: list[Any]) -> tuple[Any, dict[str, Any]]:
        # Values known at staging may be NumPy arrays; users get JAX arrays. None is what was
        # integrated out.
        left = (x if x is None else jnp.asarray(x) for x in values)
        leaves = [next(left) if d else leaf for d, leaf in zip(dynamic, static, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    return Staged(jaxpr, both)


def _check_in_place(jaxpr: Any, loops: int) -> None:
    """Refuse randomness that JAX has moved out of the loop in which it was drawn.

    Differentiating a scan *inside* of a program moves loop-invariant values out of it; a key is
    one, and every step would get the same key.
    """
    for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
        name = eqn.primitive.name
        spec = eqn.params.get("spec")
        spec = getattr(spec, "choice", spec)
        looped = eqn.params["looped"] if name == "fresh_key" else getattr(spec, "looped", False)
        if name in RANDOM and looped and not loops:
            raise ControlFlowError(
                "a loop with random choices is differentiated inside of the program, which takes "
                "the choices out of the loop: every step would get the same ones",
                site=getattr(spec, "name", None),
                where=spec.where if spec is not None else eqn.params["where"],
                instead="keys = jax.random.split(numpyro.prng_key(), length) outside of the loop, "
                "scanned over; or jax.grad(ppgen.expectation(f)) outside of the program",
            )
        inner = 0 if name in CALLS else loops + (name in ("scan", "while"))
        for sub in _jax.subjaxprs(eqn):
            _check_in_place(sub, inner)


def sites_by_name(jaxpr: Any) -> dict[str, str]:
    """Where the sites of a program are, by name, which is what everything knows them by.

    Raises:
        SiteError: two of them have the same one, and not in two branches of which one is taken.
    """
    found: dict[str, str] = {}
    for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
        new: dict[str, str] = {}
        spec = eqn.params.get("spec")
        if eqn.primitive.name == "sample_site":
            elsewhere = spec.hidden or spec.substituted
            new = {} if elsewhere else {spec.choice.name: spec.choice.where}
        elif eqn.primitive.name == "estimated_program":
            new = {str(name): spec.where for name in spec.sites}
        for body in _jax.subjaxprs(eqn):
            inside = sites_by_name(body)
            if eqn.primitive.name != "cond":
                _check_names(new, inside)
            new |= inside
        _check_names(found, new)
        found |= new
    return found


def _check_names(one: dict[str, str], other: dict[str, str]) -> None:
    for name in one.keys() & other.keys():
        here, there = one[name], other[name]
        raise SiteError(
            "two sites of one program have the same name"
            + (f": this one, and that in {here}" if here != there else ", on the same line"),
            site=name,
            where=there,
            instead="a name of its own for each site, or handlers.scope around a repeated part",
        )


def is_staging() -> bool:
    """Whether this runs while a program is being staged."""
    return current().staging
