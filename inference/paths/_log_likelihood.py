"""The log density of samples of a probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppgen.claims import claims
from ppgen.inference.paths._solve import integrate
from ppgen.inference.paths._structure import key_of_program


@claims(
    "exact",
    "the log density of the flow",
    but="up to the errors of the solver; with `probes`, unbiased",
)
def flow_log_density(
    fields: Callable[[Array, Any], Any],
    times: Float[Array, " n"],
    base: Callable[[Array], Float[Array, ""]],
    *,
    probes: int | None = None,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    max_steps: int | None = None,
) -> Callable[[Array], Float[Array, ""]]:
    r"""Log densities under the ODE that `solve(fields, times)` samples from, in nats.

    .. math:: \log p_1(x_1) = \log p_0(x_0) - \int_0^1 \nabla \cdot v(x_t, t)\, dt,

    along the solution that ends at x₁. *Exact* up to the errors of the solver, for the density of
    this flow, which is that of the data only if the field is exact. With `probes` it is an
    *unbiased* estimate (Hutchinson's), up to the tolerance if a `controller` adapts the steps to
    it.

    Args:
        fields: as for `solve`, with a `.velocity`.
        times: the schedule, as for sampling: from noise to data.
        base: log density where `times` begin. If the first point of a path still depends on the
            data, a standard normal is an approximation.
        probes: the number of random directions in which the divergence is estimated, fixed along
            the solution; by default it is the exact trace, at the cost of as many directions as `x`
            has elements.
        solver: as for `solve`.
        controller: as for `solve`.
        max_steps: as for `solve`.

    Returns:
        A function of one point. With `probes` it draws: call it within `ppgen.seed`.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud. Neural ordinary differential equations. NeurIPS 2018.
        Grathwohl et al. FFJORD. ICLR 2019.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist
        >>> from ppgen.inference import Fields, flow_log_density
        >>> times = jnp.linspace(0.0, 1.0, 101)
        >>> base = dist.Normal(0.0, 1.0).log_prob
        >>> log_density = flow_log_density(lambda x, t: Fields(x), times, base)
        >>> print(f"{log_density(jnp.array(1.0)):.3f}, {dist.Normal(0.0, jnp.e).log_prob(1.0):.3f}")
        -1.987, -1.987
    """

    def run(x: Float[Array, "..."]) -> Float[Array, ""]:
        if probes is None:
            basis = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
            scale = 1
        else:
            shape = (probes, *x.shape)
            basis = jax.random.rademacher(key_of_program(), shape, x.dtype)
            scale = probes

        def drift(y: tuple[Array, Array], t: Array, direction: Array) -> tuple[Array, Array]:
            v, push = jax.linearize(lambda x: fields(x, t).velocity, y[0])
            divergence = jnp.sum(jax.vmap(push)(basis) * basis) / scale
            return direction * v, direction * divergence

        start, log_volume = integrate(
            drift,
            (x, jnp.zeros((), x.dtype)),
            jnp.asarray(times, x.dtype)[::-1],
            solver=solver,
            controller=controller,
            max_steps=max_steps,
        )
        return base(start) + log_volume

    return run
