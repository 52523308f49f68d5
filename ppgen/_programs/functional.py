"""Programs as functions of the values of their `numpyro.param` and `mutable` sites."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import biject_to, constraints
from numpyro.handlers import seed as seed_handler
from numpyro.infer.autoguide import AutoGuide
from numpyro.primitives import Messenger

from ppgen._keys import first_key
from ppgen._programs.seed import seeded
from ppgen._staging.mutable_state import detached_state, is_state_kept, keep_state
from ppgen._tracebacks import boundary
from ppgen._user_lines import user_line
from ppgen.annotations import Program
from ppgen.errors import SiteError

_LOOKING = AutoGuide._setup_prototype.__code__


def functional(program: Program, *, constrained: bool = False) -> Program:
    """A program with a leading `params` argument in place of its `numpyro.param` sites.

    Args:
        program: uses `numpyro.param`, or modules that do (`flax_module`, `nnx_module`,
            `eqx_module`, `module`, NumPyro's automatic guides).
        constrained: whether `params` holds the values of the sites themselves, as
            `numpyro.infer.SVI.get_params` gives them.

    Returns:
        `functional(program)(params, *args)`, with `params` a dict by site of *unconstrained*
        values, as `init_params` gives them: `numpyro.param("scale", constraint=positive)` is then
        the exponential of an unconstrained entry. Entries that the program does not use are
        ignored, so that a model and a guide can share one dict. The state of `mutable` sites is an
        entry too; `with_state` returns its new value.

    Raises:
        SiteError: `params` lacks a site of the program; or the program has mutable state and runs
            outside of `with_state`.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def guide():
        ...     loc = numpyro.param("loc", 1.0)
        ...     numpyro.sample("x", dist.Normal(loc, 1.0))
        >>> params = ppgen.init_params(guide)(jax.random.key(0))
        >>> f = ppgen.expectation(lambda p: ppgen.simulate(ppgen.functional(guide))(p)["x"])
        >>> float(jax.grad(f, argnums=1)(jax.random.key(1), params)["loc"])
        1.0
    """

    @boundary
    def run(params: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        with _Params(params, constrained) as given:
            out = program(*args, **kwargs)
        keep_state({name: detached_state(held) for name, held in given.state.items()})
        return out

    return run


def init_params(program: Program) -> Callable[..., dict[str, Any]]:
    """Initial values of a program's `numpyro.param` sites.

    Args:
        program: as for `functional`. One of NumPyro's automatic guides looks at its model here,
            once, as NumPyro's `SVI.init` would have it do.

    Returns:
        `(key, *args, **kwargs) -> params`, a dict of unconstrained values by site. It works under
        `jax.jit`, which is by far the fastest way to initialise a network.

    Raises:
        SiteError: an automatic guide that has not seen its model, under `jax.jit` or inside of
            another program.
    """

    @boundary
    def run(key: Array, *args: Any, **kwargs: Any) -> dict[str, Any]:
        key = first_key(key, args, kwargs, name="ppgen.init_params(program)")
        return _initial(program, key, args, kwargs).found

    return run


def init_state(program: Program) -> Callable[..., dict[str, Any]]:
    """Initial values of a program's `mutable` sites: running statistics, keys, counters.

    Args:
        program: as for `functional`.

    Returns:
        `(key, *args, **kwargs) -> state`, a dict by site, empty without such sites. A program runs
        on `params | state`; `with_state` has an example.
    """

    @boundary
    def run(key: Array, *args: Any, **kwargs: Any) -> dict[str, Any]:
        key = first_key(key, args, kwargs, name="ppgen.init_state(program)")
        return _initial(program, key, args, kwargs).state

    return run


class _Initial(NamedTuple):
    found: dict[str, Any]
    state: dict[str, Any]


def _initial(program: Program, key: Array, args: tuple, kwargs: dict[str, Any]) -> _Initial:
    _prepare(program, key, args, kwargs)

    def collect() -> _Initial:
        with _Params(None) as params:
            program(*args, **kwargs)
        return _Initial(params.found, params.state)

    return seeded(collect, key, params="init")


def _prepare(program: Program, key: Array, args: tuple, kwargs: dict[str, Any]) -> None:
    """Set up an automatic guide before anything is staged, because it stores what it traced."""
    inner: Any = program
    while not isinstance(inner, AutoGuide) and callable(inner):
        inner = getattr(inner, "fn", None) or getattr(inner, "func", None)
    if not isinstance(inner, AutoGuide) or inner.prototype_trace is not None:
        return
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((key, args, kwargs))):
        raise _unprepared(user_line())
    with seed_handler(rng_seed=key):
        program(*args, **kwargs)


def _unprepared(where: str) -> SiteError:
    return SiteError(
        "an automatic guide has not seen its model yet: it would do so in the middle of a "
        "transformation, and keep what it saw there",
        where=where,
        instead="params = ppgen.init_params(autoguide)(key, *args) first, outside of jax.jit",
    )


class _Params(Messenger):
    """Give `numpyro.param` and `mutable` sites their values, or collect initial ones."""

    def __init__(self, params: dict[str, Any] | None, constrained: bool = False) -> None:
        super().__init__(None)
        self.params = params
        self.constrained = constrained
        self.found: dict[str, Any] = {}
        # What mutable sites hold, and while initial values are collected, a copy of what they did.
        self.state: dict[str, Any] = {}

    def __enter__(self) -> _Params:
        super().__enter__()
        return self

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "prng_key":
            _check_prepared()
        elif msg["type"] == "mutable":
            self._process_mutable(msg)
        elif msg["type"] == "param" and msg["value"] is None and self.params is not None:
            value = self._given(msg["name"], "no value for this numpyro.param", "init_params")
            if not self.constrained:
                value = jax.tree.map(_transform(msg), value)
            msg["value"] = value

    def _process_mutable(self, msg: dict) -> None:
        name = msg["name"]
        # Tells what binds the effects of a program that this one is taken care of.
        msg["ppgen_state"] = True
        if self.params is None:
            if msg["value"] is not None:
                self.state.setdefault(name, detached_state(msg["value"]))
            return
        if not is_state_kept():
            raise SiteError(
                "the program updates its state here, outside of with_state: the new state would "
                "be lost",
                site=name,
                where=user_line(),
                instead="ppgen.with_state(f) of what runs the program, which returns "
                "(value, state)",
            )
        if name not in self.state:
            given = self._given(name, "no state for this numpyro.primitives.mutable", "init_state")
            self.state[name] = detached_state(given)
        msg["value"] = self.state[name]

    def _given(self, name: str, message: str, source: str) -> Any:
        assert self.params is not None
        if name not in self.params:
            raise SiteError(
                message,
                site=name,
                where=user_line(),
                instead=f"the entry {name!r} of ppgen.{source}(program)(key, ...)",
            )
        return self.params[name]

    def postprocess_message(self, msg: dict) -> None:
        if msg["type"] != "param" or self.params is not None or msg["value"] is None:
            return
        # A module asks twice: first for a value that it may have, then with an initial one.
        inverse = _transform(msg).inv
        self.found[msg["name"]] = jax.tree.map(lambda x: inverse(jnp.asarray(x)), msg["value"])


def _check_prepared() -> None:
    """Refuse an automatic guide that looks at its model while a program is being staged."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _LOOKING:
            raise _unprepared(user_line())
        frame = frame.f_back


def _transform(msg: dict) -> Any:
    return biject_to(msg["kwargs"].get("constraint") or constraints.real)
