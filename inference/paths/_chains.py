"""Samplers as programs: chains of Gaussian steps, with a site for the noise of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppgen.annotations import Program
from ppgen.inference.paths._algebra import Decoder, coefficients, ratio
from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._solve import score_of


class Step(NamedTuple):
    """One step of a chain: the next point is `mean + std * noise`.

    Attributes:
        mean: of the next point, of its shape.
        std: its standard deviation, a scalar or of its shape. The Python number 0.0 says that
            there is no noise, and no site for it.
        pull: the derivative of the mean with respect to the score, for guidance; `None` if unknown.
    """

    mean: Float[Array, "..."]
    std: Any
    pull: Any


Stepper = Callable[[Array, Array, Array], Step]


class Chain(eqx.Module):
    r"""A sampler: an initial distribution, a schedule, and a rule for its steps. Final.

    It is a program. Its sites are `"x0"`, where it begins, and, in a `jax.lax.scan`, `"noise"`, the
    standard normal noise of each step; it returns the last point. So it can be scored, tilted,
    guided, filtered, or run again with the same noise.

    Attributes:
        initial: the distribution of the first point.
        stepper: `(x, t, next) -> Step`: `euler_maruyama`, `ancestral`, `noising`, or another.
        times: the schedule, `(T + 1,)`.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import Chain, Fields, euler_maruyama
        >>> stepper = euler_maruyama(lambda x, t: Fields(0 * x, -x), epsilon=1.0)  # Langevin's
        >>> chain = Chain(dist.Normal(3.0, 0.1), stepper, jnp.linspace(0.0, 5.0, 51))
        >>> x = ppgen.seed(lambda: jax.vmap(lambda _: chain())(jnp.arange(2000)))(jax.random.key(0))
        >>> bool(abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1)
        True
    """

    initial: Any
    stepper: Stepper
    times: Float[Array, " n"]

    def intervals(self) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
        """Where each step begins and ends."""
        times = jnp.asarray(self.times)
        return times[:-1], times[1:]

    def start(self) -> Float[Array, "..."]:
        """The first point, as a program."""
        return jnp.asarray(numpyro.sample("x0", self.initial))

    def move(self, x: Float[Array, "..."], t: Any, after: Any) -> Float[Array, "..."]:
        """One step, as a program."""
        step = self.stepper(x, t, after)
        if is_silent(step):
            return step.mean
        return step.mean + step.std * numpyro.sample("noise", noise_law(x))

    def __call__(self) -> Float[Array, "..."]:
        """Run the chain: the last point. It draws."""
        body = lambda x, ts: (self.move(x, *ts), None)  # noqa: E731
        return jax.lax.scan(body, self.start(), self.intervals())[0]

    def path(self) -> Float[Array, "n ..."]:
        """Run the chain: all points, the first included. It draws."""

        def body(x: Array, ts: tuple[Array, Array]) -> tuple[Array, Array]:
            x = self.move(x, *ts)
            return x, x

        x = self.start()
        return jnp.concatenate([x[None], jax.lax.scan(body, x, self.intervals())[1]])

    def abduct(self, path: Float[Array, "n ..."]) -> dict[str, Array]:
        r"""The choices that make the chain follow a given path: its noise, solved for.

        :math:`z_k = (x_{k+1} - \text{mean}(x_k)) / \text{std}(x_k)`, *exact*. Of a path from data,
        by a chain of `noising` steps, it is the encoding of the data; scored with another chain's
        stepper, `ppgen.assess(other)(choices).value` is the replay.

        Args:
            path: points at the times of the chain.

        Returns:
            The choices `x0` and `noise`, the latter `(T, ...)`, to run `ppgen.assess(chain)` on.

        Raises:
            PathError: the steps have no noise. Where the standard deviation is zero at some times
                only, the noise there is not finite.

        References:
            Wu, De la Torre. A latent space of stochastic diffusion models for zero-shot image
            editing and guidance. ICCV 2023.
        """

        def solve(x: Array, after: Array, t: Array, s: Array) -> Array:
            step = self.stepper(x, t, s)
            if is_silent(step):
                raise PathError(
                    "a chain without noise cannot follow a given path",
                    instead="a chain with epsilon > 0; or only the first point, by solve(..., times"
                    "[::-1])",
                )
            return (after - step.mean) / step.std

        return {"x0": path[0], "noise": jax.vmap(solve)(path[:-1], path[1:], *self.intervals())}


def is_silent(step: Step) -> bool:
    """Whether a step declares that it has no noise."""
    return isinstance(step.std, (int, float)) and step.std == 0


def noise_law(x: Float[Array, "..."], shift: Any = 0.0) -> dist.Distribution:
    """Normal noise of unit variance and the shape of `x`, as one event."""
    loc = jnp.broadcast_to(jnp.asarray(shift, x.dtype), x.shape)
    return dist.Normal(loc, 1.0).to_event(x.ndim)


def euler_maruyama(fields: Callable[[Array, Any], Any], epsilon: Any = 0.0) -> Stepper:
    r"""Steps of the equation of `solve`: drift v + εs, noise √(2ε).

    The error of the final distribution is of first order in the step size.

    Args:
        fields: as for `solve`. If they have an `.exchange`, steps can be guided.
        epsilon: a number, or a function of the time; zero, as a Python number, is Euler's method
            for the ODE.

    Returns:
        A stepper for `Chain`. Times may increase or decrease.

    Raises:
        PathError: on a call, if ε > 0 and there is no score.
    """
    ode = isinstance(epsilon, (int, float)) and epsilon == 0

    def step(x: Array, t: Array, after: Array) -> Step:
        found, passed = fields(x, t), jnp.abs(after - t)
        size: Any = epsilon(t) if callable(epsilon) else epsilon
        mean = x + (after - t) * found.velocity
        if not ode:
            mean = mean + passed * size * score_of(found)
        exchange = found.exchange
        pull = None if exchange is None else (after - t) * exchange + passed * size
        return Step(mean, 0.0 if ode else jnp.sqrt(2 * size * passed), pull)

    return step


def ancestral(decoder: Decoder, eta: float = 1.0, *, large: bool = False) -> Stepper:
    r"""Steps towards data that are exact if the data given a point are known: DDPM and DDIM.

    Each step is drawn from the law of :math:`x_s` given :math:`x_t` and the expected data
    :math:`\hat x_1`. Its standard deviation κ is scaled by `eta`:

    .. math:: x_s = \alpha_s \hat x_1 + \sigma_s \mu + \sqrt{\sigma_s^2 - \kappa^2}\,
              (\hat x_0 - \mu) + \kappa \tau z.

    At `eta = 0` it is DDIM, an ODE solver, for noise of any law; else noise is N(μ, τ²).

    Args:
        decoder: from `decode`.
        eta: between 0 and 1.
        large: whether the variance of the noise is what the noising process adds from s to t: κ²
            with σ_t in place of σ_s. At `eta = 1` the large variance is optimal for normal data of
            unit variance, the small one for a single datum; the mean is the same.

    Returns:
        A stepper for `Chain`, towards data: `alpha / sigma` must increase.

    Raises:
        PathError: on a call, if `eta > 0` and noise is not normal.

    References:
        Ho, Jain, Abbeel. Denoising diffusion probabilistic models. NeurIPS 2020. Song, Meng, Ermon.
        Denoising diffusion implicit models. ICLR 2021.
    """
    ode = isinstance(eta, (int, float)) and eta == 0

    def step(x: Array, t: Array, after: Array) -> Step:
        found, to = decoder(x, t), decoder.coefficients(after, x)
        at = found.coefficients
        if ode:
            mean = to.alpha * found.x1 + to.sigma * found.x0
            kept, spread, kappa = to.sigma, 1.0, 0.0
        else:
            loc, spread = at.normal()
            # The part of the noise at t that was added since s.
            fresh = 1 - (at.alpha * to.sigma / (to.alpha * at.sigma)) ** 2
            share = eta * jnp.sqrt(jnp.maximum(fresh, 0.0))
            kappa = share * to.sigma
            kept = jnp.sqrt(jnp.maximum(to.sigma**2 - kappa**2, 0.0))
            mean = to.alpha * found.x1 + to.sigma * loc + kept * (found.x0 - loc)
            kappa = share * at.sigma if large else kappa
        pull = None
        if at.noise is not None:
            # Expected data and noise move with the score by Tweedie's formula.
            variance = at.noise[1] ** 2
            pull = variance * at.sigma * (to.alpha * ratio(at.sigma, at.alpha) - kept)
        return Step(mean, 0.0 if ode else kappa * spread, pull)

    return step


def noising(bridge: Program, args: tuple[Any, ...] = ()) -> Stepper:
    r"""Steps from data to noise: the Markov process that has the path's law at each time.

    Args:
        bridge: as for `coefficients`, with normal noise.
        args: what to call the bridge with.

    Returns:
        A stepper for `Chain`, with times at which `alpha / sigma` decreases.

    Raises:
        PathError: on a call, if noise is not normal.
    """

    def step(x: Array, t: Array, after: Array) -> Step:
        at, to = (coefficients(bridge)(s, x, *args) for s in (t, after))
        loc, scale = at.normal()
        ratio = to.alpha / at.alpha
        variance = to.sigma**2 - (ratio * at.sigma) ** 2
        mean = ratio * x + (to.sigma - ratio * at.sigma) * loc
        return Step(mean, scale * jnp.sqrt(jnp.maximum(variance, 0.0)), None)

    return step
