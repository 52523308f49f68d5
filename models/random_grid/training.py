"""The objective of random grid neural processes, and its optimisation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from ppgen.inference import Fitted, Progress, elbo, fit
from ppgen.models.parts.training import with_known_rate
from ppgen.models.random_grid.model import (
    Observations,
    grid_guide,
    observations_model,
    rgnp_guide,
    rgnp_model,
)
from ppgen.models.random_grid.process import RGNP


def equation_objective(batch: int) -> Callable[[RGNP], Float[Array, ""]]:
    """The mean of the bound over a batch of problems, each with a grid of its own.

    Args:
        batch: The number of problems.

    Returns:
        A function of an `RGNP` that draws, in nats for each problem.
    """
    bound = elbo(rgnp_model, rgnp_guide)
    return lambda rgnp: jnp.mean(jax.vmap(lambda _: bound(rgnp))(jnp.arange(batch)))


def observations_objective(
    batch: int, *, noise: float
) -> Callable[[RGNP, Observations], Float[Array, ""]]:
    """`equation_objective`, plus the mean log likelihood of noisy observations of some solutions.

    A problem that has been observed counts as much as one that is drawn for the equation.

    Args:
        batch: Problems to draw for the equation.
        noise: Standard deviation of the noise of an observation.

    Returns:
        A function of an `RGNP` and a minibatch of observed problems that draws, in nats for each
        problem: the same in expectation at any size of the minibatch.
    """
    equation = equation_objective(batch)
    per_row = jax.vmap(elbo(observations_model, grid_guide), in_axes=(None, 0, None))
    return lambda rgnp, seen: equation(rgnp) + jnp.mean(per_row(rgnp, seen, noise))


def random_grid_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam, with a rate that rises in the first twentieth of the steps, then falls along a cosine.

    Residuals of fresh networks are large. Without the rise, one run of three of Burgers' equation
    and of the cavity ended in a solution that does not depend on z.

    Args:
        learning_rate: The highest.
        steps: The steps of the whole training.
    """
    rise = max(1, steps // 20)
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, rise, max(steps, 2))
    return with_known_rate(optax.adam, rate)


def fit_random_grid(
    rgnp: RGNP,
    *,
    key: Key[Array, ""],
    steps: int = 4000,
    batch: int = 32,
    learning_rate: float = 2e-3,
    observations: Observations | None = None,
    noise: float = 0.01,
    callback: Callable[[Progress], bool | None] | None = None,
) -> Fitted:
    """Trains both networks, by `random_grid_optimizer`.

    No solution of the equation is needed, but observations of some may be given.

    Args:
        rgnp: Where to begin.
        key: Everything random follows from it.
        steps: Gradient steps.
        batch: Problems in a step, and observed problems too if there are any.
        learning_rate: The highest.
        observations: Observations of some solutions, with a leading axis of the problems.
        noise: Standard deviation of their noise.
        callback: As for `ppgen.inference.fit`.

    Returns:
        The trained `RGNP` and the history of the objective.

    Examples:
        >>> import jax
        >>> from ppgen.models.random_grid import RGNP, Poisson, fit_random_grid
        >>> rgnp = RGNP(Poisson(), points=8, width=16, key=jax.random.key(0))
        >>> fitted = fit_random_grid(rgnp, key=jax.random.key(1), steps=100, batch=4)
        >>> bool(fitted.history[-10:].mean() > fitted.history[:10].mean())
        True
    """
    optimizer = random_grid_optimizer(learning_rate, steps)
    objective, data = equation_objective(batch), {}
    if observations is not None:
        objective = observations_objective(batch, noise=noise)
        data = {"data": observations, "batch_size": min(batch, len(observations.z))}
    return fit(
        objective,
        rgnp,
        optimizer,
        key=key,
        steps=steps,
        maximize=True,
        callback=callback,
        **data,
    )
