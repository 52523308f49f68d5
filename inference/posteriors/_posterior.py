"""Posteriors by Markov chain Monte Carlo, with NumPyro's or BlackJAX's samplers."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from numpyro.infer import MCMC, NUTS

from ppgen.annotations import Program
from ppgen.errors import DensityError
from ppgen.inference.posteriors._unconstrained import Unconstrained

_LogDensity = Callable[[Float[Array, " n"]], Float[Array, ""]]
_Drawn = tuple[Float[Array, "chains draws n"], dict[str, Array]]

# How many starting points are tried for each chain.
_STARTS = 50


class Posterior(eqx.Module):
    """Draws of Markov chains.

    Attributes:
        choices: the latent choices by site, in the space of the program, each with leading axes of
            the chains and of their draws.
        statistics: of each draw, `(chains, draws)`: `lp` (log density up to a constant, in nats,
            with respect to unconstrained space), `diverging`, `acceptance_rate`, `n_steps`.
    """

    choices: dict[str, Array]
    statistics: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        """The draws of the site `name`, of all chains one after the other."""
        x = self.choices[name]
        return x.reshape(-1, *x.shape[2:])

    def for_arviz(self) -> tuple[dict[str, Array], dict[str, Array], bool]:
        """For `to_arviz`: the draws, their statistics, and whether the first axis is of chains."""
        return self.choices, self.statistics, True


def posterior(
    program: Program,
    *,
    method: str = "nuts",
    warmup: int = 1000,
    draws: int = 1000,
    chains: int = 1,
    target_acceptance: float = 0.8,
    progress: bool = False,
    **options: Any,
) -> Callable[..., Posterior]:
    """Draw from the posterior of a program with continuous latents by the no-U-turn sampler.

    The program is any that `ppgen.log_density` takes: conditioned, tilted, with sites in
    `jax.lax.scan` or under `jax.vmap`. The sampler works on its density in unconstrained space, and
    draws are returned in the space of the program. *Approaches* the posterior as the chains get
    longer; see `to_arviz` for diagnostics.

    Args:
        program: a program that observes, or has factors.
        method: `"nuts"`, by NumPyro; or `"blackjax"`, by BlackJAX (`pip install blackjax`).
        warmup: steps of each chain that adapt the sampler and are left out.
        draws: of each chain after that.
        chains: how many, vectorised.
        target_acceptance: the acceptance rate for which the step size is adapted.
        progress: show a progress bar (NumPyro only).
        **options: passed on to `numpyro.infer.NUTS` or `blackjax.window_adaptation`.

    Returns:
        A function `(key, *args) -> Posterior`, with the program's arguments. NumPyro compiles on
        its own: do not put it under `jax.jit`.

    Raises:
        DensityError: the density of the program is itself an estimate (`marginal`, `normalize`), or
            is not finite at any starting point.
        SiteError: a discrete latent, or a support that is not known in advance.
        ImportError: BlackJAX is asked for and not installed.
        ValueError: no such method, or no draws.

    References:
        Hoffman, Gelman, *The No-U-Turn Sampler*, JMLR 2014. Phan, Pradhan, Jankowiak, *Composable
        Effects for Flexible and Accelerated Probabilistic Programming in NumPyro*, 2019.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import posterior
        >>> def model(count):
        ...     rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
        ...     numpyro.sample("count", dist.Poisson(rate), obs=count)
        >>> found = posterior(model, warmup=300, draws=2000)(jax.random.key(0), 4)
        >>> bool(abs(found["rate"].mean() - 7 / 3) < 0.2)
        True
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {sorted(_METHODS)}, not {method!r}")
    if min(warmup, draws, chains) < 1:
        raise ValueError(f"nothing to draw: {warmup=}, {draws=}, {chains=}")
    if method == "blackjax" and importlib.util.find_spec("blackjax") is None:
        raise ImportError(
            "BlackJAX is not installed. Write instead: pip install blackjax, or method='nuts'"
        )
    options = options | {"progress": progress, "target_acceptance": target_acceptance}

    def run(key: Key[Array, ""], *args: Any) -> Posterior:
        space = Unconstrained(program, *args)
        log_density = space.log_density(program, *args)
        start_key, run_key = jax.random.split(key)
        starts = jax.vmap(lambda k: _start(k, log_density, space.size))(
            jax.random.split(start_key, chains)
        )
        if not jnp.all(jnp.isfinite(jax.vmap(log_density)(starts))):
            raise DensityError(
                f"the density is not finite at any of {_STARTS} points to start from",
                instead="supports that exclude impossible values, in place of factors that do",
            )
        u, statistics = _METHODS[method](run_key, log_density, starts, warmup, draws, **options)
        return Posterior(jax.vmap(jax.vmap(space.constrain))(u), statistics)

    return run


def _start(key: Array, log_density: _LogDensity, size: int) -> Float[Array, " n"]:
    """The first point with a finite density among some that are close to the middle."""
    points = jax.random.uniform(key, (_STARTS, size), minval=-2.0, maxval=2.0)
    possible = jnp.isfinite(jax.vmap(log_density)(points))
    return points[jnp.argmax(possible)]


def _by_numpyro(
    key: Array,
    log_density: _LogDensity,
    starts: Float[Array, "chains n"],
    warmup: int,
    draws: int,
    *,
    progress: bool,
    target_acceptance: float,
    **options: Any,
) -> _Drawn:
    kernel = NUTS(
        potential_fn=lambda u: -log_density(u), target_accept_prob=target_acceptance, **options
    )
    chains = starts.shape[0]
    mcmc = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=progress,
    )
    kept = ("potential_energy", "diverging", "accept_prob", "num_steps")
    mcmc.run(key, init_params=starts if chains > 1 else starts[0], extra_fields=kept)
    extra = mcmc.get_extra_fields(group_by_chain=True)
    statistics = {
        "lp": -extra["potential_energy"],
        "diverging": extra["diverging"],
        "acceptance_rate": extra["accept_prob"],
        "n_steps": extra["num_steps"],
    }
    return mcmc.get_samples(group_by_chain=True), statistics


def _by_blackjax(
    key: Array,
    log_density: _LogDensity,
    starts: Float[Array, "chains n"],
    warmup: int,
    draws: int,
    *,
    progress: bool,
    target_acceptance: float,
    **options: Any,
) -> _Drawn:
    blackjax = importlib.import_module("blackjax")
    adaptation = blackjax.window_adaptation(
        blackjax.nuts, log_density, target_acceptance_rate=target_acceptance, **options
    )

    def chain(key: Array, start: Float[Array, " n"]) -> Any:
        warm_key, draw_key = jax.random.split(key)
        (state, parameters), _ = adaptation.run(warm_key, start, num_steps=warmup)
        step = blackjax.nuts(log_density, **parameters).step

        def body(state: Any, key: Array):
            state, info = step(key, state)
            statistics = {
                "lp": state.logdensity,
                "diverging": info.is_divergent,
                "acceptance_rate": info.acceptance_rate,
                "n_steps": info.num_integration_steps,
            }
            return state, (state.position, statistics)

        return jax.lax.scan(body, state, jax.random.split(draw_key, draws))[1]

    return jax.jit(jax.vmap(chain))(jax.random.split(key, starts.shape[0]), starts)


_METHODS = {"nuts": _by_numpyro, "blackjax": _by_blackjax}
