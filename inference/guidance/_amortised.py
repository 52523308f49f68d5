"""Amortised guidance: guides trained against an energy, which then sample directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.objectives import elbo


@claims("upper bound", "−log Z of the tilted law", gradient="unbiased")
def kl_to_tilted(
    guide: Program, program: Program, energy: Callable[[Any], Array]
) -> Callable[..., Float[Array, ""]]:
    r"""The divergence of a guide from a program tilted by an energy, as a loss.

    .. math:: E_{q(x)}[\log q(x) - \log p(x) + E(x)]
              = \mathrm{KL}(q \,\|\, p\, e^{-E} / Z) - \log Z.

    *Unbiased*, value and gradients. It is an *upper bound* on -log Z, attained when the guide is
    the tilted law. It is the negative ELBO of `ppgen.tilt(program, energy)`.

    Args:
        guide: draws the program's sites: a flow (flowjax's, Distrax's), say.
        program: returns the argument of the energy; it may observe.
        energy: in nats, as for `ppgen.tilt`.

    Returns:
        A function of the common arguments: one draw of the loss, in nats.

    References:
        Noé, Olsson, Köhler, Wu. Boltzmann generators. Science 2019.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import kl_to_tilted
        >>> def program():
        ...     return numpyro.sample("x", dist.Normal(0.0, 1.0))
        >>> def guide():
        ...     numpyro.sample("x", dist.Normal(0.5, 0.5**0.5))
        >>> loss = ppgen.expectation(kl_to_tilted(guide, program, lambda x: 0.5 * (x - 1) ** 2))
        >>> print(f"{loss(jax.random.key(0)):.4f}")  # -log Z, as the guide is the tilted law
        0.5966
    """
    bound = elbo(ppgen.tilt(program, energy), guide)
    return lambda *args: -bound(*args)


@claims("unbiased", "the Lagrangian", gradient="unbiased")
def lagrangian(
    objective: Callable[..., Float[Array, ""]],
    program: Program,
    moment: Callable[[Any], Array],
    bound: Any,
    *,
    equal: bool = True,
) -> Callable[..., Float[Array, ""]]:
    r"""A loss under a constraint on an expectation, with a dual variable for it.

    .. math:: L(\lambda, \theta) = \text{objective}(\theta) + \lambda^\top
              \big(E_{q_\theta}[f(x)] - c\big).

    To be *minimised* in θ and *maximised* in λ: at the saddle point :math:`E[f(x)] = c`, or at most
    c. *Unbiased*, value and gradients. With `kl_to_tilted` as the objective, the solution is the
    tilt of the program by :math:`E + \lambda^\top f`: the law of least relative entropy with these
    moments.

    Args:
        objective: a loss `(*args) -> scalar` that draws.
        program: draws and returns the argument of the moment, from the same arguments.
        moment: f, a function of what `program` returns, to a number or an array.
        bound: c, of its shape.
        equal: whether the moment must equal the bound, rather than be at most the bound. In the
            latter case the dual variable is the `softplus` of the given one, so that it is never
            negative.

    Returns:
        `(dual, *args) -> scalar`: one draw.

    Example:
        The law nearest to N(0, 1) with mean 1 is N(1, 1).

        >>> import jax, numpyro, numpyro.distributions as dist, optax, ppgen
        >>> from ppgen.inference import fit, kl_to_tilted, lagrangian
        >>> def guide(loc):
        ...     return numpyro.sample("x", dist.Normal(loc, 1.0))
        >>> nearest = kl_to_tilted(guide, lambda loc: guide(0.0), lambda x: 0.0 * x)
        >>> loss = lagrangian(nearest, guide, lambda x: x, 1.0)
        >>> up = optax.chain(optax.sgd(0.1), optax.scale(-1.0))
        >>> optimizer = optax.partition({"down": optax.sgd(0.1), "up": up}, ("up", "down"))
        >>> start, key = (0.0, 0.0), jax.random.key(0)
        >>> fitted = fit(lambda p: loss(*p), start, optimizer, key=key, steps=500, draws=32)
        >>> dual, loc = fitted.params
        >>> bool(abs(loc - 1) < 0.2 and abs(dual + 1) < 0.2)
        True
    """

    def loss(dual: Any, *args: Any) -> Float[Array, ""]:
        multiplier = dual if equal else jax.nn.softplus(dual)
        gap = jnp.asarray(moment(program(*args))) - bound
        return objective(*args) + jnp.sum(multiplier * gap)

    return loss
