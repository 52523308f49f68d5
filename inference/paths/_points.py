"""Points on a path, and how they move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

import ppgen
from ppgen.annotations import Program
from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._structure import all_floats, depends, fixing

_FROZEN = "x = alpha(t) * x1 + sigma(t) * x0 from sites that do not know t"


class PathPoint(eqx.Module):
    """One draw of a bridge: a point on a path, its velocity and the sites behind it.

    Attributes:
        x: the point: an array, or a pytree of arrays.
        t: the time.
        sites: the values of the bridge's sites by name, observed ends included.
        log_time: log density of `t` in the bridge, in nats, of the shape of `t`.
    """

    x: PyTree[Array]
    t: Shaped[Array, "..."]
    sites: dict[str, Array]
    log_time: Float[Array, "..."]
    _velocity: Any

    @property
    def velocity(self) -> PyTree[Float[Array, "..."]]:
        """The derivative of `x` by `t` along the path, of the structure of `x`.

        Raises:
            PathError: it was not asked for; or, within `regress`, it does not exist.
        """
        if self._velocity is None:
            raise PathError(
                "this point was drawn without its velocity",
                instead="path_point(bridge, velocity=True)",
            )
        return self._velocity() if callable(self._velocity) else self._velocity


def path_point(
    bridge: Program,
    *,
    time: Array | None = None,
    keep: tuple[str, ...] = (),
    velocity: bool = True,
) -> Callable[..., PathPoint]:
    r"""Draw a point on a path, with its velocity.

    A bridge is a program with a site `"t"`, the time, and sites `"x0"` (noise, where the time is 0)
    and `"x1"` (data, where it is 1), and possibly others; it returns the point on the path between
    them. The velocity is the derivative with respect to t *with all other sites held fixed*. It is
    exact, by `jax.jvp`, so that no derivative has to be written by hand.

    Points are arrays, or pytrees of arrays: nodes and edges, say. Without a velocity they may be
    integers, such as tokens, nothing is differentiated, and time may be discrete.

    Args:
        bridge: the program. `t` may have a batch shape: a time for every row of `x`.
        time: the time of the point; by default `t` is drawn.
        keep: observed sites whose values to keep besides those of `x0`, `x1` and latent sites.
        velocity: whether the point has a velocity.

    Returns:
        A function of the bridge's arguments that returns a `PathPoint`. It draws: call it within
        `ppgen.seed`, `ppgen.expectation` or a program.

    Raises:
        PathError: there is no site `"t"`; or there is to be a velocity, and the path does not
            depend on `t`, or its points or times are not floats.

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

    def run(*args: Any) -> PathPoint:
        point = lazy_point(bridge, time, keep, args)
        made = point.velocity if velocity else None
        return PathPoint(point.x, point.t, point.sites, point.log_time, made)

    return run


def lazy_point(
    bridge: Program, time: Array | None, keep: tuple[str, ...], args: tuple[Any, ...]
) -> PathPoint:
    """A point whose velocity is found when it is asked for: not to be taken out of a trace."""
    given = {} if time is None else {"t": jnp.asarray(time)}
    trace = ppgen.simulate(fixing(bridge, given, ("x0", "x1", "t", *keep)))(*args)
    sites = trace.choices | trace.value[1]
    if "t" not in sites:
        raise _no_time()
    others = {name: value for name, value in trace.choices.items() if name != "t"}

    def at(t: Array) -> PyTree[Array]:
        return ppgen.assess(fixing(bridge, {"t": t}))(others, *args).value[0]

    def velocity() -> PyTree[Array]:
        t = sites["t"]
        if not jnp.issubdtype(t.dtype, jnp.floating):
            raise _no_time()
        all_floats(trace.value[0])
        if not any(depends(at, t)):
            raise PathError(
                "the path does not depend on t: its other sites are held fixed while t changes",
                site="t",
                instead=_FROZEN,
            )
        return jax.jvp(at, (t,), (jnp.ones_like(t),))[1]

    return PathPoint(trace.value[0], sites["t"], sites, trace.log_probs["t"], velocity)


def _no_time() -> PathError:
    return PathError(
        "the bridge has no site for a continuous time",
        site="t",
        instead='t = numpyro.sample("t", dist.Uniform())',
    )
