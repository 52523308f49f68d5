"""Programs with `numpyro.param` sites as functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import biject_to, constraints
from numpyro.primitives import Messenger

from ppgen import _jax
from ppgen._choose import user_line
from ppgen._errors import SiteError
from ppgen._expectation import seeded

Program = Callable[..., Any]


def functional(program: Program) -> Program:
    """A program with a leading `params` argument in place of its `numpyro.param` sites.

    Args:
        program: uses `numpyro.param`, or modules that do (`flax_module`, `nnx_module`,
            `eqx_module`, `module`).

    Returns:
        `functional(program)(params, *args)`, with `params` a dict by site of *unconstrained*
        values, as `init_params` gives them: `numpyro.param("scale", constraint=positive)` is the
        exponential of what an optimiser moves freely. Entries that the program does not use are
        ignored, so that a model and a guide can share one dict.

    Raises:
        SiteError: `params` lacks a site of the program.

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

    def run(params: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        with _Params(params):
            return program(*args, **kwargs)

    return run


def init_params(program: Program) -> Callable[..., dict[str, Any]]:
    """Initial values of a program's `numpyro.param` sites.

    Args:
        program: as for `functional`.

    Returns:
        `(key, *args, **kwargs) -> params`, a dict of unconstrained values by site. It works under
        `jax.jit`, which is much the fastest way to initialise a network.
    """

    def run(key: Array, *args: Any, **kwargs: Any) -> dict[str, Any]:
        def collect() -> dict[str, Any]:
            with _Params(None) as params:
                program(*args, **kwargs)
            return params.found

        return seeded(collect, _jax.typed_key(key), params="init")

    return run


class _Params(Messenger):
    """Give `numpyro.param` sites their values, or collect their initial ones."""

    def __init__(self, params: dict[str, Any] | None) -> None:
        super().__init__(None)
        self.params = params
        self.found: dict[str, Any] = {}

    def __enter__(self) -> _Params:
        super().__enter__()
        return self

    def process_message(self, msg: dict) -> None:
        if msg["type"] != "param" or msg["value"] is not None or self.params is None:
            return
        name = msg["name"]
        if name not in self.params:
            raise SiteError(
                "no value for this numpyro.param",
                site=name,
                where=user_line(),
                instead=f"params = ppgen.init_params(program)(key, ...), or an entry {name!r}",
            )
        msg["value"] = jax.tree.map(_transform(msg), self.params[name])

    def postprocess_message(self, msg: dict) -> None:
        if msg["type"] != "param" or self.params is not None or msg["value"] is None:
            return
        # A module asks twice: first for a value that it may have, then with an initial one.
        inverse = _transform(msg).inv
        self.found[msg["name"]] = jax.tree.map(lambda x: inverse(jnp.asarray(x)), msg["value"])


def _transform(msg: dict) -> Any:
    return biject_to(msg["kwargs"].get("constraint") or constraints.real)
