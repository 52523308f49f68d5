"""The thermodynamic variational objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen
from ppgen._log_weights import self_normalized, weighted
from ppgen.annotations import Program
from ppgen.claims import claims


@claims(
    "heuristic",
    "the log evidence",
    gradient="unbiased",
    but="a lower bound in the limit of many particles, and for the single temperature 0",
)
def tvo(
    model: Program,
    guide: Program,
    *,
    particles: int,
    temperatures: Sequence[float | int] = (0.0, 0.1, 0.3, 0.6),
) -> Callable[..., Float[Array, ""]]:
    r"""The thermodynamic variational objective, by K = `particles` draws.

    On the path :math:`\pi_\beta \propto q^{1 - \beta} p^\beta` from the guide to the posterior,
    :math:`\log p(x) = \int_0^1 E_{\pi_\beta}[\log w]\, d\beta`, and the left Riemann sum over
    `temperatures` is *a lower bound*, the ELBO for the single temperature 0. Each expectation is
    estimated with self-normalised weights :math:`\propto w_k^\beta` of the same K draws, which is
    consistent, not unbiased: at finite K the whole is *heuristic*. Its gradients are *unbiased* for
    the expectation of the returned value. Where all sites share plates, it is a sum over their
    elements, as for `iwelbo`.

    Args:
        model: As for `iwelbo`.
        guide: As for `iwelbo`.
        particles: K.
        temperatures: The left ends of the intervals of [0, 1], rising from 0.

    Returns:
        A function of the common arguments: one draw, in nats.

    Raises:
        ValueError: Temperatures that do not rise from 0 to less than 1.

    References:
        Masrani, Le, Wood. The thermodynamic variational objective. NeurIPS 2019.
    """
    edges = [*temperatures, 1.0]
    if edges[0] != 0 or any(a >= b for a, b in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"temperatures must rise from 0 to less than 1, got {temperatures}")
    draw = ppgen.importance(model, guide, particles=particles, linear=True)

    def bound(*args: Any) -> Float[Array, ""]:
        runs = draw(*args)
        log_weights = runs.log_weights
        starts = jnp.asarray(edges[:-1]).reshape(-1, *(1,) * log_weights.ndim)
        # At the temperature zero all weights are equal, those of zero included.
        weights = self_normalized(weighted(starts, log_weights[None]), axis=1)
        means = jnp.sum(weighted(weights, log_weights[None]), axis=1)
        widths = jnp.diff(jnp.asarray(edges))
        return runs.total(jnp.tensordot(widths, means, axes=1))

    return bound
