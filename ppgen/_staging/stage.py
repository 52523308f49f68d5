"""Staging: run a program once, abstractly, and keep it as a jaxpr.

NumPyro effects become equations. The handler that does it stands outermost, because handlers run
innermost first and everything the user wrote (plates, masks, conditioning) must come before it.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import primitives as numpyro_primitives
from numpyro.contrib.control_flow.cond import _subs_wrapper as _cond_substitution
from numpyro.contrib.control_flow.scan import _subs_wrapper as _scan_substitution
from numpyro.distributions import Distribution
from numpyro.distributions.distribution import Unit
from numpyro.handlers import block, condition, substitute
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import Messenger

from ppgen import _jax
from ppgen._distributions.noninvertible import split_one_way
from ppgen._distributions.rebuild import flatten, in_single_precision, split_event, split_mask
from ppgen._distributions.supports import range_of, support_of
from ppgen._staging.choice import (
    bind_choice,
    choices_in_place,
    describe_choice,
    estimator_for,
    fresh_key,
    staging_frames,
)
from ppgen._staging.mutable_state import collecting_state
from ppgen._staging.primitives import CALLS, RANDOM, ChoiceSpec, Plate, SiteSpec, site_p
from ppgen._staging.subsample import Exogenous, SubsampleIndices
from ppgen._user_lines import user_line
from ppgen.errors import ControlFlowError, SiteError


class Staged(NamedTuple):
    """A program as a jaxpr: what it closes over are constants.

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
        recorded: whether densities will be asked of the jaxpr; otherwise it is only to be run, and
            a program whose density is estimated is its sampler.
        state: whether the program may have mutable state, which becomes an output of the jaxpr.
    """
    returned = []

    def flat(*inputs: Any) -> list[Any]:
        with (
            _binding(params),
            choices_in_place(in_place),
            densities_asked(recorded),
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
    treedef, dynamic, static = returned[-1]

    def both(values: list[Any]) -> tuple[Any, dict[str, Any]]:
        # What is known before anything runs may be NumPy's: to a user it is an array like others.
        # None is what was integrated out.
        left = (x if x is None else jnp.asarray(x) for x in values)
        leaves = [next(left) if d else leaf for d, leaf in zip(dynamic, static, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    return Staged(jaxpr, both)


def _check_in_place(jaxpr: Any, loops: int) -> None:
    """Refuse randomness that JAX has moved out of the loop in which it was drawn.

    Differentiating a scan *inside* of a program moves what does not depend on the loop out of it;
    a key is such a thing, and every step would get the same one.
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


_asked: contextvars.ContextVar = contextvars.ContextVar("ppgen_densities_asked", default=False)


@contextlib.contextmanager
def densities_asked(flag: bool):
    """Whether the program that is being staged will be asked for the densities of its sites."""
    token = _asked.set(flag)
    try:
        yield
    finally:
        _asked.reset(token)


def are_densities_asked() -> bool:
    """See `densities_asked`."""
    return _asked.get()


@contextlib.contextmanager
def _binding(params: str):
    """Bind every NumPyro effect, also of sites that `handlers.block` hides from outer handlers."""
    binder = _Bind(params)
    default = numpyro_primitives.default_process_message

    def process(msg: dict) -> None:
        binder.process_message(msg, hidden=True)
        default(msg)

    # A blocked message never reaches the outermost handler; NumPyro's default would then ask the
    # distribution for a sample without a key.
    numpyro_primitives.default_process_message = process
    try:
        with binder:
            yield
    finally:
        numpyro_primitives.default_process_message = default


class _Bind(Messenger):
    """Turn each NumPyro message into the primitive that stands for it."""

    def __init__(self, params: str) -> None:
        super().__init__(None)
        self.params = params
        self.plate_scales: dict[str, float] = {}

    def process_message(self, msg: dict, hidden: bool = False) -> None:
        if msg.get("ppgen"):
            return
        kind = msg["type"]
        if kind == "plate":
            size, subsample_size = msg["args"]
            self.plate_scales[msg["name"]] = size / subsample_size if subsample_size else 1.0
        if kind == "sample":
            msg["value"] = _bind_hidden(msg) if hidden else _bind_site(msg, self.plate_scales)
        elif kind == "prng_key" and msg["value"] is None:
            msg["value"] = fresh_key()
        elif kind == "plate" and msg["value"] is None:
            msg["value"] = _bind_subsample(msg, hidden)
        elif kind == "control_flow":
            msg["value"] = _bind_control_flow(msg)
        elif kind == "param" and msg["value"] is None and self.params == "error":
            raise SiteError(
                "numpyro.param has no value here, and would silently keep its initial one",
                site=msg["name"],
                where=user_line(),
                instead="ppgen.functional(program), which takes the parameters as an argument",
            )
        elif kind == "mutable" and not msg.get("ppgen_state"):
            raise SiteError(
                "numpyro.primitives.mutable has no state here, and its updates would be lost",
                site=msg["name"],
                where=user_line(),
                instead="ppgen.functional(program), which takes the state as an argument, within "
                "ppgen.with_state, which returns the new state; not inside of a scan",
            )
        # The transformation is closed: handlers further out would see values of an inner staging.
        msg["ppgen"] = msg["stop"] = True


def _bind_site(msg: dict, plate_scales: dict[str, float]) -> Array:
    name, where, infer = msg["name"], user_line(), msg["infer"]
    dist, given = in_single_precision(msg["fn"]), msg["value"]
    if (shape := msg["kwargs"].get("sample_shape", ())) and given is None:
        dist = dist.expand(shape + dist.batch_shape)
    plates = tuple(
        Plate(frame.name, frame.dim, frame.size, plate_scales.get(frame.name, 1.0))
        for frame in reversed(msg["cond_indep_stack"])
    )
    common = {"where": where, "scale": msg["scale"], "plates": plates}
    asked, auxiliary = infer.get("grad"), bool(infer.get("is_auxiliary", False))
    if given is None and (split := split_one_way(split_mask(dist)[0])) is not None:
        base, finish = split
        _, mask = split_mask(dist)
        masked = (lambda d: d) if mask is None else (lambda d: d.mask(mask))
        x = bind_site(
            masked(base), None, name=f"{name}_base", asked=asked, auxiliary=True, **common
        )
        dist, asked = masked(finish(x)), None
    return bind_site(dist, given, name=name, asked=asked, auxiliary=auxiliary, **common)


def _bind_hidden(msg: dict) -> Array:
    """A site behind `handlers.block`: its value, and no density."""
    if msg["value"] is not None:
        return jnp.asarray(msg["value"])
    name, where, dist = msg["name"], user_line(), in_single_precision(msg["fn"])
    if shape := msg["kwargs"].get("sample_shape", ()):
        dist = dist.expand(shape + dist.batch_shape)
    dist, _ = split_mask(dist)
    asked = msg["infer"].get("grad")
    estimator = estimator_for(split_event(dist)[0], asked, name=name, where=where)
    return _choice(dist, estimator, name, where)


def _choice(dist: Distribution, estimator: Any, name: str, where: str) -> Array:
    spec, leaves, rest = describe_choice(dist, estimator, name=name, where=where)
    operands = [*leaves, *rest]
    return bind_choice(spec, (), ((),) * len(operands), operands)


def bind_site(
    dist: Distribution,
    given: Any,
    *,
    name: str,
    where: str,
    scale: Any = None,
    asked: Any = None,
    auxiliary: bool = False,
    has_density: bool = True,
    plates: tuple[Plate, ...] = (),
) -> Array:
    """Bind one site: its random choice, its density, its observed value, its mask and scale."""
    dist, mask = split_mask(dist)
    leaves, density = flatten(dist)
    if given is None:
        estimator = estimator_for(split_event(dist)[0], asked, name=name, where=where)
        choice, inner, rest = describe_choice(dist, estimator, name=name, where=where)
        position = {id(leaf): i for i, leaf in enumerate(leaves)}
        order = tuple(position[id(leaf)] for leaf in inner)
    else:
        value = jnp.asarray(given)
        choice = ChoiceSpec(
            name,
            where,
            density,
            0,
            lambda _: None,
            None,
            value.shape,
            value.dtype,
            dist.batch_shape,
        )
        rest, order = [], ()
    spec = SiteSpec(
        choice=choice,
        order=order,
        density=density if has_density else None,
        num_leaves=len(leaves),
        num_estimator=len(rest),
        observed=given is not None,
        has_mask=mask is not None,
        has_scale=scale is not None,
        auxiliary=auxiliary and not isinstance(dist, Unit),
        support=support_of(dist),
        within=range_of(dist),
        plates=plates,
    )
    operands = [*leaves, *rest]
    operands += [jnp.asarray(x) for x in (given, mask, scale) if x is not None]
    return site_p.bind(*operands, spec=spec, lanes=(), mapped=((),) * len(operands))


def _bind_subsample(msg: dict, hidden: bool) -> Array:
    size, subsample_size = msg["args"]
    indices = SubsampleIndices(size, subsample_size)
    if hidden:
        return _choice(indices, Exogenous(), msg["name"], user_line())
    return bind_site(
        indices,
        None,
        name=msg["name"],
        where=user_line(),
        asked=Exogenous(),
        has_density=False,
    )


def _bind_control_flow(msg: dict) -> Any:
    """NumPyro's `scan` and `cond` on plain `lax` ones, with the sites left inside."""
    substitutions = msg["kwargs"].get("substitute_stack") or []
    name = msg["fn"].__name__
    if name == "scan_wrapper":
        f, init, xs, length, reverse = msg["args"]
        length = jax.tree.leaves(xs)[0].shape[0] if length is None else length

        def body(carry, ix):
            i, x = ix
            program = f
            for how, values in substitutions:
                program = _substituted(program, how, _at_step(values, i, length))
            with block(), _Bind("error"):
                return program(carry, x)

        indices = jnp.arange(length)
        carry, ys = jax.lax.scan(body, init, (indices, xs), length=length, reverse=reverse)
        return (length, None, carry), (PytreeTrace({}), ys)
    if name == "cond_wrapper":
        predicate, true_fun, false_fun, operand = msg["args"]

        def branch(fun):
            def run(operand):
                program = fun
                for how, values in substitutions:
                    program = _substituted(program, how, _in_branch(values))
                with block(), _Bind("error"):
                    return program(operand)

            return run

        value = jax.lax.cond(predicate, branch(true_fun), branch(false_fun), operand)
        return value, PytreeTrace({})
    raise ControlFlowError(
        f"unknown NumPyro control flow {name!r}",
        where=user_line(),
        instead="numpyro.contrib.control_flow.scan or cond, or jax.lax control flow",
    )


def _at_step(values: Any, i: Array, length: int) -> Callable[[dict], Any]:
    return lambda site: _scan_substitution(values, i, length, site)


def _in_branch(values: Any) -> Callable[[dict], Any]:
    return lambda site: _cond_substitution(values, site)


def _substituted(program: Callable, how: str, values: Callable[[dict], Any]) -> Callable:
    if how == "condition":
        return condition(program, condition_fn=values)
    if how == "substitute":
        return substitute(program, substitute_fn=values)
    raise ControlFlowError(
        f"handlers.{how} around NumPyro control flow has no meaning here",
        where=user_line(),
        instead="ppgen.log_density(program)(choices, ...), or handlers.condition",
    )
