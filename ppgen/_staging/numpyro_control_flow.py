"""NumPyro's `scan` and `cond` on plain `lax` ones, with the sites left inside.

The handlers around a scan act on the sites inside of it as they would in a loop of Python: a
message of the body goes through the handlers within the body, then through those around the scan.
What these hold for all steps (values, masks, scales) is indexed by the step: see `handler_at`. A
`trace` around the scan records the stacked site, as in NumPyro.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.handlers import (
    block,
    condition,
    do,
    mask,
    reparam,
    replay,
    scale,
    scope,
    seed,
    substitute,
    trace,
)
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import _PYRO_STACK, Messenger

from ppgen._user_lines import user_line
from ppgen.errors import ControlFlowError, SiteError

Step = tuple[Array, int]
"""The number of a step of a scan, and how many of them there are."""

_RENAMING = (scope, do, reparam)
"""Handlers that put other sites in the place of those inside, whose values NumPyro's control flow
has decided by then: it takes no values for them, and an intervention changes nothing that follows.
"""


def inside(msg: dict) -> bool:
    """Whether a message comes from within NumPyro's control flow."""
    return "ppgen_steps" in msg


def bind_control_flow(msg: dict, binder: Any) -> Any:
    """Run NumPyro's `scan` or `cond` on plain `lax` control flow.

    Args:
        msg: the message.
        binder: binds messages: `binder.process_message(msg, hidden=...)`.
    """
    around = _handlers_around(binder)
    for handler in around:
        if isinstance(handler, _RENAMING):
            name = type(handler).__name__
            raise ControlFlowError(
                f"handlers.{name} around NumPyro control flow, which decides the values of its "
                "sites by the names that they have inside",
                where=user_line(),
                instead=f"handlers.{name} around the function that is given to scan or cond",
            )
    name = msg["fn"].__name__
    if name == "scan_wrapper":
        return _bind_scan(around, binder, *msg["args"])
    if name == "cond_wrapper":
        return _bind_cond(around, binder, *msg["args"])
    raise ControlFlowError(
        f"unknown NumPyro control flow {name!r}",
        where=user_line(),
        instead="numpyro.contrib.control_flow.scan or cond, or jax.lax control flow",
    )


def _handlers_around(binder: Any) -> list[Any]:
    """The handlers that messages from here go through, outermost first; that one binds them."""
    first = len(_PYRO_STACK) - 1
    while not (isinstance(_PYRO_STACK[first], _Inside) or _PYRO_STACK[first] is binder):
        first -= 1
    return list(_PYRO_STACK[first:])


def _bind_scan(
    around: list[Any], binder: Any, f: Callable, init: Any, xs: Any, length: Any, reverse: bool
) -> Any:
    length = jnp.shape(jax.tree.leaves(xs)[0])[0] if length is None else length
    seen: list[_Seen] = []

    def body(carry: Any, ix: Any) -> Any:
        i, x = ix
        with _Inside(around, binder, ((i, length),)) as sites:
            carry, y = f(carry, x)
        seen[:] = sites.seen
        return carry, (y, [each.arrays() for each in seen])

    indices = jnp.arange(length)
    carry, (ys, stacked) = jax.lax.scan(body, init, (indices, xs), length=length, reverse=reverse)
    for each, arrays in zip(seen, stacked, strict=True):
        each.leave(arrays, around[0], stacked=True)
    return (length, None, carry), (PytreeTrace({}), ys)


def _bind_cond(
    around: list[Any], binder: Any, predicate: Any, true_fun: Any, false_fun: Any, operand: Any
) -> Any:
    seen: list[list[_Seen]] = []

    def branch(fun: Callable) -> Callable:
        def run(operand: Any) -> Any:
            with _Inside(around, binder, ()) as sites:
                out = fun(operand)
            seen.append(sites.seen)
            return out, [each.arrays() for each in sites.seen]

        return run

    value, joined = jax.lax.cond(predicate, branch(true_fun), branch(false_fun), operand)
    names = [[each.msg["name"] for each in branch] for branch in seen]
    if any(each != names[0] for each in names):
        raise ControlFlowError(
            f"handlers.trace around a cond whose branches have other sites: {names}",
            where=user_line(),
            instead="the same sites in both branches, or ppgen.simulate instead of the handler",
        )
    for each, arrays in zip(seen[0], joined, strict=True):
        each.leave(arrays, around[0], stacked=False)
    return value, PytreeTrace({})


class _Inside(Messenger):
    """The outermost handler within a body: it hands messages to those around the control flow.

    Attributes:
        seen: the sites that a `trace` further out is to record, in order.
    """

    def __init__(self, around: list[Any], binder: Any, step: tuple[Step, ...]) -> None:
        super().__init__(None)
        self.around, self.binder, self.step = around, binder, step
        self.seen: list[_Seen] = []

    def __enter__(self) -> _Inside:
        super().__enter__()
        return self

    def process_message(self, msg: dict) -> None:
        own = not inside(msg)
        if msg["type"] not in ("mutable", "control_flow"):
            self.pass_on(msg)
        if not msg.get("ppgen"):
            # State cannot leave a loop, control flow is bound here: neither goes further.
            msg.setdefault("ppgen_steps", self.step)
            self.binder.process_message(msg, hidden=bool(msg.get("stop")))
        msg["stop"] = True
        reached = msg.get("ppgen_reached", ())
        if own and any(isinstance(h, trace) for level in reached for h in level):
            self.seen.append(_Seen(dict(msg), list(reached)))

    def pass_on(self, msg: dict) -> None:
        """Let the handlers around the control flow process a message, innermost first."""
        steps = msg["ppgen_steps"] = (*msg.get("ppgen_steps", ()), *self.step)
        levels = msg["ppgen_reached"] = msg.get("ppgen_reached", [])
        levels.append(reached := [])
        around = list(reversed(self.around))
        while around and not msg.get("stop"):
            handler = around.pop(0)
            if handler is not self.around[0]:
                reached.insert(0, handler)
                handler = handler_at(handler, steps, msg)
            if handler is not None:
                handler.process_message(msg)
        if self.around[0] is self.binder and msg.get("stop"):
            self.give_to_hidden(msg, steps, [reached[0], *around] if reached else [])

    def give_to_hidden(self, msg: dict, steps: Sequence[Step], around: list[Any]) -> None:
        """Give a hidden site the values that NumPyro's control flow takes for it.

        A handler tells the control flow its values by a message, and only what hides that one hides
        the sites inside from values that are given.
        """
        flow = {"type": "control_flow", "name": "_control_flow"}
        for handler in around:
            if isinstance(handler, block) and handler.hide_fn(flow):
                return
            if isinstance(handler, (condition, substitute)):
                here = handler_at(handler, steps, msg)
                if here is not None:
                    here.process_message(msg)
        msg["ppgen_given_by_name"] = True


class _Seen:
    """A site of a body that a `trace` further out is to record.

    Attributes:
        msg: its message, as bound.
        reached: the handlers that it went through, those of inner control flow first.
    """

    def __init__(self, msg: dict, reached: list[list[Any]]) -> None:
        self.msg, self.reached = msg, reached

    def arrays(self) -> dict[str, Any]:
        """What a body returns of the site."""
        found = {"value": self.msg["value"]}
        if self.msg["type"] != "sample":
            return found
        found["fn"] = fn = self.msg["fn"]
        if self.msg["scale"] is not None:
            missing = len(fn.batch_shape) - jnp.ndim(self.msg["scale"])
            found["scale"] = jnp.reshape(
                self.msg["scale"], (1,) * missing + jnp.shape(self.msg["scale"])
            )
        return found

    def leave(self, arrays: dict[str, Any], outermost: Any, *, stacked: bool) -> None:
        """Report the site to the handlers around the control flow, at its end."""
        if stacked and "fn" in arrays:
            arrays = arrays | {"fn": promote_batch_shape(arrays["fn"])}
        self.msg = self.msg | arrays
        first, *further = self.reached
        for handler in first:
            if isinstance(handler, trace):
                handler.postprocess_message(self.msg)
        if further and isinstance(outermost, _Inside):
            outermost.seen.append(_Seen(self.msg, further))


def handler_at(handler: Any, steps: Sequence[Step], msg: dict) -> Any:
    """A handler around control flow, as it acts on a message from within.

    Args:
        handler: the handler.
        steps: the steps of the scans that the message is inside of and the handler around,
            innermost first.
        msg: the message.

    Returns:
        The handler, or a copy with its values at these steps; `None` if it does not act.
    """
    if isinstance(handler, seed):
        # Keys of a program are those of the whole, and one that is split would leave the loop.
        return None
    if isinstance(handler, condition) and msg["type"] == "plate":
        value = (handler.data or {}).get(msg["name"])
        if value is not None:
            msg["value"] = _value_at(value, steps, msg)
        return None
    if isinstance(handler, replay) and msg.get("name") in handler.trace:
        if msg["type"] == "sample":
            raise ControlFlowError(
                "handlers.replay of a site inside of NumPyro control flow",
                site=msg["name"],
                where=user_line(),
                instead="ppgen.log_density(program)(choices, ...), or handlers.condition",
            )
    if not steps:
        return handler
    here = copy.copy(handler)
    if isinstance(handler, (condition, substitute)):
        name = "condition_fn" if isinstance(handler, condition) else "substitute_fn"
        given = getattr(handler, name)
        if (data := handler.data) is not None:
            given = lambda site: data.get(site["name"])  # noqa: E731
        here.data = None
        setattr(here, name, lambda site: _value_at(given(site), steps, site))
    elif isinstance(handler, replay) and msg.get("name") in handler.trace:  # A plate.
        site = handler.trace[msg["name"]]
        here.trace = {msg["name"]: site | {"value": _value_at(site["value"], steps, msg)}}
    elif isinstance(handler, scale) and msg["type"] == "sample":
        here.scale = _term_at(handler.scale, steps, msg, "scale")
    elif isinstance(handler, mask) and msg["type"] == "sample":
        here.mask = _term_at(handler.mask, steps, msg, "mask")
    return here


def _value_at(value: Any, steps: Sequence[Step], site: dict) -> Any:
    """The value given to a site at a step: an element of a series, or one value for all steps."""
    kind = site["type"]
    if value is None or kind == "param":
        return value
    if kind == "sample":
        ndim = len(site["kwargs"].get("sample_shape", ()) + site["fn"].shape())
    elif kind == "plate":
        ndim = 1
    else:
        return None  # As in NumPyro, values that a step computes are not replaced.
    shape = jnp.shape(value)
    lengths = tuple(length for _, length in reversed(steps))
    if len(shape) == ndim:
        return value
    if len(shape) != ndim + len(lengths) or shape[: len(lengths)] != lengths:
        raise SiteError(
            f"the given value has shape {shape}, but the site is in a scan of length "
            f"{' x '.join(map(str, lengths))}, which stacks its values along axis 0",
            site=site["name"],
            where=user_line(),
            instead="a value for each step (or one without that axis, for all of them); to "
            "continue after a shorter series, a second scan without values",
        )
    return _at(value, steps)


def _term_at(value: Any, steps: Sequence[Step], site: dict, what: str) -> Any:
    """A mask or scale of the stacked site, at a step."""
    if jnp.ndim(value) == 0:
        return value
    batch = site["kwargs"].get("sample_shape", ()) + tuple(site["fn"].batch_shape)
    if jnp.ndim(value) <= len(batch):
        return value
    full = (*(length for _, length in reversed(steps)), *batch)
    try:
        value = jnp.broadcast_to(value, full)
    except ValueError:
        raise SiteError(
            f"a {what} of shape {jnp.shape(value)} does not fit a site of a scan, whose stacked "
            f"log density has shape {full}",
            site=site["name"],
            where=user_line(),
            instead=f"handlers.{what} within the function that is given to scan",
        ) from None
    return _at(value, steps)


def _at(value: Any, steps: Sequence[Step]) -> Any:
    value = jnp.asarray(value)
    for i, _ in reversed(steps):
        value = value[i]
    return value


def condition_plate(msg: dict, binder: Any, hidden: bool) -> None:
    """Give a plate the indices of `handlers.condition`, which ignores plates."""
    name = msg["name"]
    reached = list(reversed(_PYRO_STACK[_PYRO_STACK.index(binder) + 1 :]))
    if hidden:
        stops = (isinstance(h, block) and h.hide_fn(msg) for h in reached)
        reached = reached[: next((k for k, stop in enumerate(stops) if stop), len(reached))]
    for handler in reversed(reached):
        if isinstance(handler, scope) and "plate" not in handler.hide_types:
            name = name.removeprefix(f"{handler.prefix}{handler.divider}")
        elif isinstance(handler, condition) and handler.data and name in handler.data:
            msg["value"] = jnp.asarray(handler.data[name])
            return
