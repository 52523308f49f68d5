"""Points on a path, and how they move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._structure import depends, fixing

_FROZEN = "x = alpha(t) * x1 + sigma(t) * x0 from sites that do not know t"


class PathPoint(eqx.Module):
    """One draw of a bridge: a point on a path, its velocity and the sites behind it.

    Attributes:
        x: the point.
        t: the time.
        velocity: the derivative of `x` by `t` along the path, of the shape of `x`.
        sites: the values of the bridge's sites by name, observed ends included.
        log_time: log density of `t` in the bridge, in nats, of the shape of `t`.
    """

    x: Float[Array, "..."]
    t: Float[Array, "..."]
    velocity: Float[Array, "..."]
    sites: dict[str, Array]
    log_time: Float[Array, "..."]


def path_point(
    bridge: Program, *, time: Array | None = None, keep: tuple[str, ...] = ()
) -> Callable[..., PathPoint]:
    r"""Draw a point on a path, with its velocity.

    A bridge is a program with a site `"t"`, the time, and sites `"x0"` (noise, where the time is 0)
    and `"x1"` (data, where it is 1), and possibly others; it returns the point on the path between
    them. The velocity is the derivative with respect to t *with all other sites held fixed*. It is
    exact, by `jax.jvp`, so that no derivative has to be written by hand.

    Args:
        bridge: the program. `t` may have a batch shape: a time for every row of `x`.
        time: the time of the point; by default `t` is drawn.
        keep: observed sites whose values to keep besides those of `x0`, `x1` and latent sites.

    Returns:
        A function of the bridge's arguments that returns a `PathPoint`. It draws: call it within
        `ppgen.seed`, `ppgen.expectation` or a program.

    Raises:
        PathError: there is no site `"t"`, or the path does not depend on it.

    References:
        Lipman, Chen, Ben-Hamu, Nickel, Le. Flow matching for generative modeling. ICLR 2023.
        Albergo, Boffi, Vanden-Eijnden. Stochastic interpolants. 2023.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import path_point
        >>> def bridge():
        ...     t = numpyro.sample("t", dist.Uniform())
        ...     x1 = numpyro.sample("x1", dist.Normal(3.0, 1.0))
        ...     x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
        ...     return t * x1 + (1 - t) * x0
        >>> point = ppgen.seed(path_point(bridge))(jax.random.key(0))
        >>> bool(jnp.allclose(point.velocity, point.sites["x1"] - point.sites["x0"]))
        True
    """
    names = ("x0", "x1", "t", *keep)

    def run(*args: Any) -> PathPoint:
        given = {} if time is None else {"t": jnp.asarray(time)}
        trace = ppgen.simulate(fixing(bridge, given, names))(*args)
        sites = trace.choices | trace.value[1]
        if "t" not in sites or not jnp.issubdtype(sites["t"].dtype, jnp.floating):
            raise PathError(
                "the bridge has no site for a continuous time",
                site="t",
                instead='t = numpyro.sample("t", dist.Uniform())',
            )
        others = {name: value for name, value in trace.choices.items() if name != "t"}

        def at(t: Array) -> Array:
            return ppgen.assess(fixing(bridge, {"t": t}))(others, *args).value[0]

        if not any(depends(at, sites["t"])):
            raise PathError(
                "the path does not depend on t: its other sites are held fixed while t changes",
                site="t",
                instead=_FROZEN,
            )
        x, velocity = jax.jvp(at, (sites["t"],), (jnp.ones_like(sites["t"]),))
        return PathPoint(x, sites["t"], velocity, sites, trace.log_probs["t"])

    return run
