"""Noise levels of a diffusion, and which of them a sampler visits.

A schedule is an array of log ᾱ_0, ..., log ᾱ_T, with ᾱ_0 = 1: an image x_0 has become x_t ~ N(√ᾱ_t
x_0, (1 − ᾱ_t) I) at level t. The logarithm keeps 1 − ᾱ_t exact where ᾱ_t is close to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

from ppgen.inference.paths._errors import ScheduleError


def linear_schedule(
    levels: int = 1000, *, first: float = 0.1, last: float = 20.0
) -> Float[Array, " {levels}+1"]:
    """The schedule whose β_t = 1 − ᾱ_t / ᾱ_{t−1} rises linearly.

    Args:
        levels: T, the number of levels with noise.
        first: T β_1. The default is β_1 = 1e-4 at T = 1000, and gives about the same chain for
            other T.
        last: T β_T, smaller than T. The default is β_T = .02 at T = 1000.

    Returns:
        log ᾱ_0 = 0, log ᾱ_1, ..., log ᾱ_T.

    Raises:
        ScheduleError: Some β_t is not between 0 and 1.

    References:
        Ho, Jain, Abbeel. Denoising diffusion probabilistic models. NeurIPS 2020.

    Examples:
        >>> import jax.numpy as jnp
        >>> schedule = linear_schedule(1000)
        >>> print(schedule.shape, f"{jnp.exp(schedule[-1]):.1e}")
        (1001,) 4.0e-05
    """
    betas = np.linspace(first, last, levels) / levels
    if not ((betas > 0) & (betas < 1)).all():
        raise ScheduleError(
            f"{levels} levels make β from {betas[0]:.3g} to {betas[-1]:.3g}, but it must be "
            f"between 0 and 1: take more levels than {last:g}, or a smaller `last`"
        )
    return jnp.asarray(np.concatenate([[0.0], np.cumsum(np.log1p(-betas))]))


def uniform_times(levels: int, count: int) -> Int[np.ndarray, " {count}"]:
    """Evenly spaced levels up to the last one, T, for a sampler.

    Args:
        levels: T, the number of levels of the schedule.
        count: How many to visit, at most T.

    Returns:
        Increasing levels t_1 < ... < t_n = T.

    Examples:
        >>> print(uniform_times(1000, 5))
        [ 200  400  600  800 1000]
    """
    _check(levels, count)
    return np.rint(np.arange(1, count + 1) * levels / count).astype(int)


def quadratic_times(levels: int, count: int) -> Int[np.ndarray, " {count}"]:
    """Quadratically spaced levels up to .8 T: closer to each other where noise is low.

    Near zero, squares round to equal levels. Duplicates are moved to the next free level, so that
    there are always `count` different levels.

    Args:
        levels: T, the number of levels of the schedule.
        count: How many to visit, at most T.

    Returns:
        Increasing levels t_1 < ... < t_n.

    References:
        Song, Meng, Ermon. Denoising diffusion implicit models. ICLR 2021, appendix D.2.

    Examples:
        >>> print(quadratic_times(1000, 5), quadratic_times(1000, 100)[:4])
        [  1  51 201 451 801] [1 2 3 4]
    """
    _check(levels, count)
    ideal = np.linspace(0, np.sqrt(0.8 * levels), count) ** 2
    times = np.minimum(ideal.round().astype(int) + 1, levels)
    # A running maximum of t_i − i pushes duplicates up; from above, the last level bounds them.
    index = np.arange(count)
    times = np.maximum.accumulate(times - index) + index
    return np.minimum(times, levels - (count - 1) + index)


def _check(levels: int, count: int) -> None:
    if not 1 <= count <= levels:
        raise ScheduleError(f"cannot visit {count} of {levels} levels: need 1 to {levels}")


def variance_preserving(data: dist.Distribution, *, least: float = -20.0) -> Callable[[], Array]:
    r"""The path of a variance-preserving diffusion, with the log signal power as its time.

    .. math:: x_t = e^{t/2} x_1 + \sqrt{1 - e^t}\, x_0, \qquad t = \log \bar\alpha \le 0.

    So a schedule, read from its last level to its first, gives the times of a `Chain` along it.

    Args:
        data: the distribution of x₁, an event of the shape of points. Noise is N(0, I).
        least: the least time; times are uniform from there to 0.

    Returns:
        A bridge, as for `decode` and `regress`.

    Examples:
        >>> import jax.numpy as jnp, numpyro.distributions as dist
        >>> from ppgen.inference import coefficients, linear_schedule, variance_preserving
        >>> bridge = variance_preserving(dist.Normal(jnp.zeros(1), 1).to_event(1))
        >>> found = coefficients(bridge)(linear_schedule(1000)[1], jnp.zeros(1))
        >>> print(f"{found.sigma[0]:.4f}")
        0.0100
    """

    def bridge() -> Array:
        t = numpyro.sample("t", dist.Uniform(least, 0.0))
        x1 = jnp.asarray(numpyro.sample("x1", data))
        normal = dist.Normal(jnp.zeros_like(x1), 1.0).to_event(x1.ndim)
        x0 = jnp.asarray(numpyro.sample("x0", normal))
        return jnp.exp(t / 2) * x1 + jnp.sqrt(-jnp.expm1(t)) * x0

    return bridge
