"""Pairs of ends that a sampler makes, and how straight its solutions are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float, Key, PyTree, Shaped

import ppgen
from ppgen.annotations import Program
from ppgen.inference.paths._chains import Chain
from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._multistep import heun
from ppgen.inference.paths._structure import fixing


def draw_pairs(
    program: Program, key: Key[Array, ""], size: int, *, batch_size: int | None = None
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Where runs of a sampler begin and where they end: rows for a bridge.

    Of a `Chain` without noise these are the pairs that its ODE joins, *as its steps solve it*: to
    train on them is to reflow, or to distil. The program may also be curated, guided without
    weights, or anything else with a site `"x0"`.

    Args:
        program: a program without arguments, with a site `"x0"`, that returns a point.
        key: for the runs.
        size: the number of runs.
        batch_size: how many run at a time; all of them by default.

    Returns:
        The values of `"x0"`, and what the program returned, with a leading axis of `size`.

    Raises:
        PathError: the program has no site `"x0"`.

    References:
        Liu, Gong, Liu. Flow straight and fast: Learning to generate and transfer data with
        rectified flow. ICLR 2023.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> from ppgen.inference import Chain, draw_pairs, heun
        >>> chain = Chain(dist.Normal(), heun(lambda x, t: 2.0 + 0 * x), jnp.linspace(0.0, 1.0, 5))
        >>> x0s, x1s = draw_pairs(chain, jax.random.key(0), 3)
        >>> bool(jnp.allclose(x1s, x0s + 2))
        True
    """

    def pair() -> tuple[PyTree[Array], PyTree[Array]]:
        trace = ppgen.simulate(fixing(program, {}, ("x0",)))()
        end, seen = trace.value
        sites = seen | trace.choices
        if "x0" not in sites:
            raise PathError(
                "the program has no site for the point where it begins",
                site="x0",
                instead='x0 = numpyro.sample("x0", prior)',
            )
        return sites["x0"], end

    def run(key: Key[Array, ""]) -> tuple[PyTree[Array], PyTree[Array]]:
        return ppgen.seed(pair)(key)

    keys = jax.random.split(key, size)
    if batch_size is None or batch_size >= size:
        return jax.jit(jax.vmap(run))(keys)
    return jax.jit(lambda keys: jax.lax.map(run, keys, batch_size=batch_size))(keys)


def paired(x0s: Shaped[ArrayLike, "..."], x1s: Shaped[ArrayLike, "..."]) -> tuple[Array, Array]:
    """In a bridge: both ends of one of these pairs, each pair as likely as the others.

    Its sites are `"pair"`, the row, and `"x0"` and `"x1"`, point masses at the ends. As noise is
    not independent of the data then, there is no score; velocities and both ends can be predicted.

    Args:
        x0s: where paths begin, such as the first of `draw_pairs`.
        x1s: where they end: as many.

    Returns:
        A row of each; within a plate, many.

    Raises:
        PathError: there are no pairs, or not as many of both.

    Example:
        Reflow, on pairs that a shift by 2 joins.

        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax
        >>> from ppgen.inference import fit, paired, regress
        >>> def bridge(x0s, x1s):
        ...     t = numpyro.sample("t", dist.Uniform())
        ...     x0, x1 = paired(x0s, x1s)
        ...     return t * x1 + (1 - t) * x0
        >>> x0s = jnp.linspace(-1.0, 1.0, 8)
        >>> objective = lambda v: regress(lambda v, x, t: v, bridge)(v, x0s, x0s + 2)
        >>> fitted = fit(objective, 0.0, optax.adam(0.1), key=jax.random.key(0), steps=200)
        >>> print(f"{fitted.params:.2f}")
        2.00
    """
    x0s, x1s = jnp.asarray(x0s), jnp.asarray(x1s)
    sizes = {rows.shape[0] if rows.ndim else 0 for rows in (x0s, x1s)}
    if len(sizes) > 1 or 0 in sizes:
        raise PathError(f"pairs of arrays of shapes {x0s.shape} and {x1s.shape}")
    row = numpyro.sample("pair", dist.DiscreteUniform(0, len(x0s) - 1))
    # The value alone matters: a density of a point mass is a constant.
    x0 = numpyro.sample("x0", dist.Delta(x0s[row], event_dim=x0s.ndim - 1))
    x1 = numpyro.sample("x1", dist.Delta(x1s[row], event_dim=x1s.ndim - 1))
    return jnp.asarray(x0), jnp.asarray(x1)


def path_variation(
    decoder: Callable[[Array, Any], Any],
    x0s: Float[Array, " n *event"],
    times: Float[Array, " t"],
    *,
    of: Literal["velocity", "x1"] = "velocity",
) -> Float[Array, ""]:
    r"""How far a field is from one whose ODE a single step solves; zero if it is.

    .. math:: \frac{1}{T} \int_0^T E\, \| p(x_t, t) - p^* \|^2\, dt

    along the solutions from these points. For `"velocity"` p* is the velocity that leads to the end
    in one step, :math:`(x_T - x_0) / T`: the straightness of rectified flows. For `"x1"` p is the
    expected data and p* the end: the first-order defect of rectified diffusion, which paths that
    are curved alike may have none of.

    Solutions are Heun's at `times`, and the integral is the trapezoidal rule: *exact* for fields
    that vary along no solution, else of second order.

    Args:
        decoder: as for `solve`, with a `.velocity`; for `"x1"`, with an `.x1` too.
        x0s: the points where solutions begin.
        times: from noise to data; at each of them the field has to have a value.
        of: the prediction.

    Returns:
        The mean over points, of sums of squares over their elements.

    References:
        Liu, Gong, Liu. Flow straight and fast. ICLR 2023. Wang et al. Rectified diffusion:
        Straightness is not your need in rectified flow. ICLR 2025.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import Fields, path_variation
        >>> times, x0s = jnp.linspace(0.0, 1.0, 101), jnp.ones(1)
        >>> print(f"{path_variation(lambda x, t: Fields(x), x0s, times):.3f}")  # (e - 1)(3 - e) / 2
        0.242
    """
    times = jnp.asarray(times)

    def one(x0: Array) -> Array:
        path = solution(decoder, times, x0)
        found = jax.vmap(lambda x, t: getattr(decoder(x, t), of))(path, times)
        needed = path[-1]
        if of == "velocity":
            needed = (path[-1] - path[0]) / (times[-1] - times[0])
        squares = jnp.sum(jnp.reshape((found - needed) ** 2, (len(times), -1)), axis=1)
        return jnp.trapezoid(squares, times) / (times[-1] - times[0])

    return jnp.mean(jax.vmap(one)(jnp.asarray(x0s)))


def solution(fields: Callable[[Array, Any], Any], times: Array, x0: Array) -> Array:
    """The points at all times of the ODE's solution from one of them, by Heun's method."""
    chain = Chain(dist.Delta(x0, event_dim=x0.ndim), heun(fields), times)
    return ppgen.assess(chain.path)({"x0": x0}).value
