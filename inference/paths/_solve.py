"""Samplers that solve ordinary and stochastic differential equations of a field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float

from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._structure import key_of_program


class Fields(NamedTuple):
    """The fields of a sampler, if they are not made by `decode`.

    Attributes:
        velocity: the velocity of the probability-flow ODE.
        score: the gradient of the log density; `None` if it is not known.
        exchange: the coefficient of the score in the velocity, if known: see `Coefficients`.
    """

    velocity: Float[Array, "..."]
    score: Float[Array, "..."] | None = None
    exchange: Float[Array, "..."] | None = None


def score_of(fields: Any) -> Array:
    """The score of what a field returned.

    Raises:
        PathError: there is none.
    """
    if (score := fields.score) is None:
        raise PathError(
            "a stochastic sampler needs the score",
            instead="epsilon=0, or Fields(velocity, score)",
        )
    return score


def solve(
    fields: Callable[[Array, Any], Any],
    times: Float[Array, " n"],
    *,
    epsilon: Any = 0.0,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    max_steps: int | None = None,
) -> Callable[[Array], Array]:
    r"""A sampler by diffrax, from a point at the first time to one at the last.

    .. math:: dx = (v + \epsilon s)\, dt + \sqrt{2 \epsilon}\, dW,

    with the velocity v and the score s of the path's marginals p_t. Its marginals are p_t for any
    ε(t) ≥ 0: ε = 0 is the probability-flow ODE, ε = `exchange` the reversed noising process.
    *Exact* up to the errors of fields and steps. Times may decrease, from data to noise: a
    stochastic equation is then solved in the elapsed time.

    Args:
        fields: a function of a point and a time that returns `.velocity` and (for ε > 0) `.score`,
            such as a `decode(...)`, or `Fields`.
        times: the schedule, monotone: the ends of the steps.
        epsilon: a number or a function of the time. Zero as a Python number is the ODE.
        solver: by default `diffrax.Heun()`, of second order on ODEs.
        controller: chooses the steps instead of `times`, of which only the ends then count:
            `diffrax.PIDController(rtol=1e-6, atol=1e-6)`, say. For an SDE see diffrax.
        max_steps: as many as the schedule has if there is no controller, else 4096.

    Returns:
        A function of one point. With ε > 0 it draws: call it within `ppgen.seed` or a program.

    Raises:
        PathError: on a call, if ε > 0 and there is no score.

    References:
        Song et al. Score-based generative modeling through stochastic differential equations. ICLR
        2021. Albergo, Boffi, Vanden-Eijnden. Stochastic interpolants. 2023. Kidger. On neural
        differential equations. 2021.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import Fields, solve
        >>> to_data = solve(lambda x, t: Fields(x), jnp.linspace(0.0, 1.0, 101))
        >>> print(f"{to_data(jnp.array(1.0)):.3f}")  # e
        2.718
    """
    ode = isinstance(epsilon, (int, float)) and epsilon == 0

    def amount(t: Array) -> Any:
        return epsilon(t) if callable(epsilon) else epsilon

    def run(x: Float[Array, "..."]) -> Float[Array, "..."]:
        def drift(x: Array, t: Array, direction: Array) -> Array:
            found = fields(x, t)
            moved = direction * found.velocity
            return moved if ode else moved + amount(t) * score_of(found)

        def spread(t: Array) -> Array:
            return jnp.sqrt(2 * jnp.asarray(amount(t), x.dtype))

        return integrate(
            drift,
            x,
            jnp.asarray(times, x.dtype),
            spread=None if ode else spread,
            solver=solver,
            controller=controller,
            max_steps=max_steps,
        )

    return run


def integrate(
    drift: Callable[[Any, Array, Array], Any],
    start: Any,
    times: Float[Array, " n"],
    *,
    spread: Callable[[Array], Array] | None = None,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
    max_steps: int | None,
) -> Any:
    """Solve for `drift(y, t, direction)` per unit of elapsed time.

    Elapsed time increases even if the times decrease, so that Brownian motion runs forwards.
    """
    begin, direction = times[0], jnp.sign(times[-1] - times[0])
    passed = (times - begin) * direction
    last = passed[-1]
    terms: Any = diffrax.ODETerm(lambda tau, y, _: drift(y, begin + direction * tau, direction))
    if spread is not None:
        noise = diffrax.VirtualBrownianTree(
            passed[0],
            last,
            tol=jnp.min(jnp.diff(passed)) / 2,
            shape=jax.ShapeDtypeStruct(start.shape, start.dtype),
            key=key_of_program(),
        )

        def diffusion(tau: Any, y: Any, _: Any) -> lineax.AbstractLinearOperator:
            size = spread(begin + direction * tau)
            return lineax.DiagonalLinearOperator(jnp.broadcast_to(size, y.shape))

        terms = diffrax.MultiTerm(terms, diffrax.ControlTerm(diffusion, noise))
    found = diffrax.diffeqsolve(
        terms,
        diffrax.Heun() if solver is None else solver,
        passed[0],
        last,
        None if controller is None else passed[1],
        start,
        stepsize_controller=diffrax.StepTo(passed) if controller is None else controller,
        max_steps=max_steps or (len(times) if controller is None else 4096),
        saveat=diffrax.SaveAt(t1=True),
    )
    return jax.tree.map(lambda y: y[0], found.ys)
